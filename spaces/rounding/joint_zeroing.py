"""Weights zeroed at once after training: which, over all layers, and what the others become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..sparsity_names import ZeroPattern
from ..zero_patterns import TINY_LAYER, check_fraction
from .error_feedback import damped
from .im2col import as_rows, from_rows
from .input_covariance import InputCovariance, summed_second
from .layers import Layer
from .zero_choice import pattern_counts, saliences, zero_rows, zero_smallest


@dataclass(frozen=True)
class Zeroing:
    """How many weights are zero in the end, and where.

    Args:
        fraction: Of all weights of the layers, in [0, 1); weights that are zero already count. Less where the weights
            that must stay do not allow it: layers of fewer than 100 weights, and the largest weight of each output.
        pattern: ``free``, or ``n:m`` where of every m weights in a row, along the inputs, at most n are not zero; the
            fraction must be that of the pattern. What is left over at the end of a row stays, and so do tiny layers.

    Raises:
        ValueError: Where the fraction has no meaning.
    """

    fraction: float
    pattern: ZeroPattern = "free"

    def __post_init__(self) -> None:
        check_fraction(self.fraction, self.pattern)


@dataclass(frozen=True)
class SeenWeight:
    """A weight and the inputs that it meets.

    Args:
        rows: The weight, shape (groups, rows, columns), as :func:`~.im2col.as_rows` gives it.
        second: Second moments of the inputs, summed over the layers that read it; None where they are not known.
    """

    rows: np.ndarray
    second: np.ndarray | None


def seen_weights(
    weights: Mapping[str, np.ndarray],
    readers: Mapping[str, list[Layer]],
    portions: Iterable[dict[str, InputCovariance]],
) -> Iterator[tuple[str, SeenWeight]]:
    """Yield each weight with the moments of its inputs, by name; those without moments come last.

    Args:
        weights: Weights by name.
        readers: The layers that read each of them.
        portions: Moments by node name.
    """
    left = dict(readers)
    for portion in portions:
        for name in list(left):
            found = [portion[layer.node_name] for layer in readers[name] if layer.node_name in portion]
            if found and (second := summed_second(found)) is not None:
                del left[name]
                yield name, SeenWeight(as_rows(weights[name], readers[name][0].channel_axis, len(second)), second)
    for name in left:
        yield name, SeenWeight(as_rows(weights[name], readers[name][0].channel_axis, 1), None)


def zeroed_weights(
    weights: Mapping[str, np.ndarray],
    readers: Mapping[str, list[Layer]],
    portions: Iterable[dict[str, InputCovariance]],
    zeroing: Zeroing,
) -> dict[str, np.ndarray]:
    """Return the weights with zeros, the others of each output making good for them, float32.

    Under ``free`` all layers compete: the cost of a weight (see :func:`~.zero_choice.saliences`) counts in relation to
    the sum of those in its layer that are no cheaper, as LAMP does it with squares (Lee et al., ICLR 2021), to which
    it comes down where inputs are not known. That says how many weights of each output go; which they are is then
    chosen output by output. Weights whose inputs are not known go by magnitude, and nothing makes good for them.

    Args:
        weights: Weights by name, finite.
        readers: The layers that read each of them.
        portions: Moments by node name; iterated twice.
        zeroing: How many, and where.
    """
    counts = _counts(seen_weights(weights, readers, portions), zeroing)
    result = {}
    for name, seen in seen_weights(weights, readers, portions):
        axis = readers[name][0].channel_axis
        rows = _zeroed_rows(seen, counts[name], zeroing.pattern)
        # Zeros become positive ones, whose bytes are zero.
        result[name] = from_rows(rows.astype(np.float32) + np.float32(0), weights[name].shape, axis)
    return result


def _zeroed_rows(seen: SeenWeight, counts: np.ndarray, pattern: ZeroPattern) -> np.ndarray:
    if (counts == (seen.rows == 0).sum(axis=2)).all():
        return seen.rows
    conditioned = _conditioned(seen.second)
    if conditioned is None:
        return zero_smallest(seen.rows, counts, pattern)
    return zero_rows(seen.rows, *conditioned, counts, pattern)


def _conditioned(second: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the damped moments and their inverse, None where there are none."""
    curvature = None if second is None else damped(second)
    if curvature is None:
        return None
    try:
        np.linalg.cholesky(curvature)
        return curvature, np.linalg.inv(curvature)
    except np.linalg.LinAlgError:
        return None


def _counts(found: Iterable[tuple[str, SeenWeight]], zeroing: Zeroing) -> dict[str, np.ndarray]:
    """Return the zeros wanted in each row, those that it has included, shape (groups, rows), by name."""
    if zeroing.pattern != "free" and zeroing.fraction:
        return {
            name: (seen.rows == 0).sum(axis=2)
            if seen.rows.size < TINY_LAYER
            else pattern_counts(seen.rows, zeroing.pattern)
            for name, seen in found
        }
    costs = {name: _relative_costs(seen) for name, seen in found}
    together = np.concatenate([each.ravel() for each in costs.values()]) if costs else np.zeros(0)
    wanted = min(round(zeroing.fraction * together.size), int(np.isfinite(together).sum()))
    chosen = np.zeros(together.size, dtype=bool)
    chosen[np.argsort(together, kind="stable")[:wanted]] = True
    chosen |= together < 0
    counts, start = {}, 0
    for name, each in costs.items():
        counts[name] = chosen[start : start + each.size].reshape(each.shape).sum(axis=2)
        start += each.size
    return counts


def _relative_costs(seen: SeenWeight) -> np.ndarray:
    """Return what each weight costs its layer; below 0 where it is zero already, infinite where it must stay."""
    conditioned = _conditioned(seen.second)
    costs = np.square(seen.rows, dtype=np.float64)
    if conditioned is not None and seen.second is not None:
        # The damped moments have a mean diagonal of 1 in each group; here the groups of a layer compete.
        strengths = np.trace(seen.second, axis1=1, axis2=2)[:, None, None]
        costs = strengths * saliences(seen.rows, np.diagonal(conditioned[1], axis1=1, axis2=2))
    ordered = np.sort(costs, axis=None)
    not_smaller = ordered[::-1].cumsum()[::-1][np.searchsorted(ordered, costs.ravel())].reshape(costs.shape)
    costs = costs / np.maximum(not_smaller, np.finfo(np.float64).tiny)
    if seen.rows.size < TINY_LAYER:
        costs = np.full_like(costs, np.inf)
    else:
        np.put_along_axis(costs, np.abs(seen.rows).argmax(axis=2)[:, :, None], np.inf, axis=2)
    return np.where(seen.rows == 0, -1.0, costs)
