"""The user's model as karui takes it: without what was wrapped around it for training, in float32."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...errors import TaskError
from .running import copy_network

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
_FLOATS = (torch.float16, torch.bfloat16, torch.float64)


def plain_model(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return the model itself, or what it wraps, and what was done to it in sentences.

    Wrappers that spread a batch over devices or processes, averages of weights and compiled modules give way to what is
    in them, wherever they are in the model; parameters stay the same objects. A model in half or double precision is
    copied and converted to float32, which is what files are made from.

    Args:
        model: Left as it is.

    Raises:
        TaskError: Where it is a TorchScript module or cannot be taken out of what wraps it.
    """
    _refuse_script(model)
    told: list[str] = []
    plain = _unwrapped(model, "model", told, {})
    kinds = {str(parameter.dtype) for parameter in plain.parameters() if parameter.dtype in _FLOATS}
    if kinds:
        plain = copy_network(plain).float()
        names = " and ".join(sorted(kind.removeprefix("torch.") for kind in kinds))
        told.append(f"the model has weights in {names}: a copy of it in float32 is what is made light")
    return plain, told


def _unwrapped(module: nn.Module, name: str, told: list[str], known: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return a module without wrappers in it: itself where there are none, else a new one that shares its tensors."""
    if module in known:
        return known[module]
    inner = _inside(module)
    if inner is not None:
        told.append(f"{name} is taken out of the {type(module).__name__} around it")
        known[module] = _unwrapped(inner, name, told, known)
        return known[module]
    changed = {
        child_name: plain
        for child_name, child in module._modules.items()
        if child is not None and (plain := _unwrapped(child, f"{name}.{child_name}", told, known)) is not child
    }
    is_compiled = module.__dict__.get("_compiled_call_impl") is not None
    known[module] = module
    if changed or is_compiled:
        # a shallow copy: the user's own module goes on to be what it was
        known[module] = shallow = copy.copy(module)
        shallow.__dict__["_modules"] = {**module._modules, **changed}
        if is_compiled:
            told.append(f"{name} is taken as it was before it was compiled")
            shallow.__dict__["_compiled_call_impl"] = None
    return known[module]


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, _WRAPPERS):
        return module.module
    inner = module._modules.get("_orig_mod")
    return inner if type(module).__name__ == "OptimizedModule" else None


def _refuse_script(model: nn.Module) -> None:
    for name, module in model.named_modules():
        sharded = type(module).__name__ == "FullyShardedDataParallel"
        if isinstance(module, torch.jit.ScriptModule) or sharded:
            kind = "shards its parameters" if sharded else "is a TorchScript module"
            raise TaskError(
                f"the task's model {kind}, which cannot be changed or copied",
                where=f"Task(model=...){'.' if name else ''}{name}",
                expected="a torch.nn.Module as it was before torch.jit.script, torch.jit.trace or sharding",
                got=f"{type(module).__module__}.{type(module).__qualname__}",
                remedy="hand over the module that it was made from, with its weights loaded",
            )
