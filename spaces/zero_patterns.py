"""Where zeros may lie among the weights of a layer, and how many there have to be."""

from __future__ import annotations

from .sparsity_names import ZeroPattern

TINY_LAYER = 100
"""Layers of fewer weights than this stay dense: their zeros save nothing and cost accuracy."""

PATTERNS: dict[ZeroPattern, tuple[int, int]] = {"2:4": (2, 4), "4:8": (4, 8)}
"""By name, how many weights at most differ from zero, and of how many in a row."""


def check_fraction(fraction: float, pattern: ZeroPattern) -> None:
    """Check that a fraction of zeros has a meaning under a pattern.

    Raises:
        ValueError: Outside [0, 1), and where a pattern ``n:m`` is to leave another fraction than its own, or none.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction of weights to zero: expected 0 <= fraction < 1, got {fraction}")
    if pattern != "free":
        kept, length = PATTERNS[pattern]
        if fraction not in (0.0, 1.0 - kept / length):
            raise ValueError(f"the pattern {pattern} zeroes {1.0 - kept / length:.0%} of the weights, got {fraction}")
