"""In what precision networks compute while they train."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ..data.batches import Inputs, Outputs
from ..data.named import map_parts
from ..networks.running import outputs_of

Precision = Literal["float32", "bfloat16"]
"""``bfloat16``: convolutions and matrix products multiply in bfloat16 and add in float32, the weights and what the
optimizer knows of them staying float32 (mixed precision; Kalamkar et al. 2019, arXiv:1905.12322)."""


def outputs_in(precision: Precision, network: nn.Module, inputs: Inputs) -> Outputs:
    """Return what a network makes of a batch, for a training step: in float32, whatever it computed in.

    The batch stays as it is, since teacher and student, or several networks, are given the same one.

    Args:
        precision: What it computes in.
        network: On the device of the inputs.
        inputs: A batch, shape (n, *input_shape).
    """
    if precision == "float32":
        return outputs_of(network, inputs)
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        outputs = outputs_of(network, inputs)
    return map_parts(lambda part: part.float() if part.dtype == torch.bfloat16 else part, outputs)
