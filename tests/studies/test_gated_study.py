"""Gates as a user meets them: in a study file, on the command line, in trials.csv and at the end of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from karui.errors import CandidateFailure, CandidateStopped, TargetUnavailable
from karui.evaluators.measurement import Measurement
from karui.evaluators.timing.machine_lock import MachineLock
from karui.search.objectives import with_bounds
from karui.search.outcome import PEERS, LearningCurve, PastTraining
from karui.search.stopping.early_stopping import PruningPolicy
from karui.search.stopping.pruning_rules import PruningRules, Rival
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.candidate import Candidate
from karui.studies.measuring.bench import Bench
from karui.studies.study_file.spec_reading import resolve_spec
from karui.studies.study_file.task_loading import load_task

from .conftest import Command, write_study

AXES = """
[sparsity]
removed_channels = [0.0, 0.25, 0.5]
zeroed_weights = [0.0]
[bits]
weights = [8, 32]
activations = [32]
[recovery]
epochs = 1
channel_multiple = 1
[latency]
max_seconds = 0.05
[bounds]
max_size = "4KB"
[gates]
audit = 0
"""


def states(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "trials.csv")
    return table[~table["state"].isin(["duplicate"])].drop_duplicates("key", keep="last")


def test_a_search_stops_what_is_too_large_and_no_gates_lets_it_train(karui_command: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path, axes=AXES)
    finished = karui_command("search", study, "--trials", 6, "--out", "gated")
    assert finished.code in (0, 1)
    table = states(Path("gated"))
    stopped = table[table["state"] == "stopped"]
    # The network has 22 KB of float32 weights; a quarter of the channels takes nearly a half, 8 bits the rest to 5 KB.
    assert set(stopped["stage"]) == {"size"}
    assert (stopped["sparsity.removed_channels"] > 0).all()
    assert stopped["reason"].str.contains("where at most 4.0 KB are allowed").all()
    assert f"gates stopped {len(stopped)} candidate" in finished.out
    assert "of 0 let through as a test, 0 reached the front" in finished.out
    assert "stopped at the gate size: an untrained proxy of" in finished.out

    # The same folder without gates: what was stopped is evaluated, and breaks the bound as the gate said.
    again = karui_command("search", study, "--trials", 6, "--out", "gated", "--no-gates")
    assert again.err == ""
    after = states(Path("gated")).set_index("key").loc[stopped["key"]]
    assert (after["state"] == "evaluated").all()
    assert (after["size_bytes"] > 4000).all()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    spec = resolve_spec(write_study(tmp_path, axes=AXES))
    task = load_task(spec.task, spec.folder, {})
    builder = Builder(task, BuildSettings(epochs=4, channel_multiple=1), tmp_path / "build")
    bench = Bench(task, builder.build(Candidate()), spec, MachineLock())
    bench.begin({"latency_ms": Measurement("latency_ms", 1.0, "ms")}, builder, tmp_path / "outcomes")
    return bench


def gates(**bounds: float) -> PruningRules:
    baseline = {"size_bytes": 1e6, "latency_ms": 1.0, "accuracy": 0.5}
    named = {"size_bytes": None, "latency_ms": None, "accuracy": None, **bounds}
    return PruningPolicy(with_bounds(named), baseline, audit=0.0).gates_for("")


CANDIDATE = Candidate(removed_channels=0.25)


def test_the_bench_measures_an_untrained_proxy_first_and_tells_how_long_it_took(bench: Bench) -> None:
    outcome = bench.evaluate(CANDIDATE, gates())
    assert [stage.stage for stage in outcome.stages] == [
        *("draft", "architecture", "recovery", "export", "packing", "size", "latency", "accuracy"),
    ]
    assert [(curve.kind, curve.epochs, curve.is_complete) for curve in outcome.curves] == [("warm", 4, True)]
    assert outcome.let_through is None
    # What is trained already has no proxy, and no curve of its own.
    rounded = bench.evaluate(Candidate(removed_channels=0.25, weight_bits=8), gates(size_bytes=1.0))
    assert (rounded.curves, rounded.stages[0].stage) == ((), "network")


@pytest.mark.parametrize(("bound", "gate"), [("size_bytes", "size"), ("latency_ms", "latency")])
def test_the_bench_stops_at_a_bound_before_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bound: str, gate: str
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing is to be built")

    monkeypatch.setattr(Builder, "build", never)
    with pytest.raises(CandidateStopped, match=rf"^{gate}: an untrained proxy of"):
        bench.evaluate(CANDIDATE, gates(**{bound: 1e-4 if bound == "latency_ms" else 1.0}))


@pytest.mark.parametrize(
    "error", [CandidateFailure("latency", "the target cannot run it"), TargetUnavailable("the target does not answer")]
)
def test_an_untrained_proxy_that_cannot_be_timed_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    measure: Callable[..., tuple[Measurement, ...]] = bench.latency.measure
    timed: list[Path] = []

    def fail_once(artifact):  # type: ignore[no-untyped-def]
        timed.append(artifact.path)
        if len(timed) == 1:
            raise error
        return measure(artifact)

    monkeypatch.setattr(bench.latency, "measure", fail_once)
    outcome = bench.evaluate(CANDIDATE, gates(latency_ms=1e-4))
    assert timed[1].name == f"{CANDIDATE.key}.onnx"
    assert outcome.measurements["latency_ms"].value > 1e-4


def test_an_untrained_proxy_whose_latency_makes_no_difference_is_not_timed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []
    measure: Callable[..., tuple[Measurement, ...]] = bench.latency.measure

    def note(artifact):  # type: ignore[no-untyped-def]
        timed.append(artifact.path.name)
        return measure(artifact)

    monkeypatch.setattr(bench.latency, "measure", note)
    bench.evaluate(CANDIDATE, gates())
    assert timed == [f"{CANDIDATE.key}.onnx"]
    beaten = replace(gates(), front=(Rival(0, 1.0, 1e-6, 0.5),))
    with pytest.raises(CandidateStopped, match=r"^front: .* dominated by trial 0"):
        bench.evaluate(Candidate(removed_channels=0.5), beaten)
    assert timed[1:] == ["untrained_proxy.onnx"]


def test_a_training_ends_at_its_first_rung_where_it_comes_to_too_little(bench: Bench, tmp_path: Path) -> None:
    past = (PastTraining(LearningCurve("warm", 4, (0.9,) * 4), 0.9),) * PEERS
    hopeless = replace(gates(), past=past, least_accuracy=2.0)
    with pytest.raises(CandidateStopped, match=r"^rung: epoch 1 of 4, .* where at least 2\.0000 is needed"):
        bench.evaluate(CANDIDATE, hopeless)
    assert not list((tmp_path / "build").rglob(f"{CANDIDATE.key}*"))
    # As a test of the gate it goes to its end, and the verdict is kept.
    outcome = bench.evaluate(CANDIDATE, replace(hopeless, tested=frozenset({"rung"})))
    assert outcome.let_through is not None
    assert outcome.let_through.gate == "rung"
    assert outcome.curves[0].is_complete
