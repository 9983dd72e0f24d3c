"""Axis: what a search may choose of one kind, all that karui knows of it, in one class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from ..architectures import Architecture
from ..axis_registry import AXES
from ..candidate import BuildStage, Candidate
from ..section import Section
from ..step import FileWork, LaterTraining, NetworkMaterials, Step

if TYPE_CHECKING:
    from torch import nn

    from ..task import Task
    from .supernet.networks import SharedNetworks

T = TypeVar("T")

INT8 = "8-bit weights and activations"
"""How the model is told whose every layer computes in 8-bit integers; see :meth:`Axis.whole_variants`."""

Sentences = Callable[["Task", Path], Iterable[str]]
"""Says, given the task and the model's float32 file, what an axis reaches of the model."""


class Suggester(Protocol):
    """The part of ``optuna.Trial`` that an axis needs, so that spaces need not know optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices for the parameter of this name."""


class Draw:
    """A suggester that draws every choice at random and remembers it."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.parameters: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of the choices, and remember it under its name."""
        self.parameters[name] = self._chance.choice(choices)
        return self.parameters[name]


def choose(trial: Suggester, name: str, choices: Sequence[T]) -> T:
    """Return one of the choices; where there is only one, the trial is not asked: nothing is searched."""
    if len(choices) == 1:
        return choices[0]
    chosen: T = trial.suggest_categorical(name, choices)
    return chosen


