"""Weights that a module computes from other tensors, made plain ones.

Weight normalization, spectral normalization, masks of pruning and other parametrizations hide a layer's weight from all
that reads, rounds, narrows or zeroes weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    SpectralNormStateDictHook,
)
from torch.nn.utils.weight_norm import WeightNorm

from .running import copy_network

_Hooks = (WeightNorm, SpectralNorm, BasePruningMethod)
_SOURCES = ("_g", "_v", "_orig", "_mask", "_u")
"""How the older hooks call what they compute a weight from."""


def is_parametrized(network: nn.Module) -> bool:
    """Say whether any weight of the network is computed from other tensors by torch's own means."""
    return any(parametrize.is_parametrized(module) or any(_hooks(module)) for module in network.modules())


def fold_parametrizations(network: nn.Module) -> nn.Module:
    """Return a copy whose weights are plain parameters, with the values that they have in evaluation mode.

    Both of torch's ways are folded: ``torch.nn.utils.parametrize``, and the older hooks of ``weight_norm``,
    ``spectral_norm`` and ``prune``. The copy computes the same in evaluation mode.

    Args:
        network: Left as it is.
    """
    folded = copy_network(network)
    if not is_parametrized(folded):
        return folded
    training = {module: module.training for module in folded.modules()}
    # in training mode, a spectral norm iterates each time that its weight is read
    folded.eval()
    with torch.no_grad():
        # all of them before the first goes: two layers may be computed from one tensor
        values = [(module, {name: _value(module, name) for name in _computed(module)}) for module in folded.modules()]
    for module, weights in values:
        if weights:
            _forget(module)
            for name, value in weights.items():
                module.register_parameter(name, value)
    for module, was_training in training.items():
        module.training = was_training
    return folded


def _hooks(module: nn.Module) -> Iterator[WeightNorm | SpectralNorm | BasePruningMethod]:
    return (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _Hooks))


def _hook_name(hook: WeightNorm | SpectralNorm | BasePruningMethod) -> str:
    return str(hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name)


def _computed(module: nn.Module) -> list[str]:
    """Return the names of a module's own computed weights."""
    names = [_hook_name(hook) for hook in _hooks(module)]
    if parametrize.is_parametrized(module):
        names += list(module.parametrizations)  # type: ignore[arg-type]
    return names


def _value(module: nn.Module, name: str) -> nn.Parameter:
    """Return a computed weight as a plain one, which is trained where something that it is computed from is."""
    own = [value for key, value in module.named_parameters(recurse=False) if key.startswith(f"{name}_")]
    hook = next((hook for hook in _hooks(module) if _hook_name(hook) == name), None)
    if hook is None:
        own = list(module.parametrizations[name].parameters())  # type: ignore[index,union-attr]
    else:
        hook(module, ())  # what it is computed from may have changed since the last call
    value: Tensor = getattr(module, name)
    return nn.Parameter(value.detach().clone(), requires_grad=any(source.requires_grad for source in own))


def _forget(module: nn.Module) -> None:
    """Remove what computes the weights of a module, and the computed weights with it."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _Hooks):
            del module._forward_pre_hooks[key]
            name = _hook_name(hook)
            for store in (module._parameters, module._buffers):
                for source in [f"{name}{suffix}" for suffix in _SOURCES if f"{name}{suffix}" in store]:
                    del store[source]
            module.__dict__.pop(name, None)
    for hooks, kind in (
        (module._state_dict_hooks, SpectralNormStateDictHook),
        (module._load_state_dict_pre_hooks, SpectralNormLoadStateDictPreHook),
    ):
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "hook", hook), kind)]:
            del hooks[key]
    if parametrize.is_parametrized(module):
        del module.parametrizations
        # torch puts a subclass with a property for each computed weight in the place of the class; copies share it
        module.__class__ = type(module).__bases__[0]
