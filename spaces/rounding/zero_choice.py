"""Which weights of a layer are zeroed, so that its outputs change least once the others make good for them."""

from __future__ import annotations

import numpy as np

from ..sparsity_names import ZeroPattern
from ..zero_patterns import PATTERNS
from .compensation import compensate

_SHORT_ROW = 96
"""Most weights of a row that go one at a time."""

_SHARES = 8
"""Of more, this part of those that are still to go is taken at a time: the last choices cost most."""

_BLOCK_BYTES = 2**25
"""What the rows that are worked on together may take."""

_MOST_WORK = 2e10
"""Multiplications that removing weights one after another may take for a layer, some seconds."""

_ROUNDS, _ITERATIONS, _LAST_ITERATIONS = 16, 4, 20


def saliences(weight: np.ndarray, inverse_diagonal: np.ndarray) -> np.ndarray:
    """Return by how much the squared error of a layer grows where one weight is zeroed and the others make good.

    That is w_j^2 / [H^-1]_jj (Hassibi and Stork, "Optimal brain surgeon", NeurIPS 1992).

    Args:
        weight: Shape (groups, rows, columns).
        inverse_diagonal: Diagonal of the inverse second moments, shape (groups, columns).
    """
    return np.asarray(np.square(weight, dtype=np.float64) / inverse_diagonal[:, None, :])


