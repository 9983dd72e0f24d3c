"""Timing the probes of one layer on a target: what each axis brings, and which counts of channels it likes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CandidateFailure
from ..spaces.building.probes.probe_layers import ProbedLayer
from ..spaces.building.probes.probe_network import probe_inputs
from ..spaces.building.probes.variants import VARIANTS, make_float, make_with_channels
from .targets.target import Target
from .timing.alternating import PairTiming, TimingSettings

WINS_FROM = 0.03
"""Changes of less than this share, or within the interval of the measurement, count as none."""

MULTIPLES = (1, 2, 4, 8, 16)
"""Of what number channels are tried to be multiples."""


def is_faster(time_ratio: float, spread: float) -> bool:
    """Say whether a time over that of float32 is less than 1 by more than the noise."""
    return time_ratio + max(spread, WINS_FROM) < 1


def is_slower(time_ratio: float, spread: float) -> bool:
    """Say whether a time over that of float32 is more than 1 by more than the noise."""
    return time_ratio - max(spread, WINS_FROM) > 1


@dataclass(frozen=True)
class ProbeRow:
    """What one variant of one layer's probe came to.

    Args:
        layer: The layer in words.
        share: Share of the model's multiply-adds that such layers take.
        axis: ``bits`` or ``sparsity``.
        variant: What was done to it, in words.
        size_ratio: Bytes of the file over those of the float32 probe.
        time_ratio: Its time over the float32 probe's, timed in alternation; None where the target cannot run it.
        time_spread: Half the width of the 95 % interval of that ratio.
        reason: Why the target cannot run it.
    """

    layer: str
    share: float
    axis: str
    variant: str
    size_ratio: float
    time_ratio: float | None
    time_spread: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class LikedMultiple:
    """Of what number a layer's channels should be a multiple.

    Args:
        layer: The layer in words.
        share: Share of the model's multiply-adds that such layers take.
        multiple: Fewer channels than the next multiple of this cost as much as that one.
        times: Time ratios by count of channels, to the layer as it is.
    """

    layer: str
    share: float
    multiple: int
    times: Mapping[str, float]


class Lane:
    """One layer's probes on one target.

    Args:
        target: Where to measure.
        layer: The layer.
        settings: How long each probe is timed.
        batch_size: Inputs in one run.
        place: A folder for files, which may be written over.
    """

    def __init__(
        self, target: Target, layer: ProbedLayer, settings: TimingSettings, batch_size: int, place: Path
    ) -> None:
        self._target = target
        self._layer = layer
        self._settings = settings
        self._place = place
        self._inputs = probe_inputs(layer, batch_size)
        self._reference = place / "float.onnx"
        make_float(layer, place, self._reference)

    def variants(self) -> Iterator[ProbeRow]:
        """Time each variant against the float32 probe.

        Raises:
            KaruiError: Where the target is at fault.
        """
        for name, variant in VARIANTS.items():
            file = self._place / "variant.onnx"
            row = ProbeRow(self._layer.describe(), self._layer.share, variant.axis, name, 1.0, None)
            try:
                variant.make(self._layer, self._place, file)
                timing = self._time(file)
            except CandidateFailure as failure:
                yield replace(row, reason=failure.reason)
                continue
            size_ratio = file.stat().st_size / self._reference.stat().st_size
            yield replace(row, size_ratio=size_ratio, time_ratio=timing.ratio, time_spread=timing.ratio_spread)

    def liked_multiple(self) -> Iterator[LikedMultiple]:
        """Yield of what number the layer's channels should be a multiple; nothing for layers of several groups."""
        most = next((each for each in reversed(MULTIPLES) if each <= self._layer.channels), 1)
        top = self._layer.channels // most * most
        if self._layer.groups != 1 or most == 1:
            return
        counts = [top, *(top - step for step in MULTIPLES if step < most and top - step > 0)]
        timings = {count: self._time_count(count) for count in counts}
        times = {str(count): timing.ratio for count, timing in timings.items()}
        yield LikedMultiple(self._layer.describe(), self._layer.share, coarsest(timings, top), times)

    def _time_count(self, channels: int) -> PairTiming:
        file = self._place / "channels.onnx"
        make_with_channels(channels, self._layer, self._place, file)
        return self._time(file)

    def _time(self, file: Path) -> PairTiming:
        return self._target.time_pair(self._reference, file, self._inputs, self._settings)


def coarsest(timings: Mapping[int, PairTiming], top: int) -> int:
    """Return the largest multiple, doubled from 1 on, at which nothing is won by fewer channels than a whole multiple.

    From m to 2 m it goes on where ``top - m`` channels, m fewer than a multiple of 2 m, take no less time than ``top``.

    Args:
        timings: By count of channels: ``top``, and ``top - m`` for m of 1, 2, 4, ...
        top: The largest count.
    """
    multiple = 1
    while (finer := timings.get(top - multiple)) is not None:
        noise = max(WINS_FROM, math.hypot(finer.ratio_spread, timings[top].ratio_spread))
        if finer.ratio < timings[top].ratio - noise:
            break
        multiple *= 2
    return multiple
