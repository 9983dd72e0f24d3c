"""What a layer's outputs lose by the rounding of its weight, worked out from the moments of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .im2col import as_rows
from .input_covariance import InputCovariance

_LEAST_VARIANCE = 1e-3
"""Share of the power below which the variance is not told from chance, positions being drawn."""


def signal_to_noise_db(before: np.ndarray, after: np.ndarray, axis: int, found: Sequence[InputCovariance]) -> float:
    """Return the signal to noise of the outputs of all layers that read a weight, inf without an error.

    Both are variances: what a bias makes good is no loss.

    Args:
        before: The weight.
        after: What it has become, that shape.
        axis: Its outputs lie along it.
        found: InputCovariance of the layers' inputs; those without second moments tell nothing.
    """
    signal = error = 0.0
    for covariance in found:
        if covariance.second.size and covariance.count:
            signal += _variance(as_rows(before, axis, len(covariance.second)), covariance)
            error += _variance(as_rows(before - after, axis, len(covariance.second)), covariance)
    return float(10 * np.log10(signal / error)) if signal > 0 and error > 0 else np.inf


def _variance(rows: np.ndarray, covariance: InputCovariance) -> float:
    """Return the variance of the outputs of some weights, shape (groups, outputs, columns), summed over outputs."""
    weights = rows.astype(np.float64)
    power = np.einsum("gok,gok->go", weights @ (covariance.second / covariance.count), weights)
    mean = np.einsum("gok,gk->go", weights, covariance.mean)
    return float(np.maximum(power - mean**2, _LEAST_VARIANCE * power).sum())
