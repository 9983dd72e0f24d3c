"""How far answers are off, and how far they may be."""

from __future__ import annotations

import numpy as np
from torch import nn

from karui.spaces.candidate import FLOAT_BITS, MOST_BITS_BESIDE_INT8

from .case import Case, Wrong, answers_of
from .plain_rounding import halved, plainly_rounded, plainly_zeroed
from .twins import folded

RELATIVE_ERROR = 1e-4
"""Between two float32 computations of one thing, in the largest of its values."""

HIGHEST_BOUND_DB = {"float16": 50.0, "w8 a8": 20.0, "w4 a32": 12.0, "w4 a8": 12.0, "zeros": 6.0}
"""The most that is expected of a file: what the answers vary by from input to input, to what they are off by."""

BEHIND_PLAIN_DB = {"float16": 6.0, "w8 a8": 5.0, "w4 a32": 3.0, "w4 a8": 3.0, "zeros": 3.0}
"""How far a file may be behind the plainest rounding there is, where that does not come up to the above.

Measured over the zoo, files with 8-bit activations lie between 4 dB below the plain twin, which leaves all but the
layers' inputs and the answers float32, and 12 dB above it; a broken operator costs 11 to 42 dB. With 4-bit weights,
which error feedback rounds better than to nearest, they lie 8 dB and more above.
"""
CHANNEL_MARGIN_DB = 12.0
"""How much nearer to the noise a single channel of the answers may be: one that hardly varies is the first to drown."""

CONSTANT = 1e-5
"""Answers that vary by less than this share of the largest are all the same; what they are off by is judged then."""
CONSTANT_ERROR = 0.02

BITS = {"w8 a8": (MOST_BITS_BESIDE_INT8, 8), "w4 a32": (4, FLOAT_BITS), "w4 a8": (4, 8)}
"""Bits of weights and activations; of 8 beside 8-bit activations one is left out, as in every candidate."""

ZEROS = 0.5
"""The share of weights that are zeroed."""


def bound_db(case: Case, treatment: str) -> tuple[float, str]:
    """Return the least ratio of signal to noise, and where it comes from."""
    plain = level_db(answers_of(plain_twin(case, treatment), case.held_out), case.answers)
    bound = min(HIGHEST_BOUND_DB[treatment], plain - BEHIND_PLAIN_DB[treatment])
    return bound, f" (a plain rounding has {plain:.1f})"


def plain_twin(case: Case, treatment: str) -> nn.Module:
    """Return the network treated by the plainest means there are."""
    original = folded(case.network)
    if treatment == "float16":
        return halved(original)
    if treatment == "zeros":
        return plainly_zeroed(original, ZEROS)
    return plainly_rounded(original, case.calibration, *BITS[treatment])


def judge_channels_of_outputs(given: np.ndarray, wanted: np.ndarray, bound_db: float) -> None:
    """No channel of the outputs is lost: each varies where the network's does, and follows it."""
    for axis in {1, wanted.ndim - 1} - {0} if wanted.ndim > 1 else set():
        spread = np.std(wanted - wanted.mean(0))
        for channel in range(wanted.shape[axis]):
            one, twin = (np.take(each, channel, axis) for each in (given, wanted))
            if np.std(twin - twin.mean(0)) < 1e-4 * spread:
                continue
            if np.std(one - one.mean(0)) == 0.0:
                raise Wrong(f"channel {channel} of axis {axis} of the outputs is the same for every input")
            level = level_db(one, twin)
            if not level >= bound_db:
                where = f"channel {channel} of axis {axis} of the outputs"
                raise Wrong(f"{where}: signal to noise {level:.1f} dB, at least {bound_db:g} expected")


def level_db(given: np.ndarray, wanted: np.ndarray) -> float:
    """Return the signal, what the answers vary by from input to input, to the noise, what they are off by."""
    if given.shape != wanted.shape or not np.isfinite(given).all():
        return float("-inf")
    wanted = wanted.astype(np.float64)
    signal, noise = np.mean((wanted - wanted.mean(0)) ** 2), np.mean((given - wanted) ** 2)
    largest = np.abs(wanted).max(initial=0.0)
    if noise <= (1e-6 * largest) ** 2:  # the last digits of float32
        return 120.0
    if signal <= (CONSTANT * largest) ** 2:
        return 60.0 if noise <= (CONSTANT_ERROR * largest) ** 2 else float("-inf")
    return float(10 * np.log10(signal / noise))


def relative_error(given: np.ndarray, wanted: np.ndarray) -> float:
    if given.shape != wanted.shape:
        return float("inf")
    return float(np.abs(given.astype(np.float64) - wanted).max() / max(np.abs(wanted).max(), 1e-6))


def same(given: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Raise where two computations of one thing differ by more than their last digits."""
    if given.shape != wanted.shape:
        raise Wrong(f"{what} have shape {given.shape}, the network's {wanted.shape}")
    error = relative_error(given, wanted)
    if not error <= RELATIVE_ERROR:
        raise Wrong(f"{what} differ by {error:.2g} of the largest")
