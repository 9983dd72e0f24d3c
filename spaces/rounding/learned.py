"""Grids of weights and activations that training has found, by the names that the exported file has for them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...errors import OutputError
from ..artifact import write_bytes
from .rounded_weights import RoundedWeight

LARGEST_UINT8 = 255

_NO_AXIS = -1


@dataclass(frozen=True)
class ActivationGrid:
    """The unsigned 8-bit grid of one activation tensor: real = scale * (integer - zero_point).

    Args:
        scale: Above 0.
        zero_point: 0 to 255.
    """

    scale: float
    zero_point: int

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest real value."""
        return -self.zero_point * self.scale, (LARGEST_UINT8 - self.zero_point) * self.scale


@dataclass(frozen=True)
class LearnedGrids:
    """What training with rounded weights hands to the quantization of the exported file.

    Args:
        weights: The integers and scales of each weight by its name in the file.
        activations: The grids of activations by tensor name.
    """

    weights: Mapping[str, RoundedWeight] = field(default_factory=dict)
    activations: Mapping[str, ActivationGrid] = field(default_factory=dict)

    def of_weights(self, names: Set[str]) -> LearnedGrids:
        """Return them without the weights that have none of these names."""
        return replace(self, weights={name: weight for name, weight in self.weights.items() if name in names})

    def save(self, path: Path) -> None:
        """Write everything to one ``.npz`` file of plain arrays, whole or not at all."""
        arrays = {
            "weights": np.array(list(self.weights), dtype=np.str_),
            "channel_axes": np.array(
                [_NO_AXIS if weight.channel_axis is None else weight.channel_axis for weight in self.weights.values()],
                dtype=np.int64,
            ),
            "activations": np.array(list(self.activations), dtype=np.str_),
            "activation_scales": np.array([grid.scale for grid in self.activations.values()], dtype=np.float64),
            "zero_points": np.array([grid.zero_point for grid in self.activations.values()], dtype=np.int64),
        }
        for index, weight in enumerate(self.weights.values()):
            # by number, since names hold characters that a file inside an archive had better not
            arrays |= {f"integers.{index}": weight.integers, f"scales.{index}": weight.scales}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_bytes(buffer.getvalue(), path)

    @classmethod
    def load(cls, path: Path) -> LearnedGrids:
        """Read what :meth:`save` wrote.

        Raises:
            OutputError: Where the file is missing or holds something else.
        """
        try:
            # opened as an archive first: numpy takes a file of one array, too
            with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
                return cls._from_arrays(file)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise OutputError(
                "the kept grids of a trained network cannot be read",
                where=str(path),
                got=f"{type(error).__name__}: {error}",
                remedy="delete that file; the network is then trained again",
            ) from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LearnedGrids:
        weights = {
            str(name): RoundedWeight(
                arrays[f"integers.{index}"], arrays[f"scales.{index}"], None if axis == _NO_AXIS else int(axis)
            )
            for index, (name, axis) in enumerate(zip(arrays["weights"], arrays["channel_axes"], strict=True))
        }
        found = zip(arrays["activations"], arrays["activation_scales"], arrays["zero_points"], strict=True)
        activations = {str(name): ActivationGrid(float(scale), int(zero_point)) for name, scale, zero_point in found}
        return cls(weights, activations)
