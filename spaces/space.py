"""SearchSpace: axes and the conditions between them, from which a candidate is suggested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import chain, zip_longest
from random import Random
from typing import Any, TypeVar

from ..errors import SpaceError
from .architectures import Baseline
from .axes.axis import Axis, Draw, NetworkAxis, Suggester, all_axes
from .axis_registry import AXES
from .candidate import BuildStage, Candidate

AnyAxis = TypeVar("AnyAxis", bound=Axis)


class SearchSpace:
    """The axes of one study.

    The baseline is always in the space. Conditions: a network's parameters exist only where networks of its kind are
    chosen, removed channels only for the baseline, activation bits only for rounded weights, a threshold only for an
    exit.

    Args:
        axes: The axes by the names of their sections; one that is None is not searched.

    Raises:
        SpaceError: On a name that no axis has.
    """

    def __init__(self, **axes: Axis | None) -> None:
        for name in axes:
            if name not in AXES.names:
                raise SpaceError(
                    f"there is no axis {name!r}",
                    where="SearchSpace(...)",
                    expected=f"one of {', '.join(AXES.names)}",
                    got=name,
                    remedy="install the package that adds it",
                )
        given = ((name, axes.get(name)) for name in AXES.names)
        self.by_name: dict[str, Axis] = {name: axis for name, axis in given if axis is not None}

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that are searched, in the order in which they choose."""
        return tuple(self.by_name.values())

    def axis(self, kind: type[AnyAxis]) -> AnyAxis | None:
        """Return the axis of a kind; None where it is not searched."""
        return next((axis for axis in self.axes if isinstance(axis, kind)), None)

    @property
    def architectures(self) -> tuple[str, ...]:
        """The kinds of architecture that may be chosen."""
        return (Baseline.kind, *(axis.kind for axis in self.axes if isinstance(axis, NetworkAxis)))

    @property
    def depends_on_input(self) -> bool:
        """Whether some candidates take longer for some inputs than for others, and one input at a time."""
        return any(axis.depends_on_input for axis in self.axes)

    def suggest(self, trial: Suggester) -> Candidate:
        """Choose a candidate; equal meanings are brought together by :attr:`Candidate.key`, not here."""
        candidate, kind = Candidate(), Baseline.kind
        if len(self.architectures) > 1:
            kind = trial.suggest_categorical("architecture", self.architectures)
        for axis in self.axes:
            if not isinstance(axis, NetworkAxis) or axis.kind == kind:
                candidate = axis.suggest(trial, candidate)
        return candidate

    def initial_design(self) -> list[dict[str, Any]]:
        """Return the parameters of what everyone tries first, none of which trains anything.

        That is the baseline, and what each axis says, such as float16, or every whole bit-width.
        """
        return self._covered([Candidate(), *chain.from_iterable(axis.first_tries() for axis in self.axes)])

    def trained_initial_design(self) -> list[dict[str, Any]]:
        """Return the parameters of what a good engineer trains first: the model itself with less of one thing.

        That is fewer channels, fewer blocks, a lower resolution, as far as they are in the space, the mildest of each
        first, all with the model's own weights to start from. They are rounded so that it costs next to nothing.
        """
        start = reduce(lambda candidate, axis: axis.beside_others(candidate), self.axes, Candidate())
        things = [thing for axis in reversed(self.axes) for thing in axis.less_of_one_thing(start)]
        by_turns = chain.from_iterable(zip_longest(*things))
        return self._covered(candidate for candidate in by_turns if candidate is not None)

    def _covered(self, wanted: Iterable[Candidate]) -> list[dict[str, Any]]:
        """Return the parameters of those candidates that are in the space, once where several mean the same file."""
        found: dict[Candidate, dict[str, Any]] = {}
        for candidate in wanted:
            preferred = {"architecture": candidate.architecture.kind}
            for axis in self.axes:
                preferred |= axis.parameters(candidate)
            preference = _Prefer(preferred)
            if self.suggest(preference) == candidate:
                found.setdefault(candidate.canonical(), preference.parameters)
        return list(found.values())

    @property
    def _after_training(self) -> tuple[str, ...]:
        """What the names of parameters begin with that do not change which network is trained."""
        return tuple(axis.prefix for axis in all_axes().values() if axis.first_stage > BuildStage.TRAINING)

    def network_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that decide which network is trained; the others decide how it is rounded and left."""
        later = self._after_training
        return {name: value for name, value in parameters.items() if not name.startswith(later)}

    @property
    def has_followers(self) -> bool:
        """Whether candidates may share a trained network and still differ."""
        return any(axis.first_stage > BuildStage.TRAINING for axis in self.axes)

    def follower_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a follower of a trained network has fixed: the network, and that no training comes after."""
        fixed = self.network_parameters(parameters)
        for axis in self.axes:
            fixed |= axis.follower_parameters()
        return fixed

    def siblings(self, parameters: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Candidate]]:
        """Yield every combination that shares its network with the given parameters, these included, and costs little.

        Training with rounded weights is dear, so that those who ask for it are no siblings.
        """
        for combination, candidate in self._visit(_Walk(fixed=self.network_parameters(parameters))):
            if not any(axis.trains(candidate) for axis in self.axes):
                yield combination, candidate

    def random_point(self, chance: Random) -> tuple[dict[str, Any], Candidate]:
        """Return one combination of parameters and its candidate, every choice drawn uniformly."""
        draw = Draw(chance)
        candidate = self.suggest(draw)
        return draw.parameters, candidate

    def points(self) -> Iterator[tuple[dict[str, Any], Candidate]]:
        """Yield every combination of parameters with its candidate, lazily and in a fixed order.

        Several combinations may mean the same candidate.
        """
        yield from self._visit(_Walk())

    def _visit(self, walk: _Walk) -> Iterator[tuple[dict[str, Any], Candidate]]:
        while True:
            candidate = self.suggest(walk)
            yield dict(walk.parameters), candidate
            if not walk.advance():
                return


def problem_of(candidate: Candidate) -> str | None:
    """Say why a candidate cannot be made at all, or None where it can."""
    problems = (axis.problem(candidate) for axis in all_axes().values())
    return next((problem for problem in problems if problem is not None), None)


class _Prefer:
    """A suggester that takes the preferred value where it may be chosen, and the first one otherwise."""

    def __init__(self, preferred: Mapping[str, Any]) -> None:
        self._preferred = preferred
        self.parameters: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._preferred.get(name)
        self.parameters[name] = value if value in choices else choices[0]
        return self.parameters[name]


class _Walk:
    """A suggester that visits every branch of the space: an odometer over the choices that were asked for.

    What is fixed takes its one value throughout.
    """

    def __init__(self, fixed: Mapping[str, Any] | None = None) -> None:
        self._fixed = fixed or {}
        self._path: list[tuple[int, int]] = []
        self._position = 0
        self.parameters: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._fixed:
            self.parameters[name] = self._fixed[name]
            return self._fixed[name]
        if self._position == len(self._path):
            self._path.append((0, len(choices)))
        index, _ = self._path[self._position]
        self._position += 1
        self.parameters[name] = choices[index]
        return choices[index]

    def advance(self) -> bool:
        """Move to the next combination; False where all have been visited."""
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        if not self._path:
            return False
        index, count = self._path[-1]
        self._path[-1] = (index + 1, count)
        self._position = 0
        self.parameters = {}
        return True
