"""Several targets as one: numbers that were worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from karui.errors import TargetUnavailable
from karui.evaluators.measurement import Evaluator, Measurement
from karui.evaluators.targets.several_targets import WORST, OnTargets, chosen
from karui.spaces.artifact import Artifact

ARTIFACT = Artifact(Path("any.onnx"), "00")


class Fixed:
    """An evaluator whose reference takes so long, and which is asked for a file that takes this share of it."""

    name = "latency"

    def __init__(self, ratio: float, reference_ms: float) -> None:
        self.ratio, self.reference_ms = ratio, reference_ms

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        told = {"reference_ms": self.reference_ms, "target": "?"}
        return (
            Measurement("latency_ratio", self.ratio, "1", 0.01, 20, told),
            Measurement("latency_ms", self.ratio * self.reference_ms, "ms", 0.01 * self.reference_ms, 20, told),
        )


def evaluators(pi5: float, phone: float) -> dict[str, Evaluator]:
    return {"pi5": Fixed(pi5, 100.0), "phone": Fixed(phone, 10.0)}


def values(objective: str, pi5: float, phone: float) -> dict[str, float]:
    found = OnTargets(evaluators(pi5, phone), objective, "latency_ratio").measure(ARTIFACT)
    assert len({item.name for item in found}) == len(found)
    return {item.name: item.value for item in found}


EACH = {"latency_ratio@pi5": 0.5, "latency_ms@pi5": 50.0, "latency_ratio@phone": 0.8, "latency_ms@phone": 8.0}


@pytest.mark.parametrize(
    ("objective", "ratio", "milliseconds"), [("pi5", 0.5, 50.0), ("phone", 0.8, 8.0), (WORST, 0.8, 80.0)]
)
def test_the_objective_is_one_of_them_or_the_worst_on_the_scale_of_the_first(
    objective: str, ratio: float, milliseconds: float
) -> None:
    assert values(objective, 0.5, 0.8) == pytest.approx(EACH | {"latency_ratio": ratio, "latency_ms": milliseconds})


def test_the_worst_ranks_files_by_their_largest_ratio() -> None:
    pairs = [(0.9, 0.1), (0.2, 0.3), (0.1, 0.95), (0.5, 0.5)]
    ranked = sorted(pairs, key=lambda pair: values(WORST, *pair)["latency_ms"])
    assert ranked == sorted(pairs, key=max)


def test_every_measurement_says_on_which_target_it_was_made() -> None:
    found = OnTargets(evaluators(0.5, 0.8), WORST, "latency_ratio").measure(ARTIFACT)
    told = {item.name: item.conditions["target"] for item in found}
    assert told["latency_ratio"] == told["latency_ms"] == told["latency_ms@phone"] == "phone"
    assert told["latency_ms@pi5"] == "pi5"
    worst = next(item for item in found if item.name == "latency_ms")
    assert (worst.conditions["milliseconds_of"], worst.conditions["reference_ms"]) == ("pi5", 100.0)
    assert worst.spread == pytest.approx(1.0)
    assert worst.count == 20


def test_what_no_target_tells_is_missing_and_what_one_tells_counts() -> None:
    assert chosen({"pi5": (), "phone": ()}, WORST, "load_ratio") == ()
    assert chosen({"pi5": (), "phone": ()}, "phone", "load_ratio") == ()
    of_phone = (Measurement("load_ratio", 2.0, "1", 0.1, 4), Measurement("load_ms", 8.0, "ms", 0.4, 4))
    found = {item.name: item.value for item in chosen({"pi5": (), "phone": of_phone}, WORST, "load_ratio")}
    assert found == {"load_ratio": 2.0, "load_ms": 8.0}


def test_one_that_does_not_answer_leaves_nothing_measured() -> None:
    class Gone(Fixed):
        def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
            raise TargetUnavailable("phone is gone")

    together = OnTargets({**evaluators(0.5, 0.8), "phone": Gone(0.8, 10.0)}, "pi5", "latency_ratio")
    with pytest.raises(TargetUnavailable, match="phone is gone"):
        together.measure(ARTIFACT)
