"""How much each layer of a network minds few bits: what a budget of bits is spread by."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from pydantic import TypeAdapter, ValidationError

from ....artifact import write_bytes
from ..onnx_file import copy_of, run_in_batches
from .bias_correction import correct_biases
from .input_covariance import InputCovariance, input_covariances
from .mean_shift import mean_shifts
from .rounding import RoundedWeight, round_for_inputs, round_to_nearest
from .scales import FEWEST_BITS, MOST_BITS
from .settings import QuantizationSettings
from .weight_layers import Layer, read_weights, write_weights

ALL_BITS = tuple(range(FEWEST_BITS, MOST_BITS + 1))

TABLE_VERSION = 3
"""Raised when a change of the code changes the tables that the same network gives."""

_BATCH = 64


@dataclass(frozen=True)
class SensitivityTable:
    """What the network's loss gains where one weight alone is rounded to few bits.

    Args:
        digest: Of all that the table follows from, see :func:`table_digest`.
        names: The weights.
        sizes: Elements of each.
        bits: The bits tried, ascending.
        loss_increases: Not negative, infinite where the outputs are not finite; a row for each weight, a number for
            each of the bits; see :func:`loss_increase`.

    Raises:
        ValueError: Where the shapes do not agree.
    """

    digest: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    bits: tuple[int, ...]
    loss_increases: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.sizes) == len(self.loss_increases):
            got = f"{len(self.names)}, {len(self.sizes)}, {len(self.loss_increases)}"
            raise ValueError(f"names, sizes and loss_increases must be equally long, got {got}")
        if any(len(row) != len(self.bits) for row in self.loss_increases):
            raise ValueError(f"loss_increases must have {len(self.bits)} numbers in each row, one for each of the bits")

    def to_json(self) -> str:
        """Return the table as JSON; infinity is written as Python's json does."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: Where the text is something else.
        """
        return TypeAdapter(cls).validate_json(text)


def sensitivity_table(
    model: onnx.ModelProto,
    layers: list[Layer],
    calibration: np.ndarray,
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
            after = _rounded(weights[name], readers[0].channel_axis, list(found.values()), each, settings).values
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
    calibration: np.ndarray,
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


def table_digest(model: onnx.ModelProto, calibration: np.ndarray, settings: QuantizationSettings) -> str:
    """Return a digest of what a table follows from: the network, the inputs, and how weights are rounded."""
    told = {"rounding", "bias_correction", "granularity", "sensitivity_samples"}
    described = {"version": TABLE_VERSION, "shape": calibration.shape, **settings.model_dump(include=told)}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(model.SerializeToString(deterministic=True))
    digest.update(np.ascontiguousarray(calibration).tobytes())
    return digest.hexdigest()


def loss_increase(before: np.ndarray, after: np.ndarray) -> float:
    """Return how far outputs have moved: 0 where they have not, infinity where they are not finite any more.

    For class scores, 2-D with at least two columns, that is the mean of KL(softmax(before) | softmax(after)) in nats;
    for others the mean squared difference relative to the variance of ``before``.

    Args:
        before: Outputs of the float network, finite, shape (n, ...).
        after: Outputs of the changed one, same shape.
    """
    if not np.isfinite(after).all():
        return math.inf
    before, after = before.astype(np.float64), after.astype(np.float64)
    if before.ndim == 2 and before.shape[1] >= 2:
        wanted, got = _log_softmax(before), _log_softmax(after)
        return max(0.0, float((np.exp(wanted) * (wanted - got)).sum(axis=1).mean()))
    return float(np.square(after - before).mean() / (before.var() or 1.0))


class _Probe:
    """Compares a network that has one weight changed with the network as it was."""

    def __init__(self, model: onnx.ModelProto, inputs: np.ndarray) -> None:
        self._model = model
        self._inputs = inputs
        self._before = run_in_batches(model, inputs, _BATCH)

    def loss_increase(self, name: str, weight: np.ndarray, shifts: dict[str, np.ndarray]) -> float:
        """Return what the loss gains with another weight, the biases taking back the shifts."""
        changed = copy_of(self._model)
        write_weights(changed, {name: weight})
        correct_biases(changed, shifts)
        return loss_increase(self._before, run_in_batches(changed, self._inputs, _BATCH))


def _seen(
    model: onnx.ModelProto, layers: list[Layer], calibration: np.ndarray, settings: QuantizationSettings
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


def _rounded(
    weight: np.ndarray, axis: int, found: list[InputCovariance], bits: int, settings: QuantizationSettings
) -> RoundedWeight:
    """Round a weight as :func:`~karui.spaces.formats.onnx.quantization.rounding.round_weights` does."""
    nearest = round_to_nearest(weight, axis, bits, settings)
    return round_for_inputs(weight, nearest, axis, found, bits) if found else nearest


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
