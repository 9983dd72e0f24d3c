"""What the weights of a layer are multiplied with: its inputs, unfolded to one row per position and output group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Im2col:
    """How the input of a convolution or a matrix product falls into rows that meet the weights.

    Args:
        groups: Groups of a convolution; 1 for a matrix product.
        kernel: Kernel of a convolution, one number per spatial axis; None for a matrix product.
        strides: As long as the kernel.
        dilations: As long as the kernel.
        pads: Zeros before each spatial axis, then those behind each.
        same: ``SAME_UPPER`` or ``SAME_LOWER`` where the pads follow from the size of the input.
        transposed: Whether a matrix product reads its input transposed.
    """

    groups: int = 1
    kernel: tuple[int, ...] | None = None
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    same: str | None = None
    transposed: bool = False

    def windows(self, inputs: np.ndarray) -> np.ndarray:
        """Return a view of shape (positions..., channels, *kernel), or of the matrix's rows; nothing is copied yet."""
        if self.kernel is None:
            return inputs.T if self.transposed else inputs
        pads = self._pads(inputs.shape[2:])
        padded = np.pad(inputs, [(0, 0), (0, 0), *pads])
        reach = [dilation * (side - 1) + 1 for dilation, side in zip(self.dilations, self.kernel, strict=True)]
        spatial = tuple(range(2, inputs.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=spatial)
        steps = [slice(None, None, step) for step in (*self.strides, *self.dilations)]
        return np.moveaxis(windows[(slice(None), slice(None), *steps)], 1, len(spatial) + 1)

    def rows(self, inputs: np.ndarray, most_rows: int, generator: np.random.Generator) -> np.ndarray:
        """Return the unfolded inputs, or a random choice of ``most_rows`` of them, shape (groups, rows, columns)."""
        windows = self.windows(inputs)
        positions = windows.shape[: windows.ndim - (1 if self.kernel is None else 1 + len(self.kernel))]
        count = int(np.prod(positions))
        chosen = np.arange(count)
        if count > most_rows:
            chosen = np.sort(generator.choice(count, size=most_rows, replace=False))
        rows = windows[np.unravel_index(chosen, positions)]
        return np.moveaxis(rows.reshape(len(chosen), self.groups, -1), 0, 1)

    def mean(self, inputs: np.ndarray) -> np.ndarray:
        """Return the mean over all positions, shape (groups, columns)."""
        windows = self.windows(inputs if self.kernel is None else inputs.mean(axis=0, keepdims=True, dtype=np.float64))
        axes = windows.ndim - (1 if self.kernel is None else 1 + len(self.kernel))
        return np.asarray(windows.mean(axis=tuple(range(axes)), dtype=np.float64).reshape(self.groups, -1))

    def _pads(self, sides: tuple[int, ...]) -> list[tuple[int, int]]:
        if self.same is None:
            half = len(self.pads) // 2
            return list(zip(self.pads[:half], self.pads[half:], strict=True))
        assert self.kernel is not None
        pads = []
        for side, kernel, stride, dilation in zip(sides, self.kernel or (), self.strides, self.dilations, strict=True):
            missing = max(0, (-(-side // stride) - 1) * stride + dilation * (kernel - 1) + 1 - side)
            smaller, larger = missing // 2, missing - missing // 2
            pads.append((smaller, larger) if self.same == "SAME_UPPER" else (larger, smaller))
        return pads


def as_rows(weight: np.ndarray, channel_axis: int, groups: int) -> np.ndarray:
    """Return a layer's weight as (groups, outputs of a group, columns), in the order of the unfolded inputs."""
    moved = np.moveaxis(weight, channel_axis, 0)
    return moved.reshape(groups, moved.shape[0] // groups, -1)


def from_rows(rows: np.ndarray, shape: tuple[int, ...], channel_axis: int) -> np.ndarray:
    """Undo :func:`as_rows`."""
    outputs_first = (shape[channel_axis], *shape[:channel_axis], *shape[channel_axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(rows.reshape(outputs_first), 0, channel_axis))
