"""Changing the weights that are left so that they make good for those that were zeroed."""

from __future__ import annotations

import numpy as np


def compensate(
    weight: np.ndarray, start: np.ndarray, zeros: np.ndarray, curvature: np.ndarray, iterations: int
) -> np.ndarray:
    """Return weights v, zero where told, with a small error (w - v) H (w - v)^T, by conjugate gradients.

    One product of matrices per iteration serves all rows, where the exact answer takes the inverse of another matrix
    for each row (Boza, "Fast and effective weight update for pruned large language models", 2024, iterates likewise).

    Args:
        weight: The weights w, shape (groups, rows, columns).
        start: What to start from, that shape.
        zeros: Which weights are zero, that shape.
        curvature: H, positive definite, shape (groups, columns, columns).
        iterations: How often to iterate.
    """
    curvature = curvature.astype(np.float32)
    # Columns before rows, as the matrix products want them.
    kept = np.swapaxes(~zeros, 1, 2).astype(np.float32)
    found = np.ascontiguousarray(np.swapaxes(start, 1, 2), dtype=np.float32) * kept
    residue = (curvature @ (np.swapaxes(weight, 1, 2).astype(np.float32) - found)) * kept
    slopes = np.diagonal(curvature, axis1=1, axis2=2)[:, :, None]
    direction = residue / slopes
    strength = (residue * direction).sum(axis=1, keepdims=True)
    for _iteration in range(iterations):
        ahead = (curvature @ direction) * kept
        step = strength / np.maximum((direction * ahead).sum(axis=1, keepdims=True), _TINY)
        found += step * direction
        residue -= step * ahead
        scaled = residue / slopes
        before, strength = strength, (residue * scaled).sum(axis=1, keepdims=True)
        direction = scaled + strength / np.maximum(before, _TINY) * direction
    return np.swapaxes(found, 1, 2).astype(np.float64)


_TINY = 1e-30
