"""What a function or a network computes, told as far as that can be done without running it."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping
from functools import partial
from inspect import unwrap
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range, type(...), torch.dtype, torch.device)
_TOLD = (*_PLAIN, Tensor, np.ndarray, Mapping, list, tuple, set, frozenset, partial, nn.Module, types.FunctionType)

_Seen = dict[int, Any]
"""What is being described or has been, by identity; held, so that no identity comes again."""


def describe(thing: Any) -> str:
    """Return a text that is equal for things that compute the same, in every process of one version of Python.

    A function is told by its name, bytecode, constants, defaults, closure, and what it names of its own module; a
    network by its layers, their code and state; another object by its type, its attributes and what it does when
    called; numbers, texts, tensors and containers by their values. What is not seen: changes in other modules.
    """
    return _describe(thing, {})


def describe_network(network: nn.Module) -> str:
    """Return such a text for a network without its weights, which change as it is trained."""
    kinds = dict.fromkeys(type(layer) for layer in network.modules())
    seen: _Seen = {}
    code = [f"{kind.__qualname__} {_describe(_methods(kind), seen)}" for kind in kinds]
    attributes = [_describe(_attributes(layer, _PLAIN), seen) for layer in network.modules()]
    return f"{network!r} {code} {attributes}"


def array_digest(values: Tensor | np.ndarray) -> str:
    """Return a digest of shape, type and values."""
    array = values.detach().cpu().contiguous().numpy() if isinstance(values, Tensor) else np.ascontiguousarray(values)
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def _describe(thing: Any, seen: _Seen) -> str:
    if isinstance(thing, _PLAIN):
        return repr(thing)
    if isinstance(thing, (Tensor, np.ndarray)):
        return array_digest(thing)
    if isinstance(thing, tuple):  # before the identity: whether equal constants are one object is up to Python
        return str([_describe(item, seen) for item in thing])
    if isinstance(thing, (set, frozenset)):
        return str(sorted(_describe(item, seen) for item in thing))
    if id(thing) in seen:
        return f"again {_name(thing)}"
    seen[id(thing)] = thing
    if isinstance(thing, list):
        return str([_describe(item, seen) for item in thing])
    if isinstance(thing, Mapping):
        return str([(_describe(key, seen), _describe(value, seen)) for key, value in thing.items()])
    return _describe_computing(thing, seen)


def _describe_computing(thing: Any, seen: _Seen) -> str:
    if isinstance(thing, partial):
        return f"partial {_describe((thing.func, thing.args, thing.keywords), seen)}"
    if isinstance(thing, types.MethodType):
        return f"method {_describe((thing.__func__, thing.__self__), seen)}"
    if isinstance(thing, nn.Module):
        return f"{describe_network(thing)} {_describe(dict(thing.state_dict()), seen)}"
    if callable(thing) and isinstance(function := unwrap(thing), types.FunctionType):
        return _function(function, seen)
    if isinstance(thing, (type, types.ModuleType, types.BuiltinFunctionType)):
        return f"{getattr(thing, '__module__', '')}.{_name(thing)}"
    return f"{_name(thing)} {_describe((_methods(type(thing)), _attributes(thing, _TOLD)), seen)}"


def _function(function: types.FunctionType, seen: _Seen) -> str:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    names = sorted(_names(function.__code__) & function.__globals__.keys())
    used = {name: thing for name in names if _is_own(thing := function.__globals__[name], function.__module__)}
    told = (_code(function.__code__), function.__defaults__, function.__kwdefaults__, cells, used)
    return f"{_name(function)} {_describe(told, seen)}"


def _code(code: types.CodeType) -> list[Any]:
    inner = [_code(each) if isinstance(each, types.CodeType) else each for each in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, inner]


def _names(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(each) for each in code.co_consts if isinstance(each, types.CodeType)))


def _is_own(thing: Any, module: str) -> bool:
    """Say whether a global is a value, or code of that module; code of others is known by the name it goes by."""
    is_code = isinstance(thing, (type, types.FunctionType, types.BuiltinFunctionType))
    return thing.__module__ == module if is_code else not isinstance(thing, types.ModuleType)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _methods(kind: type) -> list[Any]:
    """Return the functions of a class and its bases, as far as they are not Python's or torch's."""
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("builtins", "torch")]
    return [[base.__qualname__, *filter(_is_function, vars(base).values())] for base in bases]


def _is_function(thing: Any) -> bool:
    return isinstance(thing, types.FunctionType)


def _attributes(thing: Any, kinds: tuple[type, ...]) -> dict[str, Any]:
    attributes = getattr(thing, "__dict__", {})
    told = (name for name in sorted(attributes) if name != "training" and isinstance(attributes[name], kinds))
    return {name: attributes[name] for name in told}


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", None) or type(thing).__qualname__)
