"""What an axis makes of a probe: the file with fewer bits, with zeros, or with fewer channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import onnx

from ...formats.onnx.onnx_file import read_model
from ...formats.onnx.packing import pack
from ...formats.onnx.quantization.half import store_in_half
from ...formats.onnx.quantization.quantize import quantize
from ...formats.onnx.quantization.weight_layers import find_layers, read_weights
from ...rounding.bit_choice import BitChoice
from ...rounding.learned import LearnedGrids
from ...rounding.rounded_weights import round_to_nearest
from ...rounding.settings import QuantizationSettings
from .probe_layers import STAGE, ProbedLayer
from .probe_network import build_probe, probe_inputs, with_channels

_CALIBRATION_SAMPLES = 8

Make = Callable[[ProbedLayer, Path, Path], None]


@dataclass(frozen=True)
class Variant:
    """One thing that an axis can do to a layer.

    Args:
        axis: The axis of the study file: ``bits`` or ``sparsity``.
        make: Writes the file that is measured, given the layer, a folder for what lies between, and where it goes.
    """

    axis: str
    make: Make


def make_float(layer: ProbedLayer, folder: Path, destination: Path) -> None:
    """Write the probe as it is, in float32: what all others are compared with.

    Args:
        layer: The layer.
        folder: Where files between may be left.
        destination: Where the file goes.
    """
    build_probe(layer, folder / "plain.onnx")
    pack(folder / "plain.onnx", destination)


def make_with_channels(channels: int, layer: ProbedLayer, folder: Path, destination: Path) -> None:
    """Write the float32 probe with fewer channels; see :func:`make_float`.

    Args:
        channels: How many; the file still takes inputs with the layer's own number, and reads the first of them.
        layer: The layer.
        folder: Where files between may be left.
        destination: Where the file goes.
    """
    build_probe(with_channels(layer, channels), folder / "plain.onnx", input_channels=layer.channels)
    pack(folder / "plain.onnx", destination)


def _rounded(weight_bits: int, activation_bits: int, layer: ProbedLayer, folder: Path, destination: Path) -> None:
    plain, rounded = folder / "plain.onnx", folder / "rounded.onnx"
    build_probe(layer, plain)
    settings, choice = (
        QuantizationSettings(rounding="nearest", activation_ranges="minmax"),
        BitChoice(weight_bits, activation_bits),
    )
    # All layers alike: a network's first and last layer keep 8 bits, of three that would be two.
    model = read_model(plain, STAGE)
    grids = _grids(model, min(weight_bits, choice.most_bits), settings)
    calibration = probe_inputs(layer, _CALIBRATION_SAMPLES)
    quantize(plain, rounded, choice, calibration=calibration, settings=settings, learned=grids)
    pack(rounded, destination)


def _grids(model: onnx.ModelProto, bits: int, settings: QuantizationSettings) -> LearnedGrids:
    layers = find_layers(model)
    weights = read_weights(model, {layer.weight_name for layer in layers})
    return LearnedGrids(
        {
            layer.weight_name: round_to_nearest(weights[layer.weight_name], layer.channel_axis, bits, settings)
            for layer in layers
        }
    )


def _half(layer: ProbedLayer, folder: Path, destination: Path) -> None:
    build_probe(layer, folder / "plain.onnx")
    store_in_half(folder / "plain.onnx", folder / "half.onnx")
    pack(folder / "half.onnx", destination)


def _zeroed(layer: ProbedLayer, folder: Path, destination: Path) -> None:
    build_probe(layer, folder / "plain.onnx", zeroed_weights=0.8)
    pack(folder / "plain.onnx", destination)


def _two_of_four(layer: ProbedLayer, folder: Path, destination: Path) -> None:
    build_probe(layer, folder / "plain.onnx", zero_pattern="2:4")
    pack(folder / "plain.onnx", destination)


def _half_the_channels(layer: ProbedLayer, folder: Path, destination: Path) -> None:
    make_with_channels(max(1, layer.channels // 2), layer, folder, destination)


VARIANTS = MappingProxyType(
    {
        "float16 weights": Variant("bits", _half),
        "8-bit weights": Variant("bits", partial(_rounded, 8, 32)),
        "4-bit weights": Variant("bits", partial(_rounded, 4, 32)),
        "8-bit weights and activations": Variant("bits", partial(_rounded, 8, 8)),
        "4-bit weights, 8-bit activations": Variant("bits", partial(_rounded, 4, 8)),
        "80 % zeroed weights": Variant("sparsity", _zeroed),
        "2:4 zeroed weights": Variant("sparsity", _two_of_four),
        "half of the channels": Variant("sparsity", _half_the_channels),
    }
)
"""What is tried on every target, by the words in which it is told."""
