"""What is said of the operators that stay float32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import onnx

from ....notes import Note
from .insertion import spared_nodes
from .rounded_file_check import LEAST_WHOLE_DB
from .sparing import SparedFile

ENDLESS = "what they read or give has no end, or is next to the largest float32"

MOST_NAMED = 6
"""Operators that are named one by one; of more, the rest is counted."""


def tell_spared(
    network: onnx.ModelProto, file: SparedFile, reasons: Mapping[str, str], operators: tuple[str, ...], note: Note
) -> None:
    """Say which operators stay float32 beside 8-bit activations, and why, and where the outputs are far off.

    Args:
        network: The float32 network.
        file: Its rounded file.
        reasons: By the name of an operator, or of a tensor that it reads or gives.
        operators: Kinds of operators that would compute in int8.
        note: Is told.
    """
    left = spared_nodes(network, file.spared)
    named: dict[str, list[str]] = defaultdict(list)
    for node in network.graph.node:
        if node.name in left and node.op_type in operators:
            reason = next((reasons[name] for name in (node.name, *node.input, *node.output) if name in reasons), "")
            if reason:
                named[reason].append(f"{node.op_type} {node.name}")
    for reason, names in named.items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        note(f"computed in float32 beside 8-bit activations, since {reason}: {', '.join(names[:MOST_NAMED])}{more}")
    if file.worst_output_db < LEAST_WHOLE_DB:
        note(
            f"8-bit activations leave the worst channel of the outputs {file.worst_output_db:.0f} dB of signal to "
            f"noise on calibration inputs, below {LEAST_WHOLE_DB:.0f} dB, though no single operator is to blame"
        )
