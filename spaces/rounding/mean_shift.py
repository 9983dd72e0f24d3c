"""What changing a layer's weights takes from its mean output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .im2col import as_rows
from .layers import Layer

Shifts = dict[str, np.ndarray]
"""By node name, what rounding and zeroing take from a layer's mean output, E[x] (W - W'), float64, shape (outputs,)."""


def mean_shifts(
    layers: list[Layer],
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    means: Mapping[str, np.ndarray],
) -> Shifts:
    """Return the shifts of the layers whose mean inputs are known.

    Args:
        layers: The layers.
        before: Their weights by name.
        after: What these have become.
        means: Mean inputs by node name, shape (groups, columns).
    """
    shifts = {}
    for layer in layers:
        if (mean := means.get(layer.node_name)) is not None and np.isfinite(mean).all():
            lost = before[layer.weight_name].astype(np.float64) - after[layer.weight_name]
            rows = as_rows(lost, layer.channel_axis, len(mean))
            shifts[layer.node_name] = np.einsum("gok,gk->go", rows, mean).reshape(-1)
    return shifts
