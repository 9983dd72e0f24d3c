"""The words by which a study says how channels and weights go; without torch, so that reading a study stays quick."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

ChannelImportance = Literal["magnitude", "batch_norm", "taylor", "geometric_median"]
"""By what channels are ranked: see :func:`~karui.spaces.axes.sparsity.importance.channel_scores`."""

ChannelScope = Literal["layer", "global"]
"""Whether every layer loses the same fraction of its channels, or the layers compete."""

ZeroPattern = Literal["free", "2:4", "4:8"]
"""Where zeros lie: anywhere, or so many in each run of weights along the inputs."""

ZeroingTime = Literal["gradual", "one_shot"]
"""Whether weights are zeroed little by little while recovering, or at once afterwards."""

_SHARE = re.compile(r"(\d+)% of the channels that can go were removed, of \d+% asked for")


def share_note(share: float, fraction: float) -> str:
    """Return the sentence that says what share of the channels went where another one was asked for."""
    return f"{share:.0%} of the channels that can go were removed, of {fraction:.0%} asked for: no nearer number fits"


def share_of(notes: Iterable[str]) -> float | None:
    """Return the share of channels that such a sentence among others tells; None where the one asked for went."""
    found = next((match for note in notes if (match := _SHARE.match(note))), None)
    return None if found is None else int(found.group(1)) / 100
