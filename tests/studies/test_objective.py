"""``karui.Objective`` in plain Optuna: a real study in a few lines, and one shared by two processes on a server."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import karui
from karui.errors import KaruiError
from karui.search.objectives import OBJECTIVES
from karui.search.record import read_records
from karui.studies.results.tables import trials_table
from karui.studies.storage.store import open_study
from karui.studies.storage.study_notes import read_baseline

from .conftest import write_study

FEW = """
[bits]
weights = [4, 32]
activations = [32]

[latency]
max_seconds = 0.02

[bounds]
max_size = "0.5x"
"""


def test_a_real_study_is_an_objective_of_plain_optuna(tmp_path: Path) -> None:
    objective = karui.Objective(write_study(tmp_path, axes=FEW), out=tmp_path / "results")
    storage = f"sqlite:///{tmp_path / 'mine.db'}"
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(storage=storage, study_name="mine", directions=objective.directions, sampler=sampler)
    called: list[int] = []
    study.optimize(objective, n_trials=5, callbacks=[lambda _, trial: called.append(trial.number)])
    assert called == [0, 1, 2, 3, 4]
    records = read_records(study)
    evaluated = [record for record in records if record.state == "evaluated"]
    # Two widths of weights are two files, whoever asks how often.
    assert sorted(record.candidate.weight_bits for record in evaluated if record.candidate) == [4, 32]
    assert {record.state for record in records} == {"evaluated", "duplicate"}
    baseline = read_baseline(study)
    assert baseline is not None
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        (violation,) = trial.constraints.values()
        assert violation == pytest.approx(trial.values[0] / (0.5 * baseline[1]["size_bytes"].value) - 1)
    table = trials_table(read_records(open_study(storage, "mine", create=False)))
    assert list(table["state"]) == [record.state for record in records]
    # Another process would have it by its pickle, and finds all that is known already.
    again = pickle.loads(pickle.dumps(objective))
    study.optimize(again, n_trials=2)
    assert [record.state for record in read_records(study)[5:]] == ["duplicate", "duplicate"]


def test_a_study_of_other_directions_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    objective = karui.Objective(write_study(tmp_path, axes=FEW), out=tmp_path / "results")
    with pytest.raises(KaruiError, match="other directions"):
        optuna.create_study().optimize(objective, n_trials=1)
    assert not (tmp_path / "results").exists()


OPTIMIZE = """
import os, sys, time
sys.path.insert(0, {folder!r})
import optuna
from test_cooperation import BASELINE, SPACE, outcome_of
from karui.search.executor import InProcess
from karui.search.trial_objective import TrialObjective
from karui.search.objectives import OBJECTIVES

def evaluate(candidate):
    with open({diary!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{candidate.key}}\\n")
    time.sleep(0.02)
    return outcome_of(candidate)

study = optuna.load_study(storage={storage!r}, study_name="shared", sampler=optuna.samplers.RandomSampler(seed=3))
print("ready", flush=True)
sys.stdin.readline()
study.optimize(TrialObjective(SPACE, OBJECTIVES, BASELINE, InProcess(evaluate)), n_trials=30)
"""


@pytest.mark.slow
def test_two_processes_of_plain_optuna_share_a_server_and_try_nothing_twice(postgres_url: str, tmp_path: Path) -> None:
    directions = [objective.direction for objective in OBJECTIVES]
    study = optuna.create_study(storage=postgres_url, study_name="shared", directions=directions)
    code = OPTIMIZE.format(folder=str(Path(__file__).parent), diary=str(tmp_path / "diary"), storage=postgres_url)
    code = code.replace("from test_cooperation", f"from {__name__.replace('test_objective', 'test_cooperation')}")
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both suggest the same, since they have the same seed
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.wait(300) == 0
    tried = [line.split() for line in (tmp_path / "diary").read_text().splitlines()]
    assert len({pid for pid, _ in tried}) == 2
    keys = [key for _, key in tried]
    assert len(keys) == len(set(keys))
    records = read_records(study)
    assert sorted(record.key for record in records if record.state == "evaluated") == sorted(keys)
    assert {record.state for record in records} <= {"evaluated", "duplicate", "waiting"}
