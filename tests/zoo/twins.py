"""Copies of a network that answer for what was made of it: channels masked, blocks passed over.

What went is seen from the values of the weights that are left: all of them are different, so that each says where it
came from, whatever its layer was made into.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

CHANCE = 0.05
"""Less than this share of equal numbers says nothing."""


def folded(network: nn.Module) -> nn.Module:
    """Return a copy with plain weights in the place of parametrized ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = copy.deepcopy(network).eval()
    for module in plain.modules():
        if parametrize.is_parametrized(module):
            values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
            # the copy's class is the original's as well, and has to keep its properties
            del module._modules["parametrizations"]
            module.__class__ = type(module).__mro__[1]
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))
        if "weight_g" in dict(module.named_parameters(recurse=False)):
            nn.utils.remove_weight_norm(module)
    return plain


def masked_twins(original: nn.Module, smaller: nn.Module) -> Iterator[nn.Module]:
    """Yield copies of the original in which every weight that the smaller network lacks is zero.

    A channel that went is zero wherever it is made, and zero wherever it is read. In the second copy, norms over
    channels leave those that went out of their mean and deviation, which is what the smaller network's norm sees.
    """
    left = dict(_tensors(smaller))
    for masks_norms in (False, True):
        twin = _unshared(original)
        kept_of = {name: _kept(tensor, left.get(name)) for name, tensor in _tensors(twin)}
        for name, module in list(twin.named_modules()):
            gain = kept_of.get(f"{name}.weight")
            if masks_norms and gain is not None and not gain.all():
                _mask_norm(module, gain)
        with torch.no_grad():
            for name, tensor in _tensors(twin):
                tensor[~kept_of[name]] = 0
        yield twin


def _unshared(network: nn.Module) -> nn.Module:
    """Return a copy in which each layer has a parameter of its own: of a shared one, each may keep other parts."""
    twin = copy.deepcopy(network)
    for module in twin.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone()))
    return twin


def _kept(tensor: Tensor, left: Tensor | None) -> Tensor:
    """Return which of the values are still there; rows and columns of which next to nothing is are gone as a whole.

    Of many thousand random numbers a few are equal by chance.
    """
    if left is None:
        return torch.zeros_like(tensor, dtype=torch.bool)
    kept = torch.isin(tensor, left)
    for axis in range(min(kept.ndim, 2)) if kept.ndim > 1 else ():
        others = [other for other in range(kept.ndim) if other != axis]
        kept = kept & (kept.float().mean(others, keepdim=True) > CHANCE)
    return kept


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers of floating point by name, but for the deviations that a norm divides by."""
    for name, tensor in (*network.named_parameters(remove_duplicate=False), *network.named_buffers()):
        if tensor.is_floating_point() and not name.endswith("running_var"):
            yield name, tensor.data


def _mask_norm(module: nn.Module, kept: Tensor) -> None:
    """Let a norm over channels count the kept ones alone."""
    if isinstance(module, nn.LayerNorm):
        module.forward = lambda inputs: _layer_norm(module, inputs, kept)
    elif isinstance(module, nn.RMSNorm):
        module.forward = lambda inputs: _root_mean_square(module, inputs, kept)
    elif isinstance(module, nn.GroupNorm):
        module.forward = lambda inputs: _group_norm(module, inputs, kept)


def _layer_norm(norm: nn.LayerNorm, inputs: Tensor, kept: Tensor) -> Tensor:
    axes = tuple(range(-kept.ndim, 0))
    share = kept.float().mean()
    mean = (inputs * kept).mean(axes, keepdim=True) / share
    centred = (inputs - mean) * kept
    deviation = (centred.square().mean(axes, keepdim=True) / share + norm.eps).sqrt()
    return centred / deviation * norm.weight + (0 if norm.bias is None else norm.bias)


def _root_mean_square(norm: nn.RMSNorm, inputs: Tensor, kept: Tensor) -> Tensor:
    axes = tuple(range(-kept.ndim, 0))
    eps = torch.finfo(inputs.dtype).eps if norm.eps is None else norm.eps
    square = (inputs * kept).square().mean(axes, keepdim=True) / kept.float().mean()
    return inputs * kept * (square + eps).rsqrt() * norm.weight


def _group_norm(norm: nn.GroupNorm, inputs: Tensor, kept: Tensor) -> Tensor:
    shape = (1, -1, *(1 for _ in inputs.shape[2:]))
    mask = kept.view(shape).to(inputs.dtype).expand_as(inputs)
    grouped, there = (each.reshape(len(inputs), norm.num_groups, -1) for each in (inputs * mask, mask))
    counts = there.sum(2, keepdim=True).clamp(min=1)
    centred = (grouped - grouped.sum(2, keepdim=True) / counts) * there
    normed = centred / (centred.square().sum(2, keepdim=True) / counts + norm.eps).sqrt()
    return normed.view_as(inputs) * norm.weight.view(shape) + norm.bias.view(shape)


def _digits(parameter: Tensor) -> bytes:
    return parameter.detach().numpy().tobytes()


def fewer_blocks_twin(original: nn.Module, smaller: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return a copy that passes over the blocks of which the smaller network has nothing, and the names of these."""
    twin = copy.deepcopy(original)
    left = {_digits(parameter) for parameter in smaller.parameters()}
    passed_over: list[str] = []
    for name, module in list(twin.named_modules()):
        inside = any(name.startswith(f"{outer}.") for outer in passed_over)
        own = {_digits(parameter) for parameter in module.parameters()}
        if name and own and not inside and own.isdisjoint(left):
            module.forward = lambda inputs, *_, **__: inputs
            passed_over.append(name)
    return twin, passed_over
