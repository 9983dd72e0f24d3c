"""How sensitive each layer of an ONNX graph is to few bits, found by running it with one weight rounded at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from pydantic import ValidationError

from ....artifact import write_bytes
from ....data.named import parts_of, whole_shapes_of
from ....rounding.input_covariance import InputCovariance
from ....rounding.layers import Layer
from ....rounding.mean_shift import mean_shifts
from ....rounding.rounded_weights import round_alone
from ....rounding.sensitivity import ALL_BITS, SensitivityTable, loss_increase
from ....rounding.settings import QuantizationSettings
from ..onnx_file import Arrays, copy_of, run_in_batches
from .bias_correction import correct_biases
from .covariance_source import input_covariances
from .weight_layers import read_weights, write_weights

TABLE_VERSION = 3
"""Raised when a change of the code changes the tables that the same network gives."""

_BATCH = 64


def sensitivity_table(
    model: onnx.ModelProto,
    layers: list[Layer],
    calibration: Arrays,
    settings: QuantizationSettings,
    *,
    bits: tuple[int, ...] = ALL_BITS,
) -> SensitivityTable:
    """Round each weight alone, all others being float, and see how the network's outputs change.

    The idea, and that the increases of all layers may be added up, is that of "ZeroQ" (Cai et al., CVPR 2020, section
    3.2). Weights are rounded as the study rounds them; activations stay float, so that one table serves both.

    Args:
        model: Float32 model with one input, its nodes named; it is left as it is.
        layers: Layers of that model; a weight that several read is rounded for all of them.
        calibration: float32, shape (n, *input_shape).
        settings: How weights are rounded, and on how many of the inputs the outputs are compared.
        bits: Bits to try, ascending, each from 2 to 8.
    """
    probe = _Probe(model, calibration[: settings.sensitivity_samples])
    weights = read_weights(model, {layer.weight_name for layer in layers})
    increases: dict[str, tuple[float, ...]] = {}
    for name, found in _seen(model, layers, calibration, settings):
        readers = [layer for layer in layers if layer.weight_name == name]
        means = {node_name: covariances.mean for node_name, covariances in found.items()}
        row = []
        for each in bits:
            after = round_alone(weights[name], readers[0].channel_axis, list(found.values()), each, settings).values
            shifts = mean_shifts(readers, weights, {name: after}, means) if settings.bias_correction == "on" else {}
            row.append(probe.loss_increase(name, after, shifts))
        increases[name] = tuple(row)
    return SensitivityTable(
        digest=table_digest(model, calibration, settings),
        names=tuple(increases),
        sizes=tuple(weights[name].size for name in increases),
        bits=bits,
        loss_increases=tuple(increases.values()),
    )


def kept_table(
    path: Path | None,
    model: onnx.ModelProto,
    layers: list[Layer],
    calibration: Arrays,
    settings: QuantizationSettings,
) -> SensitivityTable:
    """Return the table kept at a path, made and kept there first where it is missing, broken or of something else.

    Args:
        path: Where the table is kept; None to keep it nowhere.
        model: As for :func:`sensitivity_table`, and so are the others.
        layers: Layers of that model.
        calibration: float32, shape (n, *input_shape).
        settings: How weights are rounded.

    Raises:
        OSError: Where the table cannot be written.
    """
    if path is not None and path.exists():
        try:
            kept = SensitivityTable.from_json(path.read_bytes())
        except ValidationError:
            kept = None
        if kept is not None and kept.digest == table_digest(model, calibration, settings):
            return kept
    table = sensitivity_table(model, layers, calibration, settings)
    if path is not None:
        write_bytes(table.to_json().encode(), path)
    return table


def table_digest(model: onnx.ModelProto, calibration: Arrays, settings: QuantizationSettings) -> str:
    """Return a digest of what a table follows from: the network, the inputs, and how weights are rounded."""
    told = {"rounding", "bias_correction", "granularity", "sensitivity_samples"}
    described = {"version": TABLE_VERSION, "shape": whole_shapes_of(calibration), **settings.model_dump(include=told)}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(model.SerializeToString(deterministic=True))
    for array in parts_of(calibration).values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Probe:
    """Compares a network that has one weight changed with the network as it was."""

    def __init__(self, model: onnx.ModelProto, inputs: Arrays) -> None:
        self._model = model
        self._inputs = inputs
        self._before = run_in_batches(model, inputs, _BATCH)

    def loss_increase(self, name: str, weight: np.ndarray, shifts: dict[str, np.ndarray]) -> float:
        """Return what the loss gains with another weight, the biases taking back the shifts."""
        changed = copy_of(self._model)
        write_weights(changed, {name: weight})
        correct_biases(changed, shifts)
        before, after = (parts_of(each) for each in (self._before, run_in_batches(changed, self._inputs, _BATCH)))
        return sum(loss_increase(before[each], after[each]) for each in before)


def _seen(
    model: onnx.ModelProto, layers: list[Layer], calibration: Arrays, settings: QuantizationSettings
) -> Iterator[tuple[str, dict[str, InputCovariance]]]:
    """Yield every weight with the moments of the layers that read it, as far as there are any."""
    names = dict.fromkeys(layer.weight_name for layer in layers)
    left = set(names)
    if settings.rounding == "feedback":
        # Layers that share a weight stand side by side, so that their moments come in one portion.
        watched = [layer for name in names for layer in layers if layer.weight_name == name]
        for portion in input_covariances(model, watched, calibration):
            for name in names:
                nodes = [layer.node_name for layer in layers if layer.weight_name == name]
                if found := {node: portion[node] for node in nodes if node in portion}:
                    left.discard(name)
                    yield name, found
    yield from ((name, {}) for name in names if name in left)
