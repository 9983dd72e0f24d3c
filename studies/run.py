"""From a study to what was found: the call behind ``karui search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from .handed_over import check_callbacks, check_sampler, check_study
from .results.result import StudyResult as StudyResult
from .results.result import describe_values as describe_values
from .results.result import nearest_records as nearest_records
from .session import Session
from .storage.folder import RunFolder
from .storage.shared_files import open_shared_files
from .storage.store import open_study
from .study_file.spec import StudySpec
from .study_file.spec_reading import SpecChanges, check_space, resolve_spec
from .watching.log import LoggedWatcher, SearchLog
from .watching.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from ..search.runner import Callback
    from ..spaces.task import Task


def run_study(
    spec: str | Path | StudySpec,
    *,
    task: Task | None = None,
    out: str | Path | None = None,
    storage: str | None = None,
    study: optuna.Study | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    callbacks: Sequence[Callback] = (),
    watcher: Watcher | None = None,
    **instead: Unpack[SpecChanges],
) -> StudyResult:
    """Search a study, or go on with it, and re-measure its front.

    Args:
        spec: Path of a study file, name of a bundled study, or a specification made in Python.
        task: The task itself, instead of the one that the study names; it is searched without worker processes unless
            their number is given here.
        out: Results folder; ``runs/<name>`` where left out.
        storage: SQLAlchemy URL of Optuna's storage; ``study.db`` in the results folder where left out.
        study: An Optuna study to search in, with its sampler; it lies in that storage and has the study's name. What
            is queued in it is tried first.
        sampler: The sampler, instead of that of ``study`` or the one that the study file names.
        callbacks: Are called with (study, trial) after each trial, one at a time; ``stop()`` of the study that they are
            handed ends the search, and its front is measured again as ever.
        watcher: Is told how it goes.
        **instead: What is said here instead of in the study file: ``trials``, ``hours``, ``seed``, ``data``,
            ``workers``, ``cache``, ``artifacts``, ``gates``, see
            :class:`~karui.studies.study_file.spec_reading.SpecChanges`.

    Raises:
        KaruiError: On anything the user can put right; what was found before is kept.
        KeyboardInterrupt: When interrupted; the trials so far are kept and ``trials.csv`` is written.
    """
    if task is not None and instead.get("workers") is None:
        instead["workers"] = 0  # an object made in a script or a notebook need not be one that another process can have
    spec = resolve_spec(spec, **instead)
    check_space(spec, spec.name)
    check_callbacks(callbacks)
    # whole, since code of the task's may change the folder that it runs in
    folder = RunFolder((Path(out) if out is not None else Path("runs") / spec.name).absolute())
    folder.prepare()
    files = open_shared_files(spec.artifacts, spec.folder)
    if files is not None:
        files.check()
    storage = storage or folder.own_storage
    watcher = LoggedWatcher(watcher or Watcher(), SearchLog(folder.log))
    if study is not None:
        check_study(study, spec.name, spec.objectives(), storage)
        sampler = sampler or study.sampler
    with folder.alone("storage", lambda: None):  # two searches that make one database at once would be in its way
        opened = open_study(storage, spec.name, create=True, objectives=spec.objectives())
    if sampler is not None:
        check_sampler(sampler, spec.space, spec.objectives())
    return Session(spec, folder, opened, storage, watcher, files, sampler, callbacks).run(task)
