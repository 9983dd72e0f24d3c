"""What the noise of measurements leaves open about a front: who is beaten beyond it, and who may belong to it.

Every value carries a spread, half the width of its 95 % interval; of what is exact, such as a size, it is 0. Two values
differ *beyond noise* where their difference is at least the root of the sum of their squared spreads, which is half the
width of the 95 % interval of the difference of two independent values.

Accuracies of two files on the same rows are not independent: both stumble over the same hard ones. Where it is known
which rows each got right, the spread of their difference is given instead (``differences``); where it is not, they
count as independent, which is noisier than they are: nobody is called beaten for that who is not, and some who are
beaten are not called so.

Sources: Hughes, "Evolutionary multi-objective ranking with uncertainty and noise", EMO 2001, and Teich, "Pareto-front
exploration with uncertain objectives", EMO 2001 (dominance as a probability); Mlakar et al., "Comparing solutions under
uncertainty in multiobjective optimization", Mathematical Problems in Engineering 2014 (dominance by intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..objectives import Objective, as_losses
from .front import Points, nondominated, pareto_mask

SPREAD_PER_DEVIATION = 1.96
"""How many standard deviations of a normal distribution a spread is."""

RESAMPLES = 2000
"""Resamples behind a probability, which therefore is known to about 0.02 at worst."""

PLAUSIBLE = 0.05
"""Probability of belonging to the front above which a point lies on its edge."""

_OUT_OF_REACH = 2.0
"""Who is dominated by so many times the noise has a chance of less than 1 in 10,000."""

_ROWS_AT_ONCE = 256

Floats = NDArray[np.float64]
Indices = Sequence[int] | NDArray[np.intp]

Differences = Callable[[Sequence[str]], Floats | None]
"""Returns how well the differences of n files are known, given the SHA-256 of each: half widths of 95 % intervals, as
:func:`dominated_beyond_noise` takes them, or None where nothing is known of them."""


def dominated_beyond_noise(
    values: Points, spreads: Points, objectives: Sequence[Objective], differences: Floats | None = None
) -> NDArray[np.bool_]:
    """Say which points another one dominates beyond noise: no search needs to look at them again.

    One point dominates another beyond noise where it is better beyond noise in every objective in which either is
    noisy, no worse in those in which both are exact, and better in one at least. That is a strict partial order: no
    point dominates itself, and who is dominated by a dominated one is dominated by its dominator as well, since the
    deviation of a sum is no more than the sum of the deviations. Without noise it is Pareto dominance.

    Args:
        values: Shape (n_points, n_objectives), finite.
        spreads: Half widths of their 95 % intervals, of the same shape.
        objectives: The columns' objectives.
        differences: Half widths of the 95 % intervals of the differences of every two points, where they are known
            better than by these: shape (n_points, n_points, n_objectives), NaN where two values are independent.

    Returns:
        Shape (n_points,).

    Raises:
        ValueError: Where a value is missing or not finite, or a spread is negative.
    """
    return _dominated(*_checked(values, spreads, objectives), differences, times=1.0)


def near_dominated(
    values: Points, spreads: Points, objectives: Sequence[Objective], differences: Floats | None = None
) -> tuple[int | None, ...]:
    """Say for every point which other one makes it unnecessary: all that it gains over that may be noise.

    Point j covers point i where i is worse beyond noise in all objectives but at most one (or exactly alike, where
    nothing is noisy), and better beyond noise in none. That is what plain dominance misses: it keeps a point that is
    several times slower for a gain in accuracy that may be nothing but noise. Who is dominated beyond noise is covered.

    Covering is not transitive (many gains within the noise may add up to one beyond it), so points are taken in
    lexicographic order of their objectives, and only those that are not covered themselves cover others: who covers is
    always there to be chosen instead.

    Args:
        values: Shape (n_points, n_objectives), finite.
        spreads: Half widths of their 95 % intervals, of the same shape.
        objectives: The columns' objectives.
        differences: As for :func:`dominated_beyond_noise`.

    Returns:
        For every point the index of one that covers it, the first in that order; None where none does.

    Raises:
        ValueError: As :func:`dominated_beyond_noise`.
    """
    losses, widths = _checked(values, spreads, objectives)
    found: list[int | None] = [None] * len(losses)
    kept: list[int] = []
    for point in np.lexsort(losses.T[::-1]).tolist():
        gaps = losses[point] - losses[kept]
        noise = _noise(widths, differences, [point], kept)[0]
        no_gain = np.all((gaps >= 0) | (-gaps < noise), axis=1)
        no_better = np.sum(gaps >= noise, axis=1) >= len(objectives) - 1
        worse = np.any((gaps > 0) & (gaps >= noise), axis=1)
        covering = np.flatnonzero(no_gain & no_better & worse)
        if len(covering):
            found[point] = kept[int(covering[0])]
        else:
            kept.append(point)
    return tuple(found)


def front_probability(
    values: Points,
    spreads: Points,
    objectives: Sequence[Objective],
    differences: Floats | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """Return for every point how likely it belongs to the front, given how well each value is known.

    A parametric bootstrap over the measurements (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section
    6.5): every value is drawn from the normal distribution of its spread, independently of the others but where the
    spread of their difference says how much they go together, and the share of the draws is counted in which no other
    point dominates it. Of points that are equal in a draw the first counts.

    Args:
        values: Shape (n_points, n_objectives), finite.
        spreads: Half widths of their 95 % intervals, of the same shape.
        objectives: The columns' objectives.
        differences: As for :func:`dominated_beyond_noise`.
        resamples: How many draws.
        seed: Seed of the draws.

    Returns:
        Shape (n_points,), from 0 to 1.

    Raises:
        ValueError: As :func:`dominated_beyond_noise`.
    """
    losses, widths = _checked(values, spreads, objectives)
    probability = np.zeros(len(losses))
    within_reach = np.flatnonzero(~_dominated(losses, widths, differences, times=_OUT_OF_REACH))
    losses, deviations = losses[within_reach], widths[within_reach] / SPREAD_PER_DEVIATION
    if differences is not None:
        differences = differences[np.ix_(within_reach, within_reach)] / SPREAD_PER_DEVIATION
    if len(losses):
        chance = np.random.default_rng(seed)
        vary = _variation(deviations, differences)
        draws = (losses + vary(chance.standard_normal(losses.shape)) for _ in range(resamples))
        times = np.sum([nondominated(drawn) for drawn in draws], axis=0)
        probability[within_reach] = times / resamples
    return probability


def edge_of_front(
    values: Points,
    spreads: Points,
    objectives: Sequence[Objective],
    most: int,
    probability: float = PLAUSIBLE,
    differences: Callable[[list[int]], Floats | None] | None = None,
) -> list[int]:
    """Return the points on the edge of the front: dominated, but not beyond noise, and likely enough to belong to it.

    Args:
        values: Shape (n_points, n_objectives), finite.
        spreads: Half widths of their 95 % intervals, of the same shape.
        objectives: The columns' objectives.
        most: How many to return at most.
        probability: How likely they have to belong to the front.
        differences: Returns those of the points whose indices it is given, as for :func:`dominated_beyond_noise`; asked
            only of those within reach of the front, since many more may be far from it.

    Returns:
        Indices, the likeliest first.

    Raises:
        ValueError: As :func:`dominated_beyond_noise`.
    """
    losses, widths = _checked(values, spreads, objectives)
    near = np.flatnonzero(~_dominated(losses, widths, None, times=_OUT_OF_REACH))
    among = None if differences is None else differences(near.tolist())
    # whoever is not near is dominated by the front itself, which is
    near_values, near_spreads = np.asarray(values, dtype=np.float64).reshape(losses.shape)[near], widths[near]
    likely = front_probability(near_values, near_spreads, objectives, among)
    beaten = dominated_beyond_noise(near_values, near_spreads, objectives, among)
    edge = np.flatnonzero(~pareto_mask(near_values, objectives) & ~beaten & (likely > probability))
    return near[edge[np.argsort(-likely[edge], kind="stable")]].tolist()[:most]  # type: ignore[no-any-return]


def _checked(values: Points, spreads: Points, objectives: Sequence[Objective]) -> tuple[Floats, Floats]:
    losses = as_losses(values, objectives)
    widths: Floats = np.asarray(spreads, dtype=np.float64).reshape(-1, len(objectives))
    if widths.shape != losses.shape:
        raise ValueError(f"a spread for each of {losses.shape} values expected, got {widths.shape}")
    if not (np.isfinite(widths) & (widths >= 0)).all():
        raise ValueError("a spread that is missing, not finite or negative says nothing")
    return losses, widths


def _noise(widths: Floats, differences: Floats | None, rows: Indices, others: Indices) -> Floats:
    """Return by how much values of points may differ by noise, shape (n_rows, n_others, n_objectives)."""
    apart: Floats = np.hypot(widths[rows][:, None], widths[others])
    if differences is None:
        return apart
    known = differences[np.ix_(np.asarray(rows, dtype=np.intp), np.asarray(others, dtype=np.intp))]
    return np.where(np.isnan(known), apart, known)


def _variation(deviations: Floats, differences: Floats | None) -> Callable[[Floats], Floats]:
    """Return what makes of standard normal numbers, shape (n_points, n_objectives), how points vary together.

    Args:
        deviations: Of each point, of that shape.
        differences: Of the difference of every two, as for :func:`dominated_beyond_noise`.
    """
    if differences is None:
        return lambda drawn: deviations * drawn
    roots = []
    for column, variances in enumerate(deviations.T**2):
        together = (variances[:, None] + variances - differences[:, :, column] ** 2) / 2
        # Spreads are estimates, so that this may be no covariance quite: the nearest one is taken.
        shares, directions = np.linalg.eigh(np.where(np.isnan(together), np.diag(variances), together))
        roots.append(directions * np.sqrt(np.maximum(shares, 0.0)))
    return lambda drawn: np.column_stack([root @ drawn[:, column] for column, root in enumerate(roots)])


def _dominated(losses: Floats, widths: Floats, differences: Floats | None, times: float) -> NDArray[np.bool_]:
    """Say which points another one dominates by so many times the noise."""
    found = np.zeros(len(losses), dtype=bool)
    # Most are dominated by the front itself, which is small; only who is not has to be compared with everybody.
    for rivals in (np.flatnonzero(nondominated(losses)), np.arange(len(losses))):
        left = np.flatnonzero(~found)
        for start in range(0, len(left), _ROWS_AT_ONCE):
            rows = left[start : start + _ROWS_AT_ONCE]
            gaps = losses[rows, None] - losses[rivals]
            noise = times * _noise(widths, differences, rows, rivals)
            dominates = np.all(gaps >= noise, axis=2) & np.any(gaps > 0, axis=2)
            found[rows] = np.any(dominates, axis=1)
    return found
