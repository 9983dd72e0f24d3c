"""How much noise rounding adds to a tensor, against what the tensor says about its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_CHANNELS = 4096
"""Axes that number more than so many are positions."""

_CONSTANT = 1e-9
"""Of what differs by a smaller share of its power, the power itself is the signal."""

_DEAD = 1e-16
"""Channels of a smaller share of the largest one's power are none."""


@dataclass(frozen=True)
class Noise:
    """Powers of what is right and of the error, channel by channel.

    Args:
        signal: Variance of what is right, shape (channels,).
        error: Mean square of the difference, that shape; infinite where an answer is no number.
    """

    signal: np.ndarray
    error: np.ndarray

    @property
    def worst_db(self) -> float:
        """The least ratio of signal to error in dB; -inf where an answer is no number, inf without any error."""
        if not len(self.error):
            return np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(self.error == 0, np.inf, 10 * np.log10(self.signal / self.error))
        return float(ratios.min())


def noise_of(reference: np.ndarray, answer: np.ndarray) -> Noise:
    """Return the noise of a tensor as a whole; signal is what differs from input to input.

    Args:
        reference: What is right, shape (n, ...).
        answer: What is compared with it, that shape.
    """
    inputs = len(reference) if reference.ndim else 1
    return _noise(reference.reshape(1, inputs, -1), answer.reshape(1, inputs, -1))


def noise_by_channel(reference: np.ndarray, answer: np.ndarray) -> Noise:
    """Return the noise of each channel, taking the second axis and the last for what numbers the channels.

    What differs from place to place is signal too. Every channel stands there twice: with its powers, which a few
    large values may make up, and with the squares of its mean absolute deviation and error. Channels that are always
    zero, as far as float32 tells, have no error.
    """
    if reference.ndim < 2:
        return noise_of(reference, answer)
    found = []
    for axis in sorted({1, reference.ndim - 1}):
        if reference.shape[axis] <= MOST_CHANNELS:
            rows = [np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1, 1) for values in (reference, answer)]
            found += [_noise(*rows), _absolute_noise(*rows)]
    return Noise(
        np.concatenate([each.signal for each in found] or [np.zeros(0)]),
        np.concatenate([each.error for each in found] or [np.zeros(0)]),
    )


def _absolute_noise(reference: np.ndarray, answer: np.ndarray) -> Noise:
    """Return :func:`_noise` with the square of the mean absolute value for the mean square."""
    right = reference.astype(np.float64)
    power = np.square(np.abs(right).mean(axis=(1, 2)))
    signal = np.square(np.abs(right - right.mean(axis=1, keepdims=True)).mean(axis=(1, 2)))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.square(np.abs(answer - right).mean(axis=(1, 2)))
    return _checked(power, signal, error)


def _noise(reference: np.ndarray, answer: np.ndarray) -> Noise:
    """Return the noise of each row, shape (rows, n, elements); signal is what differs along n."""
    right = reference.astype(np.float64)
    power = np.square(right).mean(axis=(1, 2))
    signal = right.var(axis=1).mean(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.square(answer - right).mean(axis=(1, 2))
    return _checked(power, signal, error)


def _checked(power: np.ndarray, signal: np.ndarray, error: np.ndarray) -> Noise:
    signal = np.where(signal > _CONSTANT * power, signal, power)
    error = np.where(np.isfinite(error), error, np.inf)
    dead = power <= _DEAD * power.max(initial=0.0)
    return Noise(signal, np.where(dead & np.isfinite(error), 0.0, error))
