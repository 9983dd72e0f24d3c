"""How far a network's outputs are from a teacher's, by what the outputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import CandidateFailure, TaskError
from .data.named import parts_of

OutputKind = Literal["logits", "values", "embedding", "features", "none"]

OutputLoss = OutputKind | Callable[[Any, Any], Tensor] | None
"""What an output is, or a function of (outputs, the teacher's outputs) that gives a scalar; none: it is not learnt."""

Distillation = OutputLoss | Mapping[str, OutputLoss]
"""The same for all outputs, or by the names of those that are learnt."""

OUTPUT_KINDS: tuple[str, ...] = get_args(OutputKind)


def check_distillation(wanted: Any, outputs: tuple[str, ...]) -> None:
    """Check what a task says of its outputs.

    Args:
        wanted: What it says.
        outputs: Names of the outputs; empty where there is one without a name.

    Raises:
        TaskError: Where it names no kind, or no output of the model.
    """
    by_name = wanted if isinstance(wanted, Mapping) else {"": wanted}
    names = ", ".join(outputs) or "one output without a name"
    for name, kind in by_name.items():
        if isinstance(wanted, Mapping) and name not in outputs:
            raise _fault("names an output that the model does not have", f"some of {names}", repr(name))
        if kind is not None and not callable(kind) and kind not in OUTPUT_KINDS:
            expected = f"one of {', '.join(OUTPUT_KINDS)}, or a function of (outputs, the teacher's outputs)"
            raise _fault("is of no kind that is known", expected, repr(kind))


def _fault(what: str, expected: str, got: str) -> TaskError:
    return TaskError(
        f"the task's distillation {what}", where="Task(distillation=...)", expected=expected, got=got[:200]
    )


def distance(outputs: Any, taught: Any, wanted: Distillation, temperature: float) -> Tensor | None:
    """Return how far outputs are from the teacher's: the mean over those that are learnt; None where none is.

    Args:
        outputs: The student's, a tensor or named ones.
        taught: The teacher's, alike.
        wanted: What the outputs are.
        temperature: What logits are divided by.

    Raises:
        CandidateFailure: Where a function of the user's gives no single number.
    """
    ours, theirs = parts_of(outputs), parts_of(taught)
    found = []
    for name, part in ours.items():
        kind = wanted.get(name) if isinstance(wanted, Mapping) else wanted
        if kind is None or kind == "none" or name not in theirs or not part.is_floating_point():
            continue
        found.append(_distance(part, theirs[name], kind, temperature))
    return torch.stack(found).mean() if found else None


def _distance(outputs: Tensor, taught: Tensor, kind: str | Callable[[Any, Any], Tensor], temperature: float) -> Tensor:
    if callable(kind):
        loss: object = kind(outputs, taught)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = type(loss).__name__
            raise CandidateFailure(
                "recovery", f"the task's distillation must give a tensor of one number, it gives {got}"
            )
        return loss.reshape(())
    if kind == "logits":
        return softened_divergence(outputs, taught, temperature)
    if kind == "embedding":
        return (1.0 - nn.functional.cosine_similarity(outputs.flatten(1), taught.flatten(1), dim=1)).mean()
    if kind == "features":
        return (outputs - taught).square().mean() / taught.square().mean().clamp(min=torch.finfo(taught.dtype).tiny)
    return nn.functional.mse_loss(outputs, taught)


def softened_divergence(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence of softened distributions over the second axis.

    Times the squared temperature (Hinton et al. 2015, arXiv:1503.02531, section 2), the mean over samples and places.

    Args:
        outputs: The student's logits, shape (n, classes, ...).
        taught: The teacher's.
        temperature: What both are divided by.
    """
    student = nn.functional.log_softmax(outputs / temperature, dim=1)
    teacher = nn.functional.log_softmax(taught / temperature, dim=1)
    divergence = nn.functional.kl_div(student, teacher, reduction="none", log_target=True)
    return divergence.sum(dim=1).mean() * temperature**2
