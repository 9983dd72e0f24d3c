"""What was measured is kept on disk: found again under the same conditions only, and never half."""

from __future__ import annotations

from pathlib import Path

import pytest

from karui.evaluators.measurement import Measurement
from karui.search.outcome import Outcome
from karui.spaces.artifact import StageRecord
from karui.studies.kept_outcomes import KeptOutcomes

CONDITIONS = {"baseline": "ab", "ms": 3.5, "study": {"bits": {"weights": [4, 32]}}}
OUTCOME = Outcome(
    {"latency_ms": Measurement("latency_ms", 2.5, "ms", 0.1, 20, {"threads": 1})},
    digest="cd" * 32,
    stages=(StageRecord("recovery", 1.5, cached=False), StageRecord("latency", 0.25, cached=True)),
)


def test_what_was_kept_is_found_by_another_process(tmp_path: Path) -> None:
    assert KeptOutcomes(tmp_path, CONDITIONS).get(OUTCOME.digest) is None
    KeptOutcomes(tmp_path, CONDITIONS).keep(OUTCOME)
    found = KeptOutcomes(tmp_path, dict(reversed(CONDITIONS.items())))
    assert found.get(OUTCOME.digest) == OUTCOME
    assert found.get("00") is None


@pytest.mark.parametrize("changed", [{"baseline": "ef"}, {"ms": 3.6}, {"study": {"bits": {"weights": [4]}}}])
def test_what_was_measured_under_other_conditions_is_not(tmp_path: Path, changed: dict[str, object]) -> None:
    KeptOutcomes(tmp_path, CONDITIONS).keep(OUTCOME)
    assert KeptOutcomes(tmp_path, {**CONDITIONS, **changed}).get(OUTCOME.digest) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"digest": "00"}', "null"])
def test_what_cannot_be_read_is_measured_again(tmp_path: Path, content: str) -> None:
    kept = KeptOutcomes(tmp_path, CONDITIONS)
    kept.keep(OUTCOME)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(content)
    assert kept.get(OUTCOME.digest) is None
    kept.keep(OUTCOME)
    assert kept.get(OUTCOME.digest) == OUTCOME
