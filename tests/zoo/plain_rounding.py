"""The simplest rounding there is, in torch: what a file of few bits should at least come near to.

Each convolution and linear layer reads inputs on a grid of 8 bits between the extremes that it has seen, and has
weights on grids by output channel, to nearest; the outputs are on a grid as well. All else is float32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


class Grid:
    """Numbers of 8 bits from the least to the largest value seen, zero among them."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0

    def see(self, values: Tensor) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def __call__(self, values: Tensor) -> Tensor:
        step = max((self.high - self.low) / 255, 1e-30)
        zero = round(-self.low / step)
        return ((values / step + zero).round().clamp(0, 255) - zero) * step


def plainly_rounded(network: nn.Module, calibration: Tensor, weight_bits: int, activation_bits: int) -> nn.Module:
    """Return a copy of which the weights, and with 8 bits of activations what the layers read, are rounded."""
    twin = copy.deepcopy(network).eval()
    layers = [module for module in twin.modules() if isinstance(module, LAYERS)]
    if activation_bits == 8:
        _round_activations(twin, layers, calibration)
    for layer in layers:
        if isinstance(layer.weight, nn.Parameter):
            axis = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
            layer.weight.data = _rounded(layer.weight.data, axis, 2 ** (weight_bits - 1) - 1)
    return twin


def halved(network: nn.Module) -> nn.Module:
    """Return a copy of which every parameter has the precision of float16."""
    twin = copy.deepcopy(network).eval()
    for parameter in twin.parameters():
        parameter.data = parameter.data.half().float()
    return twin


def plainly_zeroed(network: nn.Module, fraction: float) -> nn.Module:
    """Return a copy of which each layer has lost this share of its weights, the smallest."""
    twin = copy.deepcopy(network).eval()
    for layer in twin.modules():
        if isinstance(layer, LAYERS) and isinstance(layer.weight, nn.Parameter):
            sizes = layer.weight.data.abs()
            layer.weight.data[sizes <= sizes.quantile(fraction)] = 0
    return twin


def _round_activations(twin: nn.Module, layers: list[nn.Module], calibration: Tensor) -> None:
    grids = {layer: Grid() for layer in (*layers, twin)}
    watching = [layer.register_forward_pre_hook(lambda layer, inputs: grids[layer].see(inputs[0])) for layer in layers]
    with torch.no_grad():
        grids[twin].see(twin(calibration.clone()))
    for hook in watching:
        hook.remove()
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, inputs: (grids[layer](inputs[0]), *inputs[1:]))
    twin.register_forward_hook(lambda _module, _inputs, outputs: grids[twin](outputs))


def _rounded(weight: Tensor, axis: int, most: int) -> Tensor:
    others = [other for other in range(weight.ndim) if other != axis]
    steps = weight.abs().amax(others, keepdim=True).clamp(min=1e-30) / most
    return (weight / steps).round() * steps
