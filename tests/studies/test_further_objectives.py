"""Small studies with objectives beyond size, latency and accuracy: searched, kept, shown, compared and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import karui
from karui.errors import KaruiError, OutputError
from karui.evaluators.targets import local
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.timing import energy_meter
from karui.evaluators.timing.energy_timing import PairEnergy
from karui.search.objectives import LIMITS, OBJECTIVES, latency_on
from karui.search.statistics.front import knee_shares
from karui.studies.choosing.choose import choose
from karui.studies.choosing.explain import explain_choice
from karui.studies.comparing.compare import compare_runs, load_run
from karui.studies.report.write import write_report
from karui.studies.results.read import find_results, read_objectives
from karui.studies.results.result import StudyResult
from karui.studies.storage.store import open_study

from .conftest import Command, write_study

AXES = """
[bits]
weights = [3, 4, 8, 16, 32]
activations = [32]

[latency]
max_seconds = 0.02
inputs = "random"
"""
BOUND = '\n[bounds]\nmax_energy = "0.99x"\n'
FURTHER = 'further_objectives = ["memory", "energy"]\n'
TRIPLE = ["size_bytes", "latency_ms", "accuracy"]
ALL = [*TRIPLE, "session_peak_bytes", "energy_mj"]


def fake_memory(target: LocalTarget, path: Path, inputs: np.ndarray) -> int:
    """The less the larger the file is, so that none is dominated by a smaller one."""
    return 10_000_000 - path.stat().st_size


def fake_energy(target: LocalTarget, reference: Path, candidate: Path, *_: Any) -> PairEnergy:
    """As much as the file is large, in steps."""
    ratio = (1 + candidate.stat().st_size // 10_000) / (1 + reference.stat().st_size // 10_000)
    return PairEnergy(4.0, 4.0 * ratio, ratio, 0.01, 8, "ina226")


@pytest.fixture(scope="module", autouse=True)
def _in_a_hurry() -> Iterator[None]:
    """The memory of loading takes a process for each file, and is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalTarget, "load_peak_bytes", lambda *_: None)
        yield


@dataclass(frozen=True)
class Searched:
    """A study that was searched to its end."""

    folder: Path
    result: StudyResult

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def again(self, **changed: Any) -> StudyResult:
        """Search on, with another study file where parts of it are given."""
        return run_metered(write_study(self.folder, **{"head": FURTHER, "axes": AXES + BOUND, **changed}), self.out)


