"""A study as an ordinary Optuna objective, for a study, a sampler and a loop of the user's own."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import Trial

from ..search.trial_objective import TrialObjective, check_directions
from .handed_over import check_storage
from .session import Session
from .storage.folder import RunFolder
from .storage.shared_files import open_shared_files
from .storage.stored_objectives import name_values
from .study_file.spec import StudySpec
from .study_file.spec_reading import check_space, load_spec
from .watching.log import LoggedWatcher, SearchLog
from .watching.watcher import Watcher

IN_MEMORY = "sqlite:///:memory:"
"""Where a study lies that no other process has."""

if TYPE_CHECKING:
    from ..search.objectives import Direction
    from ..spaces.task import Task


class Objective:
    """Suggests a candidate of a study's space, makes and measures it, and returns its values: for Optuna's own loop.

    ``study.optimize(karui.Objective(spec, task), n_trials=50)``, with whatever sampler, callbacks and storage, in one
    process or in several. The first call loads the task and measures the baseline. A candidate that was tried before is
    pruned as a duplicate, one that a gate stops is pruned, one that fails of itself is a failed trial. A bound is a
    constraint of the trial. A trial leaves behind what those of ``karui search`` do: tables, report and pick read it.

    Args:
        spec: A specification made in Python, the path of a study file, or the name of a bundled study.
        task: The task itself, instead of the one that the study names.
        out: Results folder; ``runs/<name>`` where left out.
        storage: SQLAlchemy URL of the storage that the Optuna study lies in; where searches of several results folders
            share it, one of them at a time then prepares the baseline.
        watcher: Is told how it goes.

    Raises:
        KaruiError: Where the study cannot be read.
    """

    _objective: TrialObjective | None
    _lock: Lock

    def __init__(
        self,
        spec: str | Path | StudySpec,
        task: Task | None = None,
        *,
        out: str | Path | None = None,
        storage: str | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.spec = spec if isinstance(spec, StudySpec) else load_spec(spec)
        check_space(self.spec, self.spec.name)
        self._task = task
        self._folder = RunFolder((Path(out) if out is not None else Path("runs") / self.spec.name).absolute())
        self._storage = storage
        self._watcher = watcher
        self._begin()

    @property
    def directions(self) -> list[Direction]:
        """The directions that the Optuna study has to have."""
        return [objective.direction for objective in self.spec.objectives()]

    def __call__(self, trial: Trial) -> tuple[float, ...]:
        """Return the values of a trial, in the order of :attr:`directions`; NaN where its candidate failed.

        Raises:
            TrialPruned: Where the candidate was tried before, is impossible, or was stopped early.
            KaruiError: On anything the user can put right; the candidate is queued again.
        """
        with self._lock:
            if self._objective is None:
                self._objective = self._prepared(trial.study)
        return self._objective(trial)

    def _prepared(self, study: optuna.Study) -> TrialObjective:
        check_directions(study, self.spec.objectives())
        if self._storage is not None:
            check_storage(study, self._storage)
        self._folder.prepare()
        files = open_shared_files(self.spec.artifacts, self.spec.folder)
        if files is not None:
            files.check()
        watcher = LoggedWatcher(self._watcher or Watcher(), SearchLog(self._folder.log))
        if study.metric_names is None:
            name_values(study, self.spec.objectives())
        session = Session(self.spec, self._folder, study, self._storage or IN_MEMORY, watcher, files)
        return session.objective(self._task)

    def _begin(self) -> None:
        self._objective = None
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process makes anew."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_objective", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()
