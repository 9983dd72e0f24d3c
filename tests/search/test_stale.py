"""Trials that a killed search left running: which kills count against a candidate."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from karui.search.record import ATTEMPTS, read_records, write_begin
from karui.search.stale import queue_again


@pytest.mark.parametrize("began", [True, False])
def test_only_a_candidate_that_had_begun_is_given_up_after_so_many_kills(began: bool) -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 1})
    for _ in range(ATTEMPTS + 2):
        waiting = study.get_trials(states=(TrialState.WAITING,))
        if not waiting:
            break
        trial = study.ask()
        if began:
            write_begin(trial)
        queue_again(study, study.get_trials()[trial.number], killed=True)
    states = [record.state for record in read_records(study)]
    if began:
        assert states == ["interrupted"] * (ATTEMPTS - 1) + ["failed"]
    else:
        assert states == ["interrupted"] * (ATTEMPTS + 2) + ["waiting"]
        assert {record.kills for record in read_records(study)} == {0}
