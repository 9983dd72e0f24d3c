"""How long the steps of a study's candidates train, and under which keys what they make is kept."""

from __future__ import annotations

from dataclasses import replace

from ..axes.supernet.shared_axes import SharingAxes
from ..candidate import BuildStage, Candidate
from ..step import Step
from .build_settings import BuildSettings
from .network_factory import is_warm
from .recipe import STATISTICS, Recipe, steps_of
from .stage_keys import StageKeys


class RecipeBook:
    """The recipes of one study.

    Args:
        settings: What all candidates of the study share.
        sharing: The axes whose networks share a supernet each.
        keys: The keys of the study's stages in the cache.
    """

    def __init__(self, settings: BuildSettings, sharing: SharingAxes, keys: StageKeys) -> None:
        self._settings = settings
        self._sharing = sharing
        self._keys = keys

    def of(self, candidate: Candidate) -> Recipe:
        """Return how a candidate's file is made."""
        candidate = candidate.canonical()
        steps = tuple(self._timed(step, candidate) for step in steps_of(candidate))
        aware = sum(step.epochs for step in steps if step.stage == BuildStage.AWARE_TRAINING)
        return Recipe(
            candidate,
            steps,
            network_key=self._keys.network(candidate),
            aware_key=self._keys.aware(candidate, aware) if aware else "",
            seed=self._keys.seed(candidate),
        )

    def _timed(self, step: Step, candidate: Candidate) -> Step:
        """Return a step that says for how many epochs it trains, and from what."""
        factor, settings = candidate.epochs_factor, self._settings
        if not step.training:
            return step
        if step.stage == BuildStage.AWARE_TRAINING:
            return replace(step, epochs=settings.epochs_aware * factor)
        if self._sharing.of(candidate.architecture) is not None:
            epochs = settings.inherited(factor)
            if not epochs:  # the weights stay as they are
                return replace(step, name=STATISTICS, training="")
            return replace(step, training="warm", epochs=epochs)
        if is_warm(candidate.architecture, self._sharing):
            return replace(step, training="warm", epochs=settings.epochs * factor)
        return replace(step, training="from scratch", epochs=settings.epochs_from_scratch * factor)
