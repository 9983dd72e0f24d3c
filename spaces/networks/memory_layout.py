"""How tensors lie in memory: with their channels first.

A convolution takes the layout of its inputs, or of its weights, for the rest of the network. With the channels last,
torch's backward pass writes beyond its memory where there are few of them, on processors with AVX-512: the process
dies.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from ..data.named import Named

Laid = TypeVar("Laid", Tensor, Named)


def channels_first(tensor: Laid) -> Laid:
    """Return a copy whose memory is laid out as its axes are, and says so.

    Of a tensor with one channel the strides may say either, whatever came before: a shift of images leaves the channels
    last. So the copy is made even where the tensor counts as contiguous.

    Args:
        tensor: Of any shape; or named tensors.
    """
    laid: Laid = tensor.clone(memory_format=torch.contiguous_format)
    return laid


def lay_channels_first(network: nn.Module) -> None:
    """Lay out the parameters and buffers of a network in memory as their axes are, in place; values stay."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = channels_first(tensor.data)