def run_metered(study: Path, out: Path) -> StudyResult:
    """Search on a target that tells memory and energy."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalTarget, "session_peak_bytes", fake_memory)
        patched.setattr(LocalTarget, "energy_pair", fake_energy)
        return karui.run_study(study, out=out)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, _in_a_hurry: None) -> Searched:
    folder = tmp_path_factory.mktemp("further")
    study = write_study(folder, head=FURTHER, axes=AXES + BOUND)
    return Searched(folder, run_metered(study, folder / "out"))


def undominated(rows: pd.DataFrame, names: list[str]) -> set[int]:
    """Brute force: the trials that no other is as good as in all of these, and better than in one."""
    signs = [-1.0 if name == "accuracy" else 1.0 for name in names]
    losses = {int(row["trial"]): np.multiply(row[names].to_numpy(float), signs) for _, row in rows.iterrows()}
    return {
        trial
        for trial, own in losses.items()
        if not any((other <= own).all() and (other < own).any() for other in losses.values())
    }


def evaluated(result: StudyResult) -> pd.DataFrame:
    return result.trials[result.trials["state"] == "evaluated"]


def test_the_front_counts_further_objectives(searched: Searched) -> None:
    result, rows = searched.result, evaluated(searched.result)
    assert len(rows) == 5
    assert (rows["session_peak_bytes"] == 10_000_000 - rows["size_bytes"]).all()
    assert 0 < rows["feasible"].sum() < 5, "a further objective may have a bound as well"
    # None of these files is dominated, since a larger one needs less memory.
    feasible = rows[rows["feasible"].astype(bool)]
    assert set(feasible["trial"][feasible["on_front"]]) == undominated(feasible, ALL) == set(feasible["trial"])
    assert set(feasible["trial"]) <= set(result.front["trial"])
    assert {"session_peak_bytes", "energy_mj", "energy_mj_spread"} <= set(karui.load_front(searched.out).columns)


def test_the_storage_keeps_further_objectives(searched: Searched) -> None:
    rows, out = evaluated(searched.result), searched.out
    assert [objective.name for objective in searched.result.objectives] == ALL
    stored = open_study(f"sqlite:///{out / 'study.db'}", "tiny", create=False)
    assert stored.metric_names == ALL
    assert [direction.name for direction in stored.directions] == [
        "MINIMIZE",
        "MINIMIZE",
        "MAXIMIZE",
        *["MINIMIZE"] * 2,
    ]
    for trial in stored.get_trials(deepcopy=False):
        if trial.values is not None:
            assert trial.values == rows[rows["trial"] == trial.number][ALL].to_numpy()[0].tolist()
    described = json.loads(next((out / "front").glob("*.json")).read_text())
    assert described["objectives"] == ALL
    assert read_objectives(find_results(out)) == (*OBJECTIVES, LIMITS[1], LIMITS[2])


def test_further_objectives_are_shown(searched: Searched, tmp_path: Path, karui_command: Command) -> None:
    text = f"memory {searched.result.front['session_peak_bytes'].iloc[0] / 1e6:.1f} MB"
    for command in ("watch", "front"):
        shown = karui_command(command, searched.out, *(["--once"] if command == "watch" else [])).out
        assert text in shown
        assert " mJ; " in shown
    page = write_report(searched.out, to=tmp_path / "page.html")[0].read_text(encoding="utf-8")
    assert '"title":"memory"' in page.replace('": "', '":"')
    assert "Memory of a session, highest" in page
    assert "energy_mj &lt;= " in page, "the bound on a further objective is told"


def test_the_knee_counts_further_objectives(searched: Searched) -> None:
    choice = choose(searched.out, prefer="knee")
    names = list(ALL)
    shares = knee_shares(choice.front[names].to_numpy(float), (*OBJECTIVES, LIMITS[1], LIMITS[2]))
    nearest = int(np.argmin((shares**2).sum(axis=1)))
    assert choice.row["point"] == choice.front["point"].iloc[nearest]
    told = explain_choice(choice)
    assert f"in accuracy, {shares[nearest, 3]:.2f} in memory, {shares[nearest, 4]:.2f} in energy" in told[0]
    assert "All 5 objectives count alike" in told[1]


def test_load_is_a_further_objective(tmp_path: Path) -> None:
    study = write_study(tmp_path, head='further_objectives = ["load"]\n', axes=AXES)
    result = karui.run_study(study, out=tmp_path / "out", trials=2)
    rows = evaluated(result)
    assert (rows["load_ms"] > 0).all()
    assert set(rows["trial"][rows["on_front"]]) == undominated(rows, [*TRIPLE, "load_ms"])


def test_a_study_goes_on_with_the_same_objectives_only(searched: Searched) -> None:
    told = r"(?s)has other objectives.*latency_ms, accuracy\n.*energy_mj\n.*another --out or"
    with pytest.raises(OutputError, match=told):
        searched.again(head="")
    assert evaluated(searched.again())["trial"].tolist() == evaluated(searched.result)["trial"].tolist()


def test_energy_is_refused_where_nothing_tells_it_and_may_be_taken_out_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "find_meter", lambda root: energy_meter.find_meter(tmp_path))
    study = write_study(tmp_path, head='further_objectives = ["energy"]\n', axes=AXES)
    with pytest.raises(KaruiError, match=r"(?s)energy of an inference cannot be measured.*energy out of further_obj"):
        karui.run_study(study, out=tmp_path / "out")
    write_study(tmp_path, axes=AXES)
    result = karui.run_study(study, out=tmp_path / "out", trials=1)
    assert len(result.front) == 1
    assert result.objectives == OBJECTIVES


def test_what_a_target_does_not_tell_is_no_objective(tmp_path: Path) -> None:
    program = tmp_path / "measure"
    program.write_text('#!/bin/sh\ncase "$*" in *--load-only*) echo "{}";; *) echo "{\\"latency_ms\\": 1.5}";; esac\n')
    program.chmod(0o755)
    target = f'\n[[target]]\nname = "phone"\nkind = "command"\ncommand = ["{program}"]\n'
    study = write_study(tmp_path, head='further_objectives = ["load"]\n', axes=AXES + target)
    with pytest.raises(KaruiError, match=r"(?s)load_ms is searched for.*cannot be measured.*out of further_objectives"):
        karui.run_study(study, out=tmp_path / "out")


TWO = """objective = "each"

[[target]]
name = "one"
kind = "local"
threads = 1

[[target]]
name = "two"
kind = "local"
threads = 2
"""


def test_each_target_is_an_objective_of_its_own(tmp_path: Path) -> None:
    out, study = tmp_path / "out", write_study(tmp_path, axes=AXES + TWO)
    result = karui.run_study(study, out=out, trials=3)
    rows, names = evaluated(result), [*TRIPLE, "latency_ms@two"]
    assert len(rows) == 3
    for table in (rows, result.front):
        assert table["latency_ms"].tolist() == table["latency_ms@one"].tolist(), "the first stands for latency"
        assert table["latency_ms"].tolist() != table["latency_ms@two"].tolist()
    assert set(rows["trial"][rows["on_front"]]) == undominated(rows, names)
    assert result.objectives == (*OBJECTIVES, latency_on("two"))
    stored = open_study(f"sqlite:///{out / 'study.db'}", "tiny", create=False)
    assert stored.metric_names == names
    again = result.front.set_index("trial")
    holding = set(again.index[again["mark"] == "holds"])
    # accuracy is that of validation: the test split has no say in which of several points is the better one
    assert holding <= undominated(result.front, names)
    told = explain_choice(choose(out))[0]
    assert "latency@two" in told or "the only point" in told  # of one alone there is nothing to weigh


def test_runs_with_other_objectives_are_compared_by_what_both_have(searched: Searched, tmp_path: Path) -> None:
    karui.run_study(write_study(tmp_path, axes=AXES), out=tmp_path / "less", trials=1)
    more, less = load_run(searched.out), load_run(tmp_path / "less")
    mixed = compare_runs(more, less)
    assert any("the one for memory, energy, the other for nothing more" in note for note in mixed.notes)
    alike = compare_runs(more, more)
    assert any("count memory, energy as well" in note for note in alike.notes)
    assert alike.first.covered_share == 1.0
    assert not any("memory" in note for note in compare_runs(less, less).notes)
