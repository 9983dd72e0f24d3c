"""Timing a model's own file with fewer bits on a target, and finding which of its operators had better stay float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import CandidateFailure
from ..spaces.axes.axis import INT8, all_axes, whole_variants
from ..spaces.building.recipe import steps_of
from ..spaces.building.untrained_proxy import write_untrained_proxy
from ..spaces.candidate import Candidate
from ..spaces.data.named import map_parts
from ..spaces.formats.format import find_format
from ..spaces.formats.onnx.quantization.operator_kinds import LAYER_KINDS, kinds_of_file
from ..spaces.rounding.settings import OperatorKind, QuantizationSettings
from ..spaces.step import FileWork
from .probing import ProbeRow, is_faster
from .targets.target import Target
from .targets.telling import tell_nobody
from .timing.alternating import PairTiming, TimingSettings

WHOLE = "the whole model"
"""What the layer of a row is called that is no layer."""

_MOST_KINDS = 4
"""So many steps at most: each of them tries all that is left."""


@dataclass(frozen=True)
class _Tried:
    kinds: tuple[OperatorKind, ...]
    file: Path


class WholeModel:
    """A model's float32 file, and untrained proxies of it with fewer bits, on one target.

    Weights are rounded to nearest and ranges are those of few inputs: neither touches size or latency.

    Args:
        target: Where to measure.
        baseline: The model's float32 ONNX file.
        inputs: Some of its inputs, shape (n, *input_shape).
        settings: How long each proxy is timed.
        quantization: How the study quantizes; which operators stay float32 where it says so.
        batch_size: Inputs in one run.
        place: A folder for files, which may be written over.
        told: Is told what is tried.
    """

    def __init__(
        self,
        target: Target,
        baseline: Path,
        inputs: NDArray[np.generic],
        settings: TimingSettings,
        quantization: QuantizationSettings,
        batch_size: int,
        place: Path,
        told: Callable[[str], None] = tell_nobody,
    ) -> None:
        self._target = target
        self._reference = baseline
        self._calibration = inputs
        self._timed = map_parts(lambda part: np.resize(part, (batch_size, *part.shape[1:])), inputs)
        self._settings = settings
        self._quantization = quantization
        self._place = place
        self._told = told

    def rows(self, kinds: tuple[OperatorKind, ...]) -> Iterator[ProbeRow]:
        """Time the whole model in each way against its float32 file.

        Args:
            kinds: Operators that stay float32 beside 8-bit activations.

        Raises:
            KaruiError: Where the target is at fault.
        """
        for section, axis in all_axes().items():
            for name, candidate in axis.whole_variants().items():
                yield self._row(section, name, candidate, kinds)

    def _row(self, section: str, name: str, candidate: Candidate, kinds: tuple[OperatorKind, ...]) -> ProbeRow:
        self._told(f"{WHOLE}, {name}")
        try:
            file = self._proxy(candidate, kinds, "whole", checked=True)
            timing = self._time(self._reference, file)
        except CandidateFailure as failure:
            return ProbeRow(WHOLE, 1.0, section, name, 1.0, None, reason=failure.reason)
        size_ratio = file.stat().st_size / self._reference.stat().st_size
        return ProbeRow(WHOLE, 1.0, section, name, size_ratio, timing.ratio, timing.ratio_spread)

    def float_kinds(self) -> tuple[OperatorKind, ...]:
        """Return which operators had better stay float32 beside 8-bit activations: those whose int8 costs time.

        Step by step that kind is left float32 which makes the file fastest, as long as it is faster than the file
        before by more than the noise, timed in alternation with it. Some kinds are tried together as well: what is won
        by one of them alone may be lost again by changes of type on both its sides.
        """
        try:
            best = _Tried((), self._proxy(whole_variants()[INT8], (), "best"))
            kinds = kinds_of_file(self._reference)
        except CandidateFailure:
            return ()  # its row says why
        steps: list[tuple[OperatorKind, ...]] = [(kind,) for kind in kinds]
        steps += [some for some in _together(kinds) if 1 < len(some) < len(kinds)]
        for _ in range(_MOST_KINDS):
            before = best
            best, steps = self._step(best, steps)
            if best is before:
                break
        return best.kinds

    def _step(
        self, best: _Tried, steps: list[tuple[OperatorKind, ...]]
    ) -> tuple[_Tried, list[tuple[OperatorKind, ...]]]:
        """Return the fastest file of one step further, or the same one, and what is worth trying after that."""
        fastest, least = best, 1.0
        left = []
        for number, more in enumerate(steps):
            kinds = (*best.kinds, *(kind for kind in more if kind not in best.kinds))
            if kinds == best.kinds:
                continue
            self._told(f"{WHOLE}, {INT8}, float32: {', '.join(kinds)}")
            try:
                file = self._proxy(whole_variants()[INT8], kinds, f"step{len(best.kinds)}-{number}")
                timing = self._time(best.file, file)
            except CandidateFailure:
                continue
            if timing.ratio - timing.ratio_spread < 1.0:
                left.append(more)
            if is_faster(timing.ratio, timing.ratio_spread) and timing.ratio < least:
                fastest, least = _Tried(kinds, file), timing.ratio
        return fastest, left

    def _proxy(
        self, candidate: Candidate, kinds: tuple[OperatorKind, ...], name: str, *, checked: bool = False
    ) -> Path:
        path = self._place / f"{name}.onnx"
        work = FileWork(
            map_parts(torch.from_numpy, self._calibration),
            self._quantization.model_copy(update={"float_operators": kinds}),
            self._place,
            find_format(),
            is_untrained=True,
            is_checked=checked,
        )
        write_untrained_proxy(path, steps_of(candidate.canonical()), work, kept=self._reference, start=_never)
        return path

    def _time(self, reference: Path, candidate: Path) -> PairTiming:
        return self._target.time_pair(reference, candidate, self._timed, self._settings)


def _together(kinds: tuple[OperatorKind, ...]) -> list[tuple[OperatorKind, ...]]:
    """Return which kinds to leave float32 at once: all that is no layer, then more and more of the layers too."""
    found = []
    left = [kind for kind in kinds if kind not in LAYER_KINDS]
    for more in ((), ("thin", "depthwise"), ("convolution",), ("pointwise",)):
        left += [kind for kind in kinds if kind in more]
        found.append(tuple(left))
    return list(dict.fromkeys(found))


def _never() -> nn.Module:
    raise NotImplementedError("the file is there already")
