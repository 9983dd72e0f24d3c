"""Optuna's storage in a database, which reads a whole study in a fraction of the time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import DAMAGED


class QuickStorage(RDBStorage):
    """Optuna's storage, with a faster way to read all trials of a study, which is done where one is opened.

    Optuna makes an object of every parameter, value and attribute, and reads each parameter's distribution anew: eight
    seconds for ten thousand trials. Here they are plain rows, and equal distributions are read once. Whatever else is
    asked for, Optuna answers itself; were its inner method no longer called so, it would do all, at its own pace.
    """

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        if states is not None or trial_id_greater_than > -1:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        with Session(self.engine) as session:
            with told_as_damage("its trials"):
                found = _read_trials(session, study_id)
            # A study that is missing is Optuna's to complain of.
            return found or super()._get_trials(study_id, None, set(), -1)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return one trial."""
        with told_as_damage(f"the trial of id {trial_id}"):
            return super().get_trial(trial_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return what is noted of a study."""
        with told_as_damage("its attributes"):
            return super().get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return what Optuna notes of a study."""
        with told_as_damage("its attributes"):
            return super().get_study_system_attrs(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions of a study's objectives."""
        with told_as_damage("its directions"):
            return super().get_study_directions(study_id)


@contextmanager
def told_as_damage(what: str) -> Iterator[None]:
    """Turn what it raises to read entries that Optuna did not write so into an error that is told as the storage's."""
    try:
        yield
    except (*DAMAGED, AssertionError) as error:  # Optuna asserts that its tables hold what it has put there
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise StorageInternalError(f"{what} cannot be read: {told}") from error


def _read_trials(session: Session, study_id: int) -> list[FrozenTrial]:
    """Return all trials of a study in the order of their ids, as Optuna would."""
    # Trials first: what one that has ended holds was written before, so that what is read next holds all of it.
    query = select(models.TrialModel).where(models.TrialModel.study_id == study_id)
    trials: Sequence[Any] = session.scalars(query.order_by(models.TrialModel.trial_id)).all()
    parameters, values, user, system, steps = (
        _rows_by_trial(session, study_id, model, columns) for model, columns in _TABLES
    )
    read = _parameter_reader()
    found = []
    for trial in trials:
        key = trial.trial_id
        own = {name: read(text, stored) for _, name, text, stored in parameters[key]}
        found.append(
            FrozenTrial(
                number=trial.number,
                state=trial.state,
                value=None,
                values=_values_of(values[key]),
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
                params={name: value for name, (_, value) in own.items()},
                distributions={name: distribution for name, (distribution, _) in own.items()},
                user_attrs={name: json.loads(text) for _, name, text in user[key]},
                system_attrs={name: json.loads(text) for _, name, text in system[key]},
                intermediate_values={step: _step_value(value, kind) for _, step, value, kind in steps[key]},
                trial_id=key,
            )
        )
    return found


_TABLES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (models.TrialParamModel, ("param_name", "distribution_json", "param_value")),
    (models.TrialValueModel, ("objective", "value", "value_type")),
    (models.TrialUserAttributeModel, ("key", "value_json")),
    (models.TrialSystemAttributeModel, ("key", "value_json")),
    (models.TrialIntermediateValueModel, ("step", "intermediate_value", "intermediate_value_type")),
)
_step_value = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value


def _rows_by_trial(
    session: Session, study_id: int, model: Any, columns: tuple[str, ...]
) -> defaultdict[int, list[Any]]:
    """Return what a table holds of a study's trials, by trial, in the order it was written."""
    wanted = [getattr(model, column) for column in ("trial_id", *columns)]
    query = select(*wanted).join(models.TrialModel).where(models.TrialModel.study_id == study_id)
    rows: defaultdict[int, list[Any]] = defaultdict(list)
    for row in session.execute(query.order_by(*model.__table__.primary_key)):
        rows[row[0]].append(row)
    return rows


def _parameter_reader() -> Callable[[str, float], tuple[BaseDistribution, Any]]:
    """Return what maps a distribution as text, and a value as it is stored, to the distribution and the value."""
    distribution_of = cache(json_to_distribution)

    @cache
    def read(text: str, stored: float) -> tuple[BaseDistribution, Any]:
        distribution = distribution_of(text)
        return distribution, distribution.to_external_repr(stored)

    return read


def _values_of(rows: list[Any]) -> list[float] | None:
    in_order = sorted(rows, key=lambda row: int(row[1]))
    return [models.TrialValueModel.stored_repr_to_value(value, kind) for _, _, value, kind in in_order] or None
