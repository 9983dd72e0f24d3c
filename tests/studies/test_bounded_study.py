"""A small study that bounds more than its objectives, with what it measures and what it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import karui
from karui.errors import KaruiError
from karui.evaluators.targets import local
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.timing import energy_meter
from karui.evaluators.timing.energy_timing import PairEnergy
from karui.search.record import read_records
from karui.studies.storage.store import open_study

from .conftest import write_study

AXES = """
[bits]
weights = [4, 8, 32]
activations = [32]

[latency]
max_seconds = 0.02
inputs = "random"
"""


def fake_memory(target: LocalTarget, path: Path, inputs: np.ndarray) -> int:
    """As many bytes as the file has, and the batch in it: of float weights most."""
    return path.stat().st_size + inputs.nbytes


def test_candidates_that_break_a_bound_beside_the_objectives_are_not_on_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalTarget, "session_peak_bytes", fake_memory)
    energy = PairEnergy(4.0, 3.0, 0.75, 0.01, 8, "ina226")
    monkeypatch.setattr(LocalTarget, "energy_pair", lambda *_: energy)
    bounds = '\n[bounds]\nmax_memory = "0.7x"\nmax_energy = "100x"\nmax_load = "100x"\n'
    study = write_study(tmp_path, axes=AXES + bounds)
    result = karui.run_study(study, out=tmp_path / "results")
    evaluated = result.trials[result.trials["state"] == "evaluated"]
    assert len(evaluated) == 3
    limit = 0.7 * result.baseline["session_peak_bytes"].value
    assert (evaluated["feasible"] == (evaluated["size_bytes"] + 256 <= limit)).all()
    assert sorted(evaluated["feasible"]) == [False, True, True]
    assert set(result.front["bits.weights"]) <= {4, 8}
    opened = open_study(f"sqlite:///{tmp_path / 'results' / 'study.db'}", "tiny", create=False)
    for record in read_records(opened):
        if record.outcome is not None:
            assert record.outcome.measurements["energy_mj"].value == 3.0
            assert record.outcome.measurements["load_ms"].value > 0


def test_what_is_not_bounded_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nobody asked for that")

    monkeypatch.setattr(LocalTarget, "session_peak_bytes", never)
    monkeypatch.setattr(LocalTarget, "energy_pair", never)
    result = karui.run_study(write_study(tmp_path, axes=AXES), out=tmp_path / "results", trials=1)
    assert not {"session_peak_bytes", "energy_mj", "load_ms"} & set(result.baseline)


def test_a_bound_on_energy_is_refused_where_nothing_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_meter", lambda root: energy_meter.find_meter(tmp_path))
    study = write_study(tmp_path, axes=AXES + '\n[bounds]\nmax_energy = "0.5x"\n')
    with pytest.raises(KaruiError, match=r"(?s)energy of an inference cannot be measured.*take max_energy out"):
        karui.run_study(study, out=tmp_path / "results")


def test_a_study_is_searched_with_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    study = write_study(tmp_path, axes=AXES.replace("[latency]", '[latency]\nruntime = "openvino"'))
    result = karui.run_study(study, out=tmp_path / "results", trials=1)
    assert len(result.front) > 0
    assert result.baseline["latency_ms"].conditions["runtime"] == "openvino"
