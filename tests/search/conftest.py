"""A made-up world for the search: cheap candidates whose size, latency and accuracy are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from karui.evaluators.measurement import Measurement
from karui.search.executor import Executor, InProcess
from karui.search.loop import SearchLoop
from karui.search.objectives import OBJECTIVES, Objective
from karui.search.outcome import Outcome
from karui.search.record import TrialRecord
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.candidate import Candidate
from karui.spaces.space import SearchSpace

BASELINE = {"size_bytes": 32_000.0, "latency_ms": 32.0, "accuracy": 0.99}


def known_outcome(candidate: Candidate) -> Outcome:
    """Size and latency by bits and channels, accuracy by what was taken away."""
    kept = 1.0 - candidate.removed_channels
    size = 1000.0 * candidate.weight_bits * kept * (1.0 - candidate.zeroed_weights)
    latency = candidate.activation_bits * kept
    accuracy = 0.99 - 0.2 / candidate.weight_bits - 0.1 * candidate.removed_channels - 0.1 * candidate.zeroed_weights
    named = (("size_bytes", size, "bytes"), ("latency_ms", latency, "ms"), ("accuracy", accuracy, "1"))
    return Outcome({name: Measurement(name, value, unit) for name, value, unit in named}, digest=candidate.key)


class Log:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.begun_keys: list[str] = []
        self.records: list[TrialRecord] = []
        self.others: list[TrialRecord] = []
        self.stages: list[tuple[int, str]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def begun(self, number: int, candidate: Candidate) -> None:
        self.begun_keys.append(candidate.key)

    def reached(self, number: int, stage: str) -> None:
        self.stages.append((number, stage))

    def ended(self, record: TrialRecord) -> None:
        self.records.append(record)

    def seen(self, record: TrialRecord) -> None:
        self.others.append(record)

    def happened(self, event: str, **details: Any) -> None:
        self.events.append((event, details))


@pytest.fixture
def small_space() -> SearchSpace:
    """24 combinations of parameters that mean 20 candidates: float32 weights have no activation bits to choose."""
    return SearchSpace(
        sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0, 0.5)),
        bits=BitsAxis(weights=(4, 8, 32), activations=(8, 32)),
    )


MakeLoop = Callable[..., SearchLoop]


@pytest.fixture
def make_loop(tmp_path: Path, small_space: SearchSpace) -> MakeLoop:
    """Return a function that opens the same study again and again, as a new process would."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def make(
        evaluate: Callable[..., Outcome] = known_outcome,
        *,
        space: SearchSpace = small_space,
        sampler: str = "random",
        objectives: tuple[Objective, ...] = OBJECTIVES,
        clock: Callable[[], float] = lambda: 0.0,
        executor: Executor | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> SearchLoop:
        study = optuna.create_study(
            storage=f"sqlite:///{tmp_path / 'study.db'}",
            study_name="made-up",
            directions=[objective.direction for objective in OBJECTIVES],
            load_if_exists=True,
        )
        return SearchLoop(
            study,
            space,
            objectives,
            BASELINE,
            executor or InProcess(evaluate),
            sampler=sampler,  # type: ignore[arg-type]
            seed=3,
            clock=clock,
            sleep=sleep,
        )

    return make
