"""Random changes of a batch of training images, drawn from torch's global random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def random_shift(images: Tensor, pixels: int, fill: float) -> Tensor:
    """Move every image by its own random whole number of pixels, each axis at most ``pixels`` to either side.

    Args:
        images: Shape (batch, channels, height, width).
        pixels: The furthest move.
        fill: Value of the pixels that come in at the border.
    """
    batch, _, height, width = images.shape
    device = images.device
    padded = nn.functional.pad(images, (pixels,) * 4, value=fill)
    offsets = torch.randint(0, 2 * pixels + 1, (2, batch, 1), device=device)
    rows = torch.arange(height, device=device) + offsets[0]
    columns = torch.arange(width, device=device) + offsets[1]
    image = torch.arange(batch, device=device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_flip(images: Tensor) -> Tensor:
    """Mirror every image left to right with probability one half.

    Args:
        images: Shape (batch, channels, height, width).
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)
