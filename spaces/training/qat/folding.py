"""Batch normalization folded into the layers before it, so that their weights are those that a file will hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from ...data.batches import Inputs, Outputs
from ...data.named import parts_of
from ...networks.running import copy_network, outputs_of
from ...prediction import evaluation_mode

FOLDING_SAMPLES = 8
"""Inputs that are enough to tell whether the folded network computes the same."""

RELATIVE_TOLERANCE = 1e-4
"""Largest change of the outputs that folding may bring, relative to the largest output."""

_Foldable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
_Pair = tuple[_Foldable, _BatchNorm]


def fold_batch_norm(network: nn.Module, example: Inputs) -> nn.Module:
    """Return a copy of a network in which batch normalization is part of the convolution or product before it.

    Which normalization reads which layer is seen when the network runs, since not every network can be traced. Only
    what leaves the outputs as they are is folded: a layer that something else reads as well keeps its normalization.

    Args:
        network: Left as it is.
        example: A batch of inputs, shape (n, *input_shape).

    Returns:
        The copy, on the CPU, in evaluation mode. Its modules have the names they had.
    """
    folded = copy_network(network).cpu().eval()
    inputs = example.detach().cpu()
    expected, pairs = _watch(folded, inputs)
    if _fold(folded, pairs, inputs, expected):
        return folded
    for pair in pairs:
        _fold(folded, [pair], inputs, expected)
    return folded


def _watch(network: nn.Module, inputs: Inputs) -> tuple[Outputs, list[_Pair]]:
    """Return the outputs, and each layer with the one normalization that reads all it gives, and nothing else."""
    calls: Counter[nn.Module] = Counter()
    reads: Counter[_Pair] = Counter()
    # the tensors are kept, because a freed tensor's place may be taken by another
    made: dict[int, tuple[_Foldable, Tensor]] = {}

    def look(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, _BatchNorm) and arguments and id(arguments[0]) in made:
            reads[made[id(arguments[0])][0], module] += 1
        elif isinstance(module, _Foldable):
            made[id(output)] = (module, output)

    watched = [module for module in network.modules() if isinstance(module, _Foldable | _BatchNorm)]
    hooks = [module.register_forward_hook(look) for module in watched]
    try:
        with evaluation_mode(network):
            outputs = outputs_of(network, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = [pair for pair, count in reads.items() if calls[pair[0]] == calls[pair[1]] == count]
    return outputs, [(layer, norm) for layer, norm in pairs if _can_be_folded(layer, norm)]


def _can_be_folded(layer: _Foldable, norm: _BatchNorm) -> bool:
    plain = isinstance(layer._parameters.get("weight"), nn.Parameter)
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return plain and norm.running_mean is not None and outputs == norm.num_features


def _fold(network: nn.Module, pairs: Sequence[_Pair], inputs: Inputs, expected: Outputs) -> bool:
    """Fold the pairs in place, or none of them where the outputs would change; say which."""
    norms = {norm for _, norm in pairs}
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent._modules.items()
        if child in norms
    ]
    parameters = [(layer, layer.weight, layer.bias) for layer, _ in pairs]
    for layer, norm in pairs:
        layer.weight, layer.bias = _fused(layer, norm)
    for parent, name, _norm in places:
        setattr(parent, name, nn.Identity())
    try:
        with evaluation_mode(network):
            alike = _alike(outputs_of(network, inputs), expected)
    except Exception:  # a user's forward may raise anything, such as where it reads a normalization's own weights
        alike = False
    if not alike:
        for layer, weight, bias in parameters:
            layer.weight, layer.bias = weight, bias
        for parent, name, norm in places:
            setattr(parent, name, norm)
    return alike


def _fused(layer: _Foldable, norm: _BatchNorm) -> tuple[nn.Parameter, nn.Parameter]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = torch.ones_like(norm.running_mean) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    with torch.no_grad():
        return fuse(layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, factor, shift)


def _alike(outputs: Outputs, expected: Outputs) -> bool:
    given, wanted = parts_of(outputs), parts_of(expected)
    return given.keys() == wanted.keys() and all(_is_close(given[name], wanted[name]) for name in wanted)


def _is_close(outputs: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(outputs, expected)
    allowed = RELATIVE_TOLERANCE * float(expected.abs().max())
    return outputs.shape == expected.shape and torch.allclose(outputs, expected, rtol=0.0, atol=allowed)
