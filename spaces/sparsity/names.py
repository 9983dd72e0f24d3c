"""The words by which a study says how channels and weights go; without torch, so that reading a study stays quick."""

from __future__ import annotations

from typing import Literal

ChannelImportance = Literal["magnitude", "batch_norm", "taylor", "geometric_median"]
"""By what channels are ranked: see :func:`~karui.spaces.sparsity.importance.channel_scores`."""

ChannelScope = Literal["layer", "global"]
"""Whether every layer loses the same fraction of its channels, or the layers compete."""

ZeroPattern = Literal["free", "2:4", "4:8"]
"""Where zeros lie: anywhere, or so many in each run of weights along the inputs."""

ZeroingTime = Literal["gradual", "one_shot"]
"""Whether weights are zeroed little by little while recovering, or at once afterwards."""
