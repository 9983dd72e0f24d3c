"""What the tensors of a float32 network hold on calibration inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np
import onnx

from ..onnx_file import Arrays, feeds_for, open_watching

BATCH = 32

MOST_RECORDED, FEWEST_RECORDED = 16, 4
"""Inputs whose tensors are kept whole; as many as :data:`MOST_ELEMENTS` allow."""

MOST_ELEMENTS = 2**25
"""Elements that are kept in all, 128 MB."""

LARGEST = 1e30
"""Beyond it values are no numbers to compute with but marks, such as the least float32 in a mask."""

Extremes = dict[str, tuple[float, float]]
"""The least and the greatest value of tensors by name; NaN where they hold one."""


def extremes_of(model: onnx.ModelProto, names: Set[str], calibration: Arrays) -> Extremes:
    """Return the extremes of tensors over all calibration inputs, with zero among them.

    Args:
        model: Float32 model.
        names: Tensors of that model.
        calibration: Shape (n, *input_shape).
    """
    found: Extremes = {}
    for tensors in _runs(model, names, calibration):
        for name, values in tensors.items():
            lowest, highest = found.get(name, (0.0, 0.0))
            if values.size:
                # Not min(): that drops a NaN, which must be seen.
                found[name] = float(np.minimum(lowest, values.min())), float(np.maximum(highest, values.max()))
    return found


def record(model: onnx.ModelProto, names: Set[str], calibration: Arrays) -> dict[str, np.ndarray]:
    """Return what tensors hold on a few calibration inputs, spread over all of them; the network's inputs among them.

    Args:
        model: Float32 model.
        names: Tensors of that model.
        calibration: Shape (n, *input_shape).
    """
    (one,) = _runs(model, names, calibration[:1])
    elements = sum(values.size for values in one.values())
    most = max(FEWEST_RECORDED, min(MOST_RECORDED, MOST_ELEMENTS // max(1, elements)))
    places = np.linspace(0, len(calibration) - 1, min(most, len(calibration))).round().astype(int)
    chosen = calibration[places]
    (found,) = _runs(model, names, chosen)
    return {**found, **feeds_for(model, chosen)}


def is_finite(ends: tuple[float, float]) -> bool:
    """Say whether these are the ends of values that can be computed with."""
    return all(abs(end) <= LARGEST for end in ends)


def _runs(model: onnx.ModelProto, names: Set[str], calibration: Arrays) -> Iterator[Mapping[str, np.ndarray]]:
    session = open_watching(model, names)
    outputs = [value.name for value in session.get_outputs()]
    for start in range(0, len(calibration), BATCH):
        batch = calibration[start : start + BATCH]
        feeds = feeds_for(model, batch)
        tensors = dict(zip(outputs, session.run(None, feeds), strict=True))
        tensors.update((name, values) for name, values in feeds.items() if name in names)
        yield {name: np.asarray(values) for name, values in tensors.items()}
