"""How alike two rankings are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two lists of values: 1 where they rank alike, 0 where they have nothing in common.

    Ties count as neither; where all values of a list are equal there is no ranking, and None is returned. Source:
    Kendall, "The treatment of ties in ranking problems", Biometrika 1945.

    Args:
        one: n values, finite.
        other: As many.

    Raises:
        ValueError: Where they are not as many, or a value is not finite.
    """
    if len(one) != len(other):
        raise ValueError(f"as many values on both sides expected, got {len(one)} and {len(other)}")
    values = np.asarray([one, other], dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a missing or non-finite value cannot be ranked")
    # Each pair is counted twice, above and below the diagonal; that cancels out.
    signs = np.sign(values[:, :, None] - values[:, None, :])
    ranked = (signs != 0).sum(axis=(1, 2))
    if not ranked.all():
        return None
    return float((signs[0] * signs[1]).sum() / np.sqrt(float(ranked[0]) * float(ranked[1])))
