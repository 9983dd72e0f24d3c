"""One step of a recipe, and what steps are given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .build_stage import BuildStage
from .notes import Note, untold

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .formats.format import Format
    from .rounding.settings import QuantizationSettings
    from .task import Task
    from .training.teacher import Teacher
    from .training.training_settings import TrainingSettings


UNTRAINED_SAMPLES = 16
"""Inputs that give an untrained file's activations some range; which one does not touch size or latency."""


@dataclass(frozen=True)
class Step:
    """One step of what makes a candidate's file.

    Args:
        name: As times, failures and logs tell it.
        stage: The stage of the build that it belongs to.
        axis: Name of the axis that does it; empty where the build itself does.
        settings: What it needs to know of the candidate, by name.
        training: What kind of training it is, such as ``warm``, ``from scratch`` or ``aware``; empty where it is none.
        epochs: How many epochs it trains, once a study has said so.
        is_learnt: Whether how fast the file is depends on what was learnt, so that no untrained file can tell.
        in_integers: Whether the file computes in integers from here on: there a target may be slower than in float32.
        one_by_one: Whether the file takes one input at a time.
    """

    name: str
    stage: BuildStage
    axis: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: str = ""
    epochs: int = 0
    is_learnt: bool = False
    in_integers: bool = False
    one_by_one: bool = False


@dataclass(frozen=True)
class NetworkMaterials:
    """What networks are made of.

    Args:
        baseline: The task's model, trained; left as it is.
        example: A batch of inputs, shape (n, *input_shape).
        multiple: Channel counts that are left are rounded to a multiple of this.
        gradient: Fills ``grad`` of a network's parameters from some of the task's data; None where there are none.
        note: Is told what was spared, and why.
    """

    baseline: nn.Module
    example: Tensor
    multiple: int = 1
    gradient: Callable[[nn.Module], None] | None = None
    note: Note = untold

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.example.shape[1:])

    @property
    def outputs(self) -> int:
        """Length of one output."""
        import torch

        from .networks.running import outputs_of

        with torch.no_grad():
            return int(outputs_of(self.baseline.eval(), self.example).shape[1])


@dataclass
class FileWork:
    """A file in the making, and what those that change it may use.

    Args:
        calibration: Inputs on which rounding is decided, float32 or integers, shape (n, *input_shape).
        quantization: How the study rounds.
        folder: Where new files go.
        format: What kind of file it is.
        sensitivity: Where is kept how much each layer's rounding costs; None to keep it nowhere.
        learned: What training with rounded weights has found; None where there was none.
        is_untrained: Whether the file is to be about as large and as fast as the real one, and what it answers means
            nothing: what is dear and touches neither may be left out.
        is_checked: Of such a file, whether operators that int8 gets wrong are found all the same.
        kept: What steps keep from one candidate to the next, by names of their own.
        note: Is told what is otherwise than asked for.
        known_task: The task; None where a file alone is tried.
    """

    calibration: Tensor
    quantization: QuantizationSettings
    folder: Path
    format: Format
    sensitivity: Path | None = None
    learned: Any = None
    is_untrained: bool = False
    is_checked: bool = True
    kept: dict[str, Any] = field(default_factory=dict)
    note: Note = untold
    known_task: Task | None = None

    @property
    def task(self) -> Task:
        """The task.

        Raises:
            ValueError: Where a file alone is tried.
        """
        if self.known_task is None:
            raise ValueError("this step needs the task, and a file alone is tried")
        return self.known_task


@dataclass(frozen=True)
class LaterTraining:
    """What a step needs that goes on training once the network was exported.

    Args:
        work: The file in the making.
        network: Returns the network with its trained weights.
        weights: Where these lie; what is kept beside them is found by whoever goes on from them.
        settings: How to train.
        teacher: What to learn from.
        on_epoch: Called after each epoch with its number, from 1, and its metric; it may raise to stop.
        between_steps: Called after each step; it may wait.
    """

    work: FileWork
    network: Callable[[], nn.Module]
    weights: Path
    settings: TrainingSettings
    teacher: Teacher
    on_epoch: Callable[[int, float], None] | None
    between_steps: Callable[[], None]