class Axis(Section):
    """A section of a study file, and what its choices mean.

    An instance is the section of one study: its fields are the keys that the file may have. What holds of any
    candidate, searched by this study or not, is said by the class. To add an axis, derive from this class, override
    what is other than here, and register it: in :data:`~karui.spaces.axis_registry.AXES`, or from another package under
    the entry points ``karui.axes``, by the name of its section.
    """

    prefix: ClassVar[str]
    """What the names of its parameters begin with, such as ``bits.``."""

    first_stage: ClassVar[BuildStage] = BuildStage.NETWORK
    """The first stage at which its choices change what is made. Candidates that differ only in axes of later stages
    than training share their trained network."""

    uses: ClassVar[Mapping[str, str]] = {}
    """What a candidate may use of it, each with its words, such as ``{"exits": "early exits"}``."""

    trainings: ClassVar[Sequence[str]] = ()
    """The names of those steps of its own that train."""

    # What may be chosen in this study.

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Return the candidate with what this axis chooses, given what the axes before it chose."""
        raise NotImplementedError

    def parameters(self, candidate: Candidate) -> dict[str, Any]:  # noqa: ARG002
        """Return the parameters by which :meth:`suggest` comes to a candidate, as far as they are this axis's."""
        return {}

    def first_tries(self) -> Iterable[Candidate]:
        """Return what everyone tries first of it and that trains nothing."""
        return ()

    def less_of_one_thing(self, start: Candidate) -> Iterable[Sequence[Candidate]]:  # noqa: ARG002
        """Return, for each thing of which the model may have less, how: the mildest first, and all trained."""
        return ()

    def beside_others(self, candidate: Candidate) -> Candidate:
        """Return the candidate with the choice of this axis that harms least, to try another axis with."""
        return candidate

    def follower_parameters(self) -> dict[str, Any]:
        """Return what is fixed of it for a candidate that is tried because its network is trained already."""
        return {}

    # What it reaches of the user's model.

    def check(self, task: Task, output_shape: tuple[int, ...]) -> None:
        """Raise a :class:`~karui.errors.SpaceError` where it does not fit the task."""

    def coverage(self, trains_later: bool) -> Iterable[Sentences]:  # noqa: ARG002
        """Return what says in sentences how much of the model it reaches; axes may share one, told once.

        Args:
            trains_later: Whether other axes of the study go on training with rounded weights.
        """
        return ()

    @property
    def computes_in_integers(self) -> bool:
        """Whether some of its files compute in integers."""
        return False

    @property
    def trains_later(self) -> bool:
        """Whether it may go on training after a network was trained."""
        return False

    @property
    def depends_on_input(self) -> bool:
        """Whether its files take longer for some inputs than for others, and one input at a time."""
        return False

    def cuts(self) -> Iterable[Candidate]:
        """Return the canonical candidates whose networks it cuts out of the model, by nothing but their structure.

        The plainest description of a network comes first.
        """
        return ()

    # What a choice means, in whatever study it was made.

    @classmethod
    def canonical(cls, candidate: Candidate) -> Candidate:
        """Return the candidate with what this axis chose written the one way; what a choice does not touch undone."""
        return candidate

    @classmethod
    def through(cls, candidate: Candidate, stage: BuildStage) -> Candidate:  # noqa: ARG003
        """Return the candidate without what this axis does after a stage."""
        return candidate

    @classmethod
    def starting_from(cls, candidate: Candidate, other: Candidate) -> Candidate:  # noqa: ARG003
        """Return the candidate with what this axis decides of the untrained network as another one has it.

        Its architecture is that of the other one already.
        """
        return candidate

    @classmethod
    def keeps_by(cls, candidate: Candidate) -> str:  # noqa: ARG003
        """Return by what it decides which part of the model stays, beside the shapes of what stays."""
        return ""

    @classmethod
    def trains(cls, candidate: Candidate) -> bool:  # noqa: ARG003
        """Say whether it makes a candidate go on training once its network is trained."""
        return False

    @classmethod
    def problem(cls, candidate: Candidate) -> str | None:  # noqa: ARG003
        """Say why a candidate cannot be made at all, or None where it can."""
        return None

    @classmethod
    def whole_variants(cls) -> Mapping[str, Candidate]:
        """Return what of it is tried on the whole model of a target before anything is trained, by how it is told."""
        return {}

    # What it does.

    @classmethod
    def add_steps(cls, candidate: Candidate, steps: Sequence[Step]) -> Sequence[Step]:  # noqa: ARG003
        """Return the steps that make a candidate's file with those of this axis, given those of the axes before it.

        A step that is added names this axis, and its stage: there it is done by :meth:`change_network` (stage
        ``NETWORK``), :meth:`train_on` (``AWARE_TRAINING``) or :meth:`change_file` (``ROUNDING`` and ``PACKING``).
        """
        return steps

    @classmethod
    def change_network(cls, network: nn.Module, step: Step, materials: NetworkMaterials) -> nn.Module:
        """Return the network with what a step changes of it, before it is trained; it may be changed in place."""
        raise NotImplementedError

    @classmethod
    def train_on(cls, step: Step, training: LaterTraining, folder: Path) -> None:
        """Go on training, and write the float32 file ``network.onnx`` and whatever is kept of it into a folder."""
        raise NotImplementedError

    @classmethod
    def take_up(cls, work: FileWork, folder: Path) -> None:
        """Take up what :meth:`train_on` has left in a folder, for the steps that change the file."""

    @classmethod
    def change_file(cls, source: Path, destination: Path, step: Step, work: FileWork) -> None:
        """Write the file that a step makes of another one."""
        raise NotImplementedError

    @classmethod
    def differences(cls, network: Candidate, attends: bool) -> dict[str, str]:  # noqa: ARG003
        """Return what tells the networks of a candidate from those that an earlier version made for it.

        It goes into their key in the cache, so that none of those is taken for one of these.

        Args:
            network: The candidate as far as its trained network.
            attends: Whether the task's model has attention layers.
        """
        return {}

    # How it is said.

    @classmethod
    def describe(cls, candidate: Candidate) -> Sequence[str]:  # noqa: ARG003
        """Return short texts for tables and plots, such as ``["-50 % channels"]``."""
        return ()

    @classmethod
    def as_made(cls, candidate: Candidate, notes: Sequence[str]) -> Candidate:  # noqa: ARG003
        """Return the candidate with what came of its choices in the place of what was asked for, told by the notes."""
        return candidate

    @classmethod
    def configuration(cls, candidate: Candidate) -> Sequence[tuple[str, str]]:  # noqa: ARG003
        """Return in words what a candidate is by it: pairs of a topic and a sentence."""
        return ()

    @classmethod
    def used(cls, use: str, chosen: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Say whether a trial makes that use of it, told by the trial's parameters.

        The choice counts and not what it comes to: a student of the baseline's depth is the student axis's doing.
        """
        return any(bool(value) for name, value in chosen.items() if name.startswith(cls.prefix))


class NetworkAxis(Axis):
    """An axis whose choice is a network, in the place of the user's own."""

    kind: ClassVar[str]
    """What is said of its networks, :attr:`~karui.spaces.architectures.Architecture.kind`."""

    label: ClassVar[str] = ""
    """What its networks are called in legends of plots; their kind where left out."""

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Choose a network, where the trial has chosen a network of this kind."""
        raise NotImplementedError

    @classmethod
    def is_cut_out(cls, architecture: Any) -> bool:  # noqa: ARG003
        """Say whether a network is cut out of the model, and so starts from its weights."""
        return False

    @classmethod
    def start(cls, architecture: Any, materials: NetworkMaterials) -> nn.Module:
        """Return a network before it is trained; random weights follow torch's global generator.

        Raises:
            CandidateFailure: Where the model does not run without what is left out.
            ValueError: Where the network does not fit the task.
        """
        raise NotImplementedError

    @property
    def shares_weights(self) -> bool:
        """Whether its networks take their weights from one supernet."""
        return False

    def shared_networks(self, input_shape: tuple[int, ...], outputs: int) -> SharedNetworks[Any]:
        """Return its networks as a supernet needs them, for inputs of this shape and outputs of this length."""
        raise NotImplementedError

    def supernet_differences(self) -> dict[str, str]:
        """Return what tells its supernet from those that an earlier version trained; see :meth:`differences`."""
        return {}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Architecture:
        """Read what :meth:`~karui.spaces.architectures.Architecture.to_dict` wrote."""
        raise NotImplementedError

    @classmethod
    def used(cls, use: str, chosen: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Say whether a trial has chosen a network of it."""
        return chosen.get("architecture") == cls.kind


def all_axes() -> dict[str, type[Axis]]:
    """Return every axis that there is, by the name of its section: karui's own, then those of other packages."""
    return AXES.all


def whole_variants() -> dict[str, Candidate]:
    """Return what is tried on the whole model of a target, by how it is told."""
    return {name: variant for axis in all_axes().values() for name, variant in axis.whole_variants().items()}


def axis_of(architecture: Architecture) -> type[NetworkAxis] | None:
    """Return the axis that makes networks of a kind; None for the task's own model."""
    axes = (axis for axis in all_axes().values() if issubclass(axis, NetworkAxis))
    return next((axis for axis in axes if axis.kind == architecture.kind), None)
