"""From the file of a network, before it is packed, to the packed file with an early exit."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ...formats.onnx.onnx_file import read_model, run_in_batches, write_model
from ...formats.onnx.packing import pack
from .compose import with_exit
from .cut import STAGE, Cut, nearest_cut
from .halves import split
from .head import BATCH, pooled_features, soft_labels, train_head


@dataclass(frozen=True)
class ExitChoice:
    """Where the exit lies, and when it is taken.

    Args:
        depth: Share of the multiply-adds before the exit that is aimed at, in (0, 1).
        threshold: Confidence above which the exit is taken, in (0, 1).
    """

    depth: float
    threshold: float


def pack_with_exit(
    source: Path,
    destination: Path,
    choice: ExitChoice,
    *,
    inputs: NDArray[np.float32],
    targets: NDArray[np.int64] | None = None,
) -> Cut:
    """Write the packed file of a network with an early exit; it takes one input at a time.

    The head learns from the rounded first half itself, so that it knows the errors of rounding.

    Args:
        source: Float32 or quantized file that is not packed, one input, its batch axis free; its output are logits.
        destination: Where the result goes; it is written whole or not at all.
        choice: Where the exit lies, and when it is taken.
        inputs: What the head is trained on, shape (n, *input_shape).
        targets: Their classes, shape (n,); None to learn from the network's outputs alone.

    Returns:
        Where the network was cut.

    Raises:
        CandidateFailure: Where the network has no cut, or a half cannot be packed.
        ValueError: Where the choice has no meaning, or the network's outputs are no logits of classes.
    """
    model = read_model(source, STAGE)
    cut = nearest_cut(model, choice.depth)
    first, second = split(model, cut)
    labels = soft_labels(run_in_batches(model, inputs, BATCH), targets)
    head = train_head(pooled_features(first, inputs), labels)
    composed = with_exit(_packed(first), _packed(second), head, choice.threshold)
    write_model(composed, destination, STAGE)
    return cut


def _packed(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="karui-exit-") as folder:
        plain, packed = Path(folder) / "plain.onnx", Path(folder) / "packed.onnx"
        write_model(model, plain, STAGE)
        pack(plain, packed)
        return read_model(packed, STAGE)
