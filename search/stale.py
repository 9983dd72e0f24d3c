"""Trials that nobody works on any more: brought to the end that they had reached, or queued again."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from .owners import Owners
from .record import ATTEMPTS, PROMOTED, attempts_of, has_begun, read_outcome, write_end

_STOPPED = ("duplicate", "impossible", "stopped")


def recover_stale(study: optuna.Study, owners: Owners, objectives: Sequence[str]) -> list[FrozenTrial]:
    """Take up every trial that a search has left running when it was killed; return them as they were found.

    What was measured to its end stays measured, what had failed has failed; everything else is begun again, unless
    searches have died on it ``ATTEMPTS`` times.

    Args:
        study: The study.
        owners: Tells whose a running trial is.
        objectives: Names of the values to tell, in the order of the study's directions.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    stale = [trial for trial in running if owners.is_gone(trial)]
    for trial in stale:
        outcome = read_outcome(trial)
        if outcome is not None:
            values = [outcome.measurements[name].value for name in objectives]
            study.tell(trial.number, values, skip_if_finished=True)
        elif (status := trial.user_attrs.get("status")) is not None and status != "interrupted":
            state = TrialState.PRUNED if status in _STOPPED else TrialState.FAIL
            study.tell(trial.number, state=state, skip_if_finished=True)
        else:
            queue_again(study, trial, killed=True)
    return stale


def interrupt(study: optuna.Study, trial: Trial, reason: str = "the search was stopped") -> None:
    """Queue again what this search has in flight when it is stopped, where it is still in flight."""
    frozen = study.get_trials(deepcopy=False)[trial.number]
    if frozen.state == TrialState.RUNNING:
        write_end(trial, "interrupted", "", reason)
        queue_again(study, frozen, killed=False)


def queue_again(study: optuna.Study, trial: FrozenTrial, *, killed: bool) -> None:
    """End a running trial and queue its parameters, unless searches have died on it too often.

    One that was promoted is not queued: whoever is on the front at the end of a search is promoted then.

    Args:
        study: The study.
        trial: The running trial.
        killed: Whether its search was killed: only that counts as an attempt, and only where the candidate had begun.
    """
    attempts, killed = attempts_of(trial), killed and has_begun(trial)
    if PROMOTED not in trial.user_attrs and not (killed and attempts >= ATTEMPTS):
        # What was queued with fixed parameters may have been killed before it was asked for them.
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(parameters, user_attrs={"attempts": attempts + 1 if killed else attempts})
    # Only now: killed in between, the search leaves one copy too many, and that is a duplicate; never one too few.
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