def zero_rows(
    weight: np.ndarray, curvature: np.ndarray, inverse: np.ndarray, counts: np.ndarray, pattern: ZeroPattern
) -> np.ndarray:
    """Return the weights with so many zeros in each row, the others changed so that the outputs change least.

    The weight that costs least goes, the others of its row make good, and so on: the greedy choice of Frantar and
    Alistarh, "Optimal Brain Compression" (NeurIPS 2022, section 4). Rows that lose more than 96 weights lose several
    at a time. Layers for which even that takes too long (beyond about 1,000 columns and 128 rows) are zeroed in
    rounds, by the inverse before the first of them, which leaves half as much error again.

    Args:
        weight: Shape (groups, rows, columns).
        curvature: Damped second moments H, shape (groups, columns, columns).
        inverse: Its inverse.
        counts: Zeros wanted in each row, those that it has included, shape (groups, rows); where more are wanted than
            may go, all that may.
        pattern: Where they may lie.

    Returns:
        float64, shape of ``weight``.
    """
    _groups, rows, columns = weight.shape
    if columns * np.square(counts, dtype=np.float64).sum() / 2 > _MOST_WORK:
        return _in_rounds(weight, curvature, np.diagonal(inverse, axis1=1, axis2=2), counts, pattern)
    flat, wanted = weight.reshape(-1, columns), counts.reshape(-1)
    result = np.empty(flat.shape, dtype=np.float64)
    step = max(1, _BLOCK_BYTES // (8 * columns * max(1, int(wanted.max()))))
    for start in range(0, len(flat), step):
        block = slice(start, start + step)
        group_of_row = np.arange(start, min(start + step, len(flat))) // rows
        result[block] = _one_by_one(flat[block], inverse, group_of_row, wanted[block], pattern)
    return result.reshape(weight.shape)


def zero_smallest(weight: np.ndarray, counts: np.ndarray, pattern: ZeroPattern) -> np.ndarray:
    """Return the weights with so many of the smallest of each row zeroed, the others as they are.

    Args:
        weight: Shape (groups, rows, columns).
        counts: Zeros wanted in each row, those that it has included, shape (groups, rows).
        pattern: Where they may lie.
    """
    flat = weight.reshape(-1, weight.shape[2])
    places = _Places(flat, pattern)
    remaining = counts.reshape(-1).copy()
    while remaining.any():
        chosen, valid = places.cheapest(np.square(flat, dtype=np.float64), remaining, flat.shape[1])
        if not valid.any():  # more was wanted than may go: one weight of each row stays
            break
        places.zero(chosen, valid)
        remaining -= valid.sum(axis=1)
    return np.where(places.zeroed, 0.0, flat).reshape(weight.shape)


def pattern_counts(weight: np.ndarray, pattern: ZeroPattern) -> np.ndarray:
    """Return how many zeros each row has under ``n:m``, with those that it has beyond, shape (groups, rows)."""
    kept, length = PATTERNS[pattern]
    zeros = weight == 0
    whole = weight.shape[2] // length * length
    runs = zeros[:, :, :whole].reshape(*weight.shape[:2], -1, length).sum(axis=3)
    return np.asarray(np.maximum(runs, length - kept).sum(axis=2) + zeros[:, :, whole:].sum(axis=2))


class _Places:
    """Which weights of some rows have been zeroed, and which may be.

    Args:
        rows: Shape (rows, columns); what is zero there goes first, whatever the pattern.
        pattern: Where zeros may lie. Under ``free`` the largest weight of each row stays.
    """

    def __init__(self, rows: np.ndarray, pattern: ZeroPattern) -> None:
        self.zeroed = np.zeros(rows.shape, dtype=bool)
        self._was_zero = rows == 0
        self._kept, self._length = PATTERNS.get(pattern, (0, 0))
        self._largest = np.abs(rows).argmax(axis=1)[:, None]

    def cheapest(self, costs: np.ndarray, remaining: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return places to zero next, the cheapest first, and which of them count, both of shape (rows, at a time).

        Args:
            costs: Shape (rows, columns).
            remaining: How many weights of each row are still to be zeroed.
            most: How many places of a row may be told at a time; under a pattern only one of each run is.
        """
        costs = self._allowed(costs)
        most = min(most, int(remaining.max()), costs.shape[1])
        chosen = np.argpartition(costs, most - 1, axis=1)[:, :most]
        found = np.take_along_axis(costs, chosen, 1)
        order = np.argsort(found, axis=1, kind="stable")
        found = np.take_along_axis(found, order, 1)
        valid = (np.arange(most) < remaining[:, None]) & np.isfinite(found)
        return np.take_along_axis(chosen, order, 1), valid

    def zero(self, chosen: np.ndarray, valid: np.ndarray) -> None:
        """Note that the chosen places are zero now, those that count."""
        rows = np.broadcast_to(np.arange(len(chosen))[:, None], chosen.shape)
        self.zeroed[rows[valid], chosen[valid]] = True

    def _allowed(self, costs: np.ndarray) -> np.ndarray:
        """Return the costs, infinite where no zero may come."""
        costs = np.where(self._was_zero, -1.0, costs)
        if not self._length:
            nothing_else = np.take_along_axis(self._was_zero, self._largest, 1)
            np.put_along_axis(costs, self._largest, np.where(nothing_else, -1.0, np.inf), 1)
            costs[self.zeroed] = np.inf
            return costs
        whole = costs.shape[1] // self._length * self._length
        costs[:, whole:][~self._was_zero[:, whole:]] = np.inf
        costs[self.zeroed] = np.inf
        runs = costs[:, :whole].reshape(len(costs), -1, self._length)
        full = self.zeroed[:, :whole].reshape(runs.shape).sum(axis=2) >= self._length - self._kept
        runs[full[:, :, None] & (runs >= 0)] = np.inf
        cheapest = runs.argmin(axis=2)[:, :, None]
        only = np.full_like(runs, np.inf)
        np.put_along_axis(only, cheapest, np.take_along_axis(runs, cheapest, 2), 2)
        costs[:, :whole] = only.reshape(len(costs), -1)
        return costs


def _one_by_one(
    weight: np.ndarray, inverse: np.ndarray, group_of_row: np.ndarray, counts: np.ndarray, pattern: ZeroPattern
) -> np.ndarray:
    """Zero the cheapest weights of each row in turn.

    The inverse of H without the zeroed columns is that of H less u u^T for each of them. Only these u are kept, since
    no more than the diagonal and the columns to be zeroed is ever read.
    """
    places = _Places(weight, pattern)
    is_short = counts.max() <= _SHORT_ROW
    weight, remaining = weight.astype(np.float64), counts.copy()
    diagonal = np.diagonal(inverse, axis1=1, axis2=2)[group_of_row].copy()
    taken = np.zeros((len(weight), int(counts.max()), weight.shape[1]), dtype=np.float64 if is_short else np.float32)
    inverse = inverse.astype(taken.dtype)
    used = 0
    while remaining.any():
        at_a_time = 1 if is_short else -(-int(remaining.max()) // _SHARES)
        chosen, valid = places.cheapest(np.square(weight) / diagonal, remaining, at_a_time)
        if not valid.any():
            break
        here = slice(used, used + chosen.shape[1])
        if here.stop > taken.shape[1]:
            taken = np.concatenate([taken, np.zeros_like(taken)], axis=1)
        before = np.take_along_axis(taken[:, :used], chosen[:, None, :], 2)
        columns = inverse[group_of_row[:, None], chosen] - np.swapaxes(before, 1, 2) @ taken[:, :used]
        shares, values = _eliminate(columns, np.take_along_axis(weight, chosen, 1), chosen, valid)
        weight -= np.einsum("rc,rcj->rj", values, shares)
        diagonal -= np.square(shares).sum(axis=1)
        taken[:, here] = shares
        used = here.stop
        places.zero(chosen, valid)
        remaining -= valid.sum(axis=1)
        weight[places.zeroed], diagonal[places.zeroed] = 0.0, 1.0
    return weight


def _eliminate(
    columns: np.ndarray, values: np.ndarray, chosen: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the u of the chosen columns of the inverse, (rows, chosen, columns), and how much of each to take off."""
    columns, values = columns * valid[:, :, None], values * valid
    corner = np.take_along_axis(columns, chosen[:, None, :], 2) * valid[:, None, :]
    corner += np.eye(chosen.shape[1]) * ~valid[:, :, None]
    backwards = np.linalg.inv(np.linalg.cholesky(corner))
    return backwards @ columns, (backwards @ values[:, :, None])[:, :, 0]


def _in_rounds(
    weight: np.ndarray, curvature: np.ndarray, inverse_diagonal: np.ndarray, counts: np.ndarray, pattern: ZeroPattern
) -> np.ndarray:
    shape, columns = weight.shape, weight.shape[2]
    places = _Places(weight.reshape(-1, columns), pattern)
    found = weight.astype(np.float64)
    done = np.zeros(counts.size, dtype=counts.dtype)
    number = 0
    while (done < counts.reshape(-1)).any():
        number = min(number + 1, _ROUNDS)
        share = 1.0 - (1.0 - number / _ROUNDS) ** 2
        remaining = np.maximum(np.ceil(counts.reshape(-1) * share).astype(counts.dtype) - done, 0)
        costs = saliences(found, inverse_diagonal).reshape(-1, columns)
        if remaining.any():
            chosen, valid = places.cheapest(costs, remaining, columns)
            if not valid.any():
                break
            places.zero(chosen, valid)
            done += valid.sum(axis=1)
        zeros = places.zeroed.reshape(shape)
        iterations = _ITERATIONS if number < _ROUNDS else _LAST_ITERATIONS
        found = compensate(weight, found, zeros, curvature, iterations)
    return found
