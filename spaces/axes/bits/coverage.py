"""Which layers of a model can be rounded, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ....errors import CandidateFailure
from ...bit_names import FLOAT_BITS
from ...formats.format import find_format
from ...reasons import listed


def describe_layers(activations: tuple[int, ...], baseline: Path) -> Iterator[str]:
    """Say in which layers of the model's float32 file weights can be rounded beside activations of these bits."""
    for bits in activations:
        beside = "float32" if bits == FLOAT_BITS else f"{bits}-bit"
        try:
            reach = find_format().coverage(baseline, bits)
        except CandidateFailure as failure:
            yield f"weights of none of the model's layers can be rounded beside {beside} activations: {failure.reason}"
            continue
        found = f"{reach.quantized_layers} of {reach.all_layers} layers"
        yield f"weights can be rounded beside {beside} activations in {found}{listed(reach.left)}"
