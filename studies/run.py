"""From a study to what was found: the call behind ``karui search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .results.result import StudyResult as StudyResult
from .results.result import describe_values as describe_values
from .results.result import nearest_records as nearest_records
from .session import Session
from .storage.folder import RunFolder
from .storage.shared_files import open_shared_files
from .storage.store import open_study
from .study_file.spec import StudySpec
from .study_file.spec_reading import check_space, resolve_spec
from .watching.log import LoggedWatcher, SearchLog
from .watching.watcher import Watcher

if TYPE_CHECKING:
    from ..spaces.task import Task


def run_study(
    study: str | Path | StudySpec,
    *,
    task: Task | None = None,
    trials: int | None = None,
    hours: float | None = None,
    out: str | Path | None = None,
    storage: str | None = None,
    seed: int | None = None,
    data: str | Path | None = None,
    workers: int | None = None,
    cache: str | Path | None = None,
    artifacts: str | Path | None = None,
    gates: bool = True,
    watcher: Watcher | None = None,
) -> StudyResult:
    """Search a study, or go on with it, and re-measure its front.

    Args:
        study: Path of a study file, name of a bundled study, or a specification made in Python.
        task: The task itself, instead of the one that the study names.
        trials: Candidates to evaluate in all, instead of what the study says.
        hours: Longest time of this run, instead of what the study says.
        out: Results folder; ``runs/<name>`` where left out.
        storage: SQLAlchemy URL of Optuna's storage; ``study.db`` in the results folder where left out.
        seed: Seed, instead of what the study says.
        data: Folder of the data, handed to the task's function as ``data_dir``.
        workers: Processes that make and measure candidates, instead of what the study says; 0 for none, which is also
            what a task that is given itself has where nothing is said here.
        cache: Folder of trained networks that studies share, instead of what the study says.
        artifacts: Folder that several machines share, or fsspec URL, where the files of all candidates are kept,
            instead of what the study says.
        gates: Whether candidates are stopped as the study says; False to evaluate every one to its end.
        watcher: Is told how it goes.

    Raises:
        KaruiError: On anything the user can put right; what was found before is kept.
        KeyboardInterrupt: When interrupted; the trials so far are kept and ``trials.csv`` is written.
    """
    if task is not None and workers is None:
        workers = 0  # an object made in a script or a notebook need not be one that another process can have
    spec = resolve_spec(
        study,
        trials=trials,
        hours=hours,
        seed=seed,
        data=data,
        workers=workers,
        cache=cache,
        artifacts=artifacts,
        gates=gates,
    )
    check_space(spec, spec.name)
    # whole, since code of the task's may change the folder that it runs in
    folder = RunFolder((Path(out) if out is not None else Path("runs") / spec.name).absolute())
    folder.prepare()
    files = open_shared_files(spec.artifacts, spec.folder)
    if files is not None:
        files.check()
    storage = storage or folder.own_storage
    watcher = LoggedWatcher(watcher or Watcher(), SearchLog(folder.log))
    with folder.alone("storage", lambda: None):  # two searches that make one database at once would be in its way
        opened = open_study(storage, spec.name, create=True, objectives=spec.objectives())
    return Session(spec, folder, opened, storage, watcher, files).run(task)
