"""Whether 8-bit activations make a network slower than it is in float32, where its structure is not the baseline's.

Which operators stay float32 for speed is found once for a study, on its baseline. Another structure may have operators
that it says nothing about: what its file costs beside its own float32 file is measured, and told.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError
from ...evaluators.timing.alternating import TimingSettings
from .bench_targets import BenchTargets

MOST_SECONDS = 2.0
"""For so long each pair of files is timed at most."""


LEAST_LOSS = 1.03
"""A file is slower where it takes so many times as long, beyond the interval: two runs of one file differ as well."""


def slower_than_float(
    twin: Path, file: Path, inputs: NDArray[Any], settings: TimingSettings, targets: BenchTargets
) -> list[str]:
    """Return a sentence for each target on which a file is slower than the float32 file of the same network.

    Args:
        twin: The float32 file.
        file: With 8-bit activations.
        inputs: One batch.
        settings: When to stop.
        targets: Where to measure; one that does not answer, or cannot run the twin, tells nothing.
    """
    shorter = replace(settings, max_seconds=min(MOST_SECONDS, settings.max_seconds))
    try:
        timings = targets.on_each(lambda name, target: (name, target.time_pair(twin, file, inputs, shorter)))
    except (CandidateFailure, KaruiError):
        return []
    return [
        f"{f'on {name}, ' if targets.has_several else ''}8-bit activations make this network slower than it is in "
        f"float32: {timing.ratio:.2f} ± {timing.ratio_spread:.2f} times as long; float_operators in [quantization] can "
        f"leave operators float32"
        for name, timing in timings
        if timing.ratio - timing.ratio_spread > LEAST_LOSS
    ]
