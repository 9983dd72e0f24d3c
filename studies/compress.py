"""A model made light in one call: a task and a study of the usual axes, searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KaruiError
from ..spaces.axes.axis import Axis, all_axes
from .run import StudyResult, run_study
from .study_file.scaffold import usual_study
from .study_file.spec import StudySpec
from .watching.watcher import Watcher

if TYPE_CHECKING:
    from torch import nn

    from ..spaces.data.batches import Pairs
    from ..spaces.data.structured_split import Collate
    from ..spaces.output_losses import Distillation
    from ..spaces.task import Loss, Metric, Task


def compress(
    model: nn.Module,
    train: Pairs,
    validation: Pairs,
    test: Pairs,
    *,
    trials: int = 50,
    hours: float | None = None,
    max_size: str | float | None = None,
    max_latency: str | float | None = None,
    min_accuracy: str | float | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    collate: Collate | None = None,
    targets: str | Sequence[str] = (),
    distillation: Distillation = None,
    axes: Sequence[Axis] | None = None,
    name: str = "compressed",
    out: str | Path | None = None,
    seed: int = 0,
    watcher: Watcher | None = None,
) -> StudyResult:
    """Search how to make a trained model light, and return the front of size, speed and accuracy with its files.

    It is a study like any other: the same call goes on with it where it was stopped, and every command reads its
    results folder. Whoever wants to set more writes a :class:`karui.StudySpec` and calls :func:`karui.run_study`.

    Args:
        model: The trained network; it takes one batch of inputs and gives one of outputs.
        train: Data set of ``(inputs, target)`` pairs for recovery training, or a ``DataLoader`` of one.
        validation: Data by which candidates are compared.
        test: Data touched only to measure the front again.
        trials: Candidates to evaluate.
        hours: Longest time of this call; no limit where left out.
        max_size: Largest file, such as ``"60KB"``, ``48000`` or ``"0.1x"`` of the model's.
        max_latency: Longest latency, such as ``"0.4ms"`` or ``"0.3x"``.
        min_accuracy: Lowest metric on validation, such as ``0.9`` or ``"0.98x"``.
        loss: Maps (outputs, targets) of a batch to a scalar tensor; cross entropy where left out.
        metric: Maps (outputs, targets) of a split to a number, higher is better; top-1 accuracy where left out.
        collate: Makes a batch of a list of samples, as in a ``DataLoader``; torch's where left out.
        targets: Names of the targets, where samples are dicts that hold them beside the inputs.
        distillation: What the outputs are, from which candidates learn; see :class:`karui.Task`.
        axes: What is searched, such as ``[karui.BitsAxis(weights=(4, 8))]``; what ``karui init`` writes, where left
            out: bits, sparsity, students and cells, as far as they fit the task (the last two need images).
        name: Name of the study, also of its folder under ``runs/``.
        out: Results folder; ``runs/<name>`` where left out.
        seed: Seed of the search and of all training.
        watcher: Is told how it goes.

    Raises:
        KaruiError: On anything the user can put right; what was found before is kept.
        KeyboardInterrupt: When interrupted; likewise.
    """
    from ..spaces.task import Task

    functions = {key: part for key, part in (("loss", loss), ("metric", metric)) if part is not None}
    task = Task(
        model=model, train=train, validation=validation, test=test, collate=collate, targets=targets,
        distillation=distillation, **functions,  # type: ignore[arg-type]
    )  # fmt: skip
    spec = StudySpec(
        name=name,
        trials=trials,
        hours=hours,
        seed=seed,
        bounds={"max_size": max_size, "max_latency": max_latency, "min_accuracy": min_accuracy},
        **(_usual_axes(task, watcher) if axes is None else _by_section(axes)),
    )
    return run_study(spec, task=task, out=out, watcher=watcher)


def _usual_axes(task: Task, watcher: Watcher | None) -> dict[str, Axis]:
    """Return the axes that ``karui init`` writes, as far as the task has what they need; the others are told."""
    from ..spaces.building.task_fit import misfits

    sections = usual_study("compressed")
    usual = {section: kind(**sections[section]) for section, kind in all_axes().items() if section in sections}
    left_out = misfits(usual, task)
    for section, error in left_out.items():
        if watcher is not None:
            watcher.note(f"the axis [{section}] is left out: it needs {error.expected}; here are {error.got}")
    return {section: axis for section, axis in usual.items() if section not in left_out}


def _by_section(axes: Sequence[Axis]) -> dict[str, Any]:
    known = {kind: section for section, kind in all_axes().items()}
    sections: dict[str, Any] = {}
    for axis in axes:
        section = known.get(type(axis))
        if section is None or section in sections:
            raise KaruiError(
                "that is no axis" if section is None else "an axis is given twice",
                where="compress(axes=...)",
                expected=f"one each of {', '.join(sorted(kind.__name__ for kind in known))}",
                got=repr(axis)[:200],
            )
        sections[section] = axis
    return sections
