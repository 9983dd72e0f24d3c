"""In how many of a model's layers weights are zeroed, gradually or at once, and which are left alone and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ...formats.onnx.onnx_file import read_model
from ...formats.onnx.quantization.preparation import prepare_layers
from ...formats.onnx.quantization.weight_layers import LAYER_OPERATORS, OTHER_OPERATORS
from ...networks.parametrizations import fold_parametrizations
from ...training.zeroing import is_zeroed_kind, layer_weights
from ...zero_patterns import TINY_LAYER

_NO_LAYERS = (nn.LayerNorm, nn.RMSNorm, ParametrizationList)
"""Modules whose parameters may have several axes all the same: normalization, and what a layer's weight is made of."""

_TINY = f"fewer than {TINY_LAYER} weights"
_OTHER_KIND = "not zeroed in layers of this kind"


@dataclass(frozen=True)
class ZeroReach:
    """In how many layers weights are zeroed.

    Args:
        zeroed: Layers whose weights are.
        total: Layers that hold weights, tensors with more than one long axis: biases and normalization are none.
        left: For each of the others, what it is and why its weights stay, such as
            ``LSTM rnn: not zeroed in layers of this kind``.
    """

    zeroed: int
    total: int
    left: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.zeroed} of {self.total} layers"


def gradual_coverage(network: nn.Module) -> ZeroReach:
    """Return in how many layers of a network weights are zeroed while it trains, its parametrizations folded as then.

    Args:
        network: Left as it is; see :class:`~.sparsity.weights.WeightZeroing`.
    """
    why = {
        f"{type(layer).__name__} {name}".strip(): _why_dense(layer)
        for name, layer in _holders(fold_parametrizations(network))
    }
    return _coverage(why)


def one_shot_coverage(baseline: Path) -> ZeroReach:
    """Return in how many layers of a float32 ONNX file weights are zeroed at once.

    Args:
        baseline: The file; see :func:`~.quantization.quantize.zero_weights`.

    Raises:
        CandidateFailure: Where it holds no layer that can be reached.
    """
    stage = "zeroing"
    model = read_model(baseline, stage)
    layers = {layer.node_name: layer for layer in prepare_layers(model, baseline.name)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    why: dict[str, str | None] = {}
    for node in model.graph.node:
        holds = any(name in constants and _is_weight(constants[name]) for name in node.input)
        if node.name in layers:
            small = prod(constants[layers[node.name].weight_name].dims) < TINY_LAYER
            why[f"{node.op_type} {node.name}"] = _TINY if small else None
        elif node.op_type in LAYER_OPERATORS and holds:
            why[f"{node.op_type} {node.name}"] = "its weight is the first factor"
        elif node.op_type in OTHER_OPERATORS and holds:
            why[f"{node.op_type} {node.name}"] = _OTHER_KIND
    return _coverage(why)


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and _has_two_long_axes(tensor.dims)


def _has_two_long_axes(shape: Iterable[int]) -> bool:
    return sum(length > 1 for length in shape) > 1


def _coverage(why: dict[str, str | None]) -> ZeroReach:
    left = tuple(f"{what}: {reason}" for what, reason in why.items() if reason)
    return ZeroReach(len(why) - len(left), len(why), left)


def _holders(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers with weights of their own."""
    for name, layer in network.named_modules():
        holds = any(_has_two_long_axes(parameter.shape) for parameter in layer.parameters(recurse=False))
        if is_zeroed_kind(layer) or (holds and not isinstance(layer, _NO_LAYERS)):
            yield name, layer


def _why_dense(layer: nn.Module) -> str | None:
    if not is_zeroed_kind(layer):
        return _OTHER_KIND
    weights = layer_weights(layer)
    if not weights:
        return "its weight is computed from others"
    return _TINY if all(weight.numel() < TINY_LAYER for weight in weights) else None
