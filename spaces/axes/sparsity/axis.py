"""The sparsity axis as data: which fractions of channels and weights may go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from ...candidate import Baseline, BuildStage, Candidate
from ...section import Choices
from ...sparsity_names import ChannelImportance, ChannelScope, ZeroingTime, ZeroPattern, share_of
from ...step import FileWork, NetworkMaterials, Step
from ..axis import Axis, Sentences, Suggester, choose

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ...task import Task

HALF = 0.5
"""The fraction of zeros of both patterns."""

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class SparsityAxis(Axis):
    """Sparsity: channels removed for good, and single weights set to zero.

    Args:
        removed_channels: Fractions of channels removed; asked of the baseline only, since a student or a cell network
            has widths of its own and no trained channels to choose among.
        importances: By what the channels that stay are chosen: ``magnitude`` of their weights, the scales of the
            ``batch_norm`` behind them, ``taylor`` (what the loss would change to first order), or
            ``geometric_median`` (channels that others can stand in for go).
        scopes: ``layer`` where every layer loses the same fraction, ``global`` where all layers compete.
        zeroed_weights: Fractions of the remaining weights set to zero.
        patterns: Where zeros lie: ``free``, or ``2:4`` and ``4:8``, which are asked only for half of the weights.
        zeroing: ``gradual`` while recovering, or ``one_shot`` afterwards, which trains nothing.
    """

    prefix: ClassVar[str] = "sparsity."
    uses: ClassVar[Mapping[str, str]] = {"channels": "channels removed", "zeros": "weights zeroed"}

    removed_channels: Choices[Fraction] = (0.0, 0.25, 0.5, 0.7)
    importances: Choices[ChannelImportance] = ("magnitude",)
    scopes: Choices[ChannelScope] = ("layer",)
    zeroed_weights: Choices[Fraction] = (0.0, 0.5, 0.8)
    patterns: Choices[ZeroPattern] = ("free",)
    zeroing: Choices[ZeroingTime] = ("gradual",)

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        strict = [pattern for pattern in self.patterns if pattern != "free"]
        if strict and HALF not in self.zeroed_weights:
            raise ValueError(f"the pattern {strict[0]} zeroes half of the weights: add {HALF} to zeroed_weights")
        return self

    def suggest(self, trial: Suggester, candidate: Candidate) -> Candidate:
        """Add sparsity to a candidate whose architecture is chosen."""
        if isinstance(candidate.architecture, Baseline):
            candidate = self._remove(trial, candidate)
        zeroed = trial.suggest_categorical("sparsity.zeroed_weights", self.zeroed_weights)
        candidate = replace(candidate, zeroed_weights=zeroed)
        if not zeroed:
            return candidate
        if zeroed == HALF:
            candidate = replace(candidate, zero_pattern=choose(trial, "sparsity.pattern", self.patterns))
        return replace(candidate, zeroing=choose(trial, "sparsity.zeroing", self.zeroing))

    def _remove(self, trial: Suggester, candidate: Candidate) -> Candidate:
        removed = trial.suggest_categorical("sparsity.removed_channels", self.removed_channels)
        candidate = replace(candidate, removed_channels=removed)
        if not removed:
            return candidate
        return replace(
            candidate,
            channel_importance=choose(trial, "sparsity.importance", self.importances),
            channel_scope=choose(trial, "sparsity.scope", self.scopes),
        )

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """Return what is removed and zeroed, and how."""
        return {
            "sparsity.removed_channels": candidate.removed_channels,
            "sparsity.importance": candidate.channel_importance,
            "sparsity.scope": candidate.channel_scope,
            "sparsity.zeroed_weights": candidate.zeroed_weights,
            "sparsity.pattern": candidate.zero_pattern,
            "sparsity.zeroing": candidate.zeroing,
        }

    def less_of_one_thing(self, start: Candidate) -> Iterable[Sequence[Candidate]]:
        """Return the model with fewer channels."""
        fewer = replace(start, channel_importance=self.importances[0], channel_scope=self.scopes[0])
        yield [replace(fewer, removed_channels=share) for share in sorted(self.removed_channels) if share]

    def coverage(self, trains_later: bool) -> Iterable[Sentences]:
        """Return what says of which layers channels and weights can go."""
        if any(self.removed_channels):
            yield describe_channels
        if any(self.zeroed_weights):
            # where rounded weights are trained, zeros come gradually
            if "gradual" in self.zeroing or trains_later:
                yield _gradual_zeros
            if "one_shot" in self.zeroing:
                yield _zeros_at_once

    def cuts(self) -> Iterable[Candidate]:
        """Return the model with fewer channels, chosen in every way."""
        for share in sorted(self.removed_channels):
            for importance, scope in product(self.importances, self.scopes):
                fewer = Candidate(removed_channels=share, channel_importance=importance, channel_scope=scope)
                yield fewer.canonical()

    @classmethod
    def canonical(cls, candidate: Candidate) -> Candidate:
        """Leave out how channels or zeros are chosen where there are none; whole numbers become floats."""
        removed, zeroed = float(candidate.removed_channels), float(candidate.zeroed_weights)
        candidate = replace(candidate, removed_channels=removed, zeroed_weights=zeroed)
        if not removed:
            candidate = replace(candidate, channel_importance="magnitude", channel_scope="layer")
        return candidate if zeroed else replace(candidate, zero_pattern="free", zeroing="gradual")

    @classmethod
    def through(cls, candidate: Candidate, stage: BuildStage) -> Candidate:
        """Return the candidate without the zeros that come later than a stage."""
        zeroed_at = BuildStage.TRAINING if candidate.zeroing == "gradual" else BuildStage.ROUNDING
        return candidate if stage >= zeroed_at else replace(candidate, zeroed_weights=0.0)

    @classmethod
    def starting_from(cls, candidate: Candidate, other: Candidate) -> Candidate:
        """Return the candidate with as many channels removed as of the other one, and chosen like there."""
        return replace(
            candidate,
            removed_channels=other.removed_channels,
            channel_importance=other.channel_importance,
            channel_scope=other.channel_scope,
        )

    @classmethod
    def keeps_by(cls, candidate: Candidate) -> str:
        """Return by what the channels that stay are chosen."""
        return candidate.channel_importance

    @classmethod
    def add_steps(cls, candidate: Candidate, steps: Sequence[Step]) -> Sequence[Step]:
        """Remove channels of the network, zero weights while it trains, or those of its file."""
        found = list(steps)
        if candidate.removed_channels:
            how = {
                "fraction": candidate.removed_channels,
                "importance": candidate.channel_importance,
                "scope": candidate.channel_scope,
            }
            found.append(Step("architecture", BuildStage.NETWORK, "sparsity", how))
        if not candidate.zeroed_weights:
            return found
        zeros = {"zeroed_weights": candidate.zeroed_weights, "zero_pattern": candidate.zero_pattern}
        if candidate.zeroing == "gradual":
            training = BuildStage.TRAINING
            return [replace(step, settings=zeros) if step.stage == training else step for step in found]
        return [*found, Step("zeroing", BuildStage.ROUNDING, "sparsity", zeros)]

    @classmethod
    def change_network(cls, network: nn.Module, step: Step, materials: NetworkMaterials) -> nn.Module:
        """Return the network without some of its channels."""
        from .channels import remove_channels

        return remove_channels(
            network,
            materials.example,
            multiple=materials.multiple,
            gradient=materials.gradient,
            note=materials.note,
            **step.settings,
        )

    @classmethod
    def change_file(cls, source: Path, destination: Path, step: Step, work: FileWork) -> None:
        """Write the file with some of its weights zeroed at once."""
        from ..bits.steps import zero_file

        zero_file(source, destination, step, work)

    @classmethod
    def differences(cls, network: Candidate, attends: bool) -> dict[str, str]:
        """Return that projections of attention are zeroed, and channels counted and wired as in the masked network."""
        zeroed = {"zeroed": "attention too"} if attends and network.zeroed_weights else {}
        return zeroed | ({"channels": "as masked, heads whole"} if network.removed_channels else {})

    @classmethod
    def describe(cls, candidate: Candidate) -> Sequence[str]:
        """Return how much is removed and zeroed, and how where that is not the usual way."""
        words = []
        if candidate.removed_channels:
            how: list[str] = [candidate.channel_importance] if candidate.channel_importance != "magnitude" else []
            how += ["global"] if candidate.channel_scope == "global" else []
            words.append(" ".join([f"-{candidate.removed_channels:.0%} channels", *how]))
        if candidate.zeroed_weights:
            pattern = [] if candidate.zero_pattern == "free" else [candidate.zero_pattern]
            once = ["one-shot"] if candidate.zeroing == "one_shot" else []
            words.append(" ".join([f"{candidate.zeroed_weights:.0%} zeros", *pattern, *once]))
        return words

    @classmethod
    def as_made(cls, candidate: Candidate, notes: Sequence[str]) -> Candidate:
        """Return the candidate with the share of channels that went."""
        share = share_of(notes)
        if share is None or not candidate.removed_channels:
            return candidate
        return replace(candidate, removed_channels=share)

    @classmethod
    def configuration(cls, candidate: Candidate) -> Sequence[tuple[str, str]]:
        """Return the same in words."""
        return [("Channels", _channels_in_words(candidate)), ("Zeros", _zeros_in_words(candidate))]

    @classmethod
    def used(cls, use: str, chosen: Mapping[str, Any]) -> bool:
        """Say whether a trial removes channels, or zeroes weights."""
        name = "sparsity.removed_channels" if use == "channels" else "sparsity.zeroed_weights"
        return bool(chosen.get(name, 0))


_IMPORTANCES = {
    "magnitude": "those of smallest magnitude",
    "batch_norm": "those of smallest batch-normalization scale",
    "taylor": "those of least effect on the loss (first-order Taylor)",
    "geometric_median": "those nearest the geometric median",
}


def _channels_in_words(candidate: Candidate) -> str:
    if not candidate.removed_channels:
        return "none removed"
    which = _IMPORTANCES.get(candidate.channel_importance, str(candidate.channel_importance))
    where = "in every layer alike" if candidate.channel_scope == "layer" else "over all layers together"
    return f"{candidate.removed_channels:.0%} removed for good, {where}, {which}"


def _zeros_in_words(candidate: Candidate) -> str:
    if not candidate.zeroed_weights:
        return "none set"
    pattern = "anywhere" if candidate.zero_pattern == "free" else f"in the pattern {candidate.zero_pattern}"
    when = "step by step in training" if candidate.zeroing == "gradual" else "at once, the others making good the error"
    return f"{candidate.zeroed_weights:.0%} of the remaining weights set to zero {pattern}, {when}"


def describe_channels(task: Task, baseline: Path) -> Iterable[str]:
    """Say from which layers of a model channels can be removed."""
    from .coverage import channels

    return channels(task, baseline)


def _gradual_zeros(task: Task, baseline: Path) -> Iterable[str]:
    from .coverage import gradual_zeros

    return gradual_zeros(task, baseline)


def _zeros_at_once(task: Task, baseline: Path) -> Iterable[str]:
    from .coverage import zeros_at_once

    return zeros_at_once(task, baseline)
