"""Means and second moments of what the layers of a network see, from one run over calibration data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx
from onnx import helper

from ....rounding.im2col import Im2col
from ....rounding.input_covariance import InputCovariance
from ....rounding.layers import Layer
from ..onnx_file import Arrays, feeds_for, open_watching

MOST_ROWS = 16_384
"""Positions of a layer's input that enter its second moments; of more, a random choice."""

MOST_COLUMNS = 8_192
"""Of layers with more weights per output, rows of inputs are kept: the matrix would take half a gigabyte and more."""

MOST_WIDE_ROWS = 2_048
"""So many of them at most."""

_MOST_BYTES = 2**30
"""Second moments held at a time; a network with more is run again for the rest."""

_BATCH_ELEMENTS, _MOST_BATCH = 2_000_000, 64


@dataclass(frozen=True)
class _Watched:
    layer: Layer
    tensor: str
    im2col: Im2col
    columns: int

    @property
    def is_wide(self) -> bool:
        return self.columns > MOST_COLUMNS

    @property
    def moment_bytes(self) -> int:
        return self.im2col.groups * self.columns * (4 * MOST_WIDE_ROWS if self.is_wide else 8 * self.columns)


class CovarianceSource:
    """Yields the moments of layers' inputs as often as it is iterated, see :func:`input_covariances`.

    Where they come in a single portion it is computed only once; else memory forbids to keep them.

    Args:
        model: Float32 model with one input, not to be changed meanwhile.
        layers: Layers of that model.
        calibration: float32, shape (n, *input_shape).
    """

    def __init__(self, model: onnx.ModelProto, layers: list[Layer], calibration: Arrays) -> None:
        self._arguments = (model, layers, calibration)
        self._only: dict[str, InputCovariance] | None = None

    def __iter__(self) -> Iterator[dict[str, InputCovariance]]:
        """Yield the moments by node name, in portions that fit into memory."""
        if self._only is not None:
            yield self._only
            return
        for number, portion in enumerate(input_covariances(*self._arguments)):
            self._only = None if number else portion
            yield portion


def input_covariances(
    model: onnx.ModelProto, layers: list[Layer], calibration: Arrays, *, seed: int = 0
) -> Iterator[dict[str, InputCovariance]]:
    """Yield the moments of the layers' inputs by node name, in portions that fit into memory.

    Layers that share a weight, and follow each other, come in one portion, however large that makes it. Layers without
    moments are left out: products with a stack of matrices or with a constant.

    Args:
        model: Float32 model with one input.
        layers: Layers of that model.
        calibration: float32, shape (n, *input_shape).
        seed: Seed of the choice of positions.
    """
    portion: list[_Watched] = []
    # what is made of a weight follows from all who read it, so that those stay together
    for _, readers in groupby(_watchable(model, layers), key=lambda watched: watched.layer.weight_name):
        more = list(readers)
        if portion and sum(watched.moment_bytes for watched in (*portion, *more)) > _MOST_BYTES:
            yield _run(model, portion, calibration, seed)
            portion = []
        portion += more
    if portion:
        yield _run(model, portion, calibration, seed)


def im2col_of(node: onnx.NodeProto, weight_shape: tuple[int, ...]) -> Im2col | None:
    """Return how a layer's input unfolds, None for a product with a stack of matrices."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type != "Conv":
        return Im2col(transposed=bool(attributes.get("transA", 0))) if len(weight_shape) == 2 else None
    kernel = weight_shape[2:]
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    return Im2col(
        groups=attributes.get("group", 1),
        kernel=kernel,
        strides=tuple(attributes.get("strides", (1,) * len(kernel))),
        dilations=tuple(attributes.get("dilations", (1,) * len(kernel))),
        pads=tuple(attributes.get("pads", (0,) * 2 * len(kernel))) if automatic == "NOTSET" else (0,) * 2 * len(kernel),
        same=automatic if automatic.startswith("SAME") else None,
    )


def _watchable(model: onnx.ModelProto, layers: list[Layer]) -> list[_Watched]:
    nodes = {node.name: node for node in model.graph.node}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for layer in layers:
        node, shape = nodes[layer.node_name], shapes[layer.weight_name]
        im2col = im2col_of(node, shape)
        columns = int(np.prod(shape)) // shape[layer.channel_axis]
        if im2col is not None and node.input[0] not in shapes:
            found.append(_Watched(layer, node.input[0], im2col, columns))
    return found


def _run(
    model: onnx.ModelProto, portion: list[_Watched], calibration: Arrays, seed: int
) -> dict[str, InputCovariance]:  # fmt: skip
    session = open_watching(model, {watched.tensor for watched in portion})
    names = [value.name for value in session.get_outputs()]
    seen = [_Sums(watched, np.random.default_rng([seed, index])) for index, watched in enumerate(portion)]
    batch_size = min(_MOST_BATCH, max(1, _BATCH_ELEMENTS // max(1, calibration[0].size)))
    for start in range(0, len(calibration), batch_size):
        batch = calibration[start : start + batch_size]
        # With the network's own outputs, so that a graph that cannot run is refused by the runtime, in its words.
        feeds = feeds_for(model, batch)
        tensors = {**dict(zip(names, session.run(None, feeds), strict=True)), **feeds}
        for sums in seen:
            sums.add(np.asarray(tensors[sums.watched.tensor]), len(batch) / len(calibration))
    return {sums.watched.layer.node_name: sums.covariances() for sums in seen}


class _Sums:
    """What one layer's inputs add up to, batch after batch.

    Args:
        watched: The layer.
        generator: Chooses positions where there are too many.
    """

    def __init__(self, watched: _Watched, generator: np.random.Generator) -> None:
        self.watched = watched
        self._generator = generator
        groups, columns = watched.im2col.groups, watched.columns
        side = 0 if watched.is_wide else columns
        self._second = np.zeros((groups, side, side))
        self._mean = np.zeros((groups, columns))
        self._rows: list[np.ndarray] = []
        self._count = 0

    def add(self, inputs: np.ndarray, share: float) -> None:
        """Add a batch, which is such a share of all."""
        most = MOST_WIDE_ROWS if self.watched.is_wide else MOST_ROWS
        rows = self.watched.im2col.rows(inputs, max(1, int(most * share)), self._generator)
        if self.watched.is_wide:
            self._rows.append(rows)
        else:
            self._second += np.swapaxes(rows, 1, 2) @ rows
            self._count += rows.shape[1]
        self._mean += share * self.watched.im2col.mean(inputs)

    def covariances(self) -> InputCovariance:
        """Return what has been found."""
        rows = np.concatenate(self._rows, axis=1) if self._rows else None
        return InputCovariance(self._second, self._mean, rows, self._count)
