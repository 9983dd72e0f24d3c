"""What a function, an object or a network computes, told as far as that can be done without running it."""

from __future__ import annotations

import enum
import functools
import hashlib
import logging
import re
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .code_names import globals_read, imports_of, is_known, is_library, names_of
from .code_state import OF_EVERY_CLASS, array_digest, state_of

_PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range, type(...), torch.dtype, torch.device)
_HOLD_NOTHING = (type(threading.Lock()), type(threading.RLock()), logging.Logger)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TORCHS_OWN = frozenset(vars(nn.Module())) | {"training"}
"""Attributes that every module has: its layers, parameters and buffers are told as such, hooks on their own."""


@dataclass(frozen=True)
class Description:
    """What something computes.

    Args:
        text: Equal for things that compute the same, in every process of one version of Python.
        unknown: What could not be told, each with its type: two texts may be equal though that differs.
    """

    text: str
    unknown: tuple[str, ...] = ()


def describe(thing: Any) -> Description:
    """Tell what a thing computes.

    A function is told by its name, bytecode, constants, defaults, closure, and what it reads of its own module and of
    others that are no installed packages; a network by its layers, their code and state; another object by its type,
    its attributes and its code; numbers, texts, tensors and containers by their values.
    """
    return _Describer().whole(lambda describer: describer.of(thing))


def describe_network(network: nn.Module) -> Description:
    """Tell what a network computes but for its weights, which change as it is trained."""
    return _Describer().whole(lambda describer: describer.network(network))


class _Describer:
    """Walks once over all that one thing reaches, whatever refers back to whatever."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}  # holds what it has seen, so that no identity comes again
        self._weights: frozenset[int] = frozenset()
        self._unknown: list[str] = []

    def whole(self, tell: Callable[[_Describer], str]) -> Description:
        try:
            text = tell(self)
        except RecursionError:
            self._unknown.append("what is nested too deeply")
            text = "nested"
        return Description(text, tuple(dict.fromkeys(self._unknown)))

    def of(self, thing: Any) -> str:
        """Return the text of anything."""
        if isinstance(thing, enum.Enum):
            return _joined("enum", [type(thing).__qualname__, thing.name, self.of(thing.value)])
        if isinstance(thing, _PLAIN):
            return repr(thing)
        if isinstance(thing, (Tensor, np.ndarray, np.generic)):
            return "a weight" if id(thing) in self._weights else self._array(thing)
        if type(thing) is tuple:  # before the identity: whether equal constants are one object is up to Python
            return self._each("tuple", thing)
        if isinstance(thing, (set, frozenset)):
            return _joined("set", sorted(self.of(item) for item in thing))
        if id(thing) in self._seen:
            return f"the {self._seen[id(thing)][0]}th"
        self._seen[id(thing)] = len(self._seen), thing
        try:
            return self._new(thing)
        except RecursionError:
            raise
        except Exception as error:  # a user's object may raise anything when it is looked at
            return self._not_told(thing, f"{type(error).__name__} when it is read")

    def network(self, network: nn.Module) -> str:
        """Return the text of a network without its parameters and buffers."""
        layers = list(network.named_modules(remove_duplicate=False))
        for _, layer in layers:
            self._seen.setdefault(id(layer), (len(self._seen), layer))
        # some layers, such as recurrent ones, list their weights once more
        self._weights |= {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
        told = [_joined("layer", [name, self._layer(layer)]) for name, layer in layers]
        kinds = dict.fromkeys(type(layer) for _, layer in layers)
        return _joined("network", [*told, *map(self.of, kinds)])

    def _new(self, thing: Any) -> str:
        """Return the text of something that was not seen before."""
        if isinstance(thing, (list, tuple)):
            return self._each(self.of(type(thing)), thing)
        if isinstance(thing, Mapping):
            pairs = [f"{self.of(key)}: {self.of(value)}" for key, value in thing.items()]
            return _joined(self.of(type(thing)), [*pairs, *self._named(getattr(thing, "__dict__", {}))])
        if isinstance(thing, functools.partial):
            return _joined("partial", [self.of(part) for part in (thing.func, thing.args, thing.keywords)])
        if isinstance(thing, types.MethodType):
            return _joined("method", [self.of(thing.__func__), self.of(thing.__self__)])
        if isinstance(thing, nn.Module):
            return _joined("module", [self.network(thing), self.of(dict(thing.state_dict()))])
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        if isinstance(thing, types.ModuleType):
            return thing.__name__
        if isinstance(thing, type):
            return self._class(thing)
        if isinstance(thing, types.BuiltinFunctionType):
            return self._builtin(thing)
        return self._object(thing)

    def _each(self, kind: str, things: Sequence[Any]) -> str:
        if all(type(thing) in _PLAIN for thing in things):
            return _joined(kind, [repr(thing) for thing in things])
        return _joined(kind, [self.of(thing) for thing in things])

    def _array(self, thing: Any) -> str:
        if isinstance(thing, np.ndarray) and thing.dtype.hasobject:
            return self.of(thing.tolist())
        try:
            return array_digest(np.asarray(thing) if isinstance(thing, np.generic) else thing)
        except (RuntimeError, NotImplementedError, TypeError) as error:  # a tensor without values, or of a layout
            return self._not_told(thing, type(error).__name__)

    def _layer(self, layer: nn.Module) -> str:
        """Return what one layer adds to its class: attributes of its own, and hooks."""
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        hooks = [self.of(list(getattr(layer, name).values())) for name in _HOOKS if getattr(layer, name, None)]
        own = {name: value for name, value in vars(layer).items() if name not in _TORCHS_OWN}
        return _joined(kind, [*self._named(own), *hooks])

    def _named(self, values: Mapping[str, Any]) -> list[str]:
        return [f"{name}: {self.of(values[name])}" for name in sorted(values)]

    def _function(self, function: types.FunctionType) -> str:
        code, cells = function.__code__, [cell for cell in function.__closure__ or () if _is_filled(cell)]
        told = [self._code(code), *map(self.of, (function.__defaults__, function.__kwdefaults__))]
        told += self._named({name: value for name, value in vars(function).items() if name != "__wrapped__"})
        told += [self.of(cell.cell_contents) for cell in cells]
        names, attributes = globals_read(code), names_of(code)
        for name in sorted(names & function.__globals__.keys()):
            told.append(f"{name}: {self._read(function.__globals__[name], function.__module__, attributes)}")
        told += [self._members(module, attributes) for module in imports_of(code)]
        return _joined(f"function {function.__qualname__}", told)

    def _code(self, code: types.CodeType) -> str:
        inner = [self._code(each) if isinstance(each, types.CodeType) else self.of(each) for each in code.co_consts]
        names = (code.co_names, code.co_varnames, code.co_freevars)
        return _joined("code", [code.co_code.hex(), *map(repr, names), *inner])

    def _read(self, thing: Any, reader: str, attributes: frozenset[str]) -> str:
        """Return the text of a global: code of installed packages is known by the name it goes by."""
        if isinstance(thing, types.ModuleType):
            return thing.__name__ if is_library(thing.__name__) else self._members(thing, attributes)
        if isinstance(thing, (type, types.FunctionType, types.BuiltinFunctionType)):
            home = str(thing.__module__)
            return self.of(thing) if home == reader or not is_library(home) else f"{home}.{_name(thing)}"
        return self.of(thing)

    def _members(self, module: types.ModuleType, names: frozenset[str]) -> str:
        """Return the text of a module by those of its members that are read."""
        if id(module) in self._seen:
            return module.__name__
        self._seen[id(module)] = len(self._seen), module
        members = vars(module)
        read = [name for name in sorted(names) if name in members]
        return _joined(
            module.__name__, [f"{name}: {self._read(members[name], module.__name__, names)}" for name in read]
        )

    def _class(self, kind: type) -> str:
        """Return the text of what a class and its bases define, as far as they are not Python's or torch's."""
        name = f"{kind.__module__}.{kind.__qualname__}"
        if is_known(kind.__module__):
            return name
        own = {each: value for each, value in vars(kind).items() if each not in OF_EVERY_CLASS}
        told = [f"{each}: {self._member(own[each])}" for each in sorted(own)]
        return _joined(name, [*told, *map(self.of, kind.__bases__)])

    def _member(self, value: Any) -> str:
        """Return the text of what a class holds: a method however it is wrapped, or a value."""
        if isinstance(value, (staticmethod, classmethod)):
            return self.of(value.__func__)
        if isinstance(value, property):
            return self.of((value.fget, value.fset))
        if isinstance(value, functools.cached_property):
            return self.of(value.func)
        if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)):
            return str(type(value))
        return self.of(value)

    def _builtin(self, thing: types.BuiltinFunctionType) -> str:
        bound = getattr(thing, "__self__", None)
        name = f"{thing.__module__ or ''}.{_name(thing)}"
        return name if bound is None or isinstance(bound, types.ModuleType) else _joined(name, [self.of(bound)])

    def _object(self, thing: Any) -> str:
        """Return the text of any other object: its class with its code, and its state."""
        kind = type(thing)
        if isinstance(thing, _HOLD_NOTHING):
            return kind.__qualname__
        if isinstance(thing, weakref.ReferenceType):
            return _joined("reference", [self.of(thing())])
        if isinstance(thing, re.Pattern):
            return _joined("pattern", [repr(thing.pattern), repr(thing.flags)])
        if isinstance(thing, torch.Generator):
            return _joined("generator", [self.of(thing.get_state())])
        wrapped = getattr(thing, "__wrapped__", None)  # by functools.lru_cache, torch.no_grad, ...
        if isinstance(wrapped, types.FunctionType):
            return _joined(kind.__qualname__, [self.of(wrapped)])
        code = self.of(kind)
        if (state := state_of(thing)) is not None:
            return _joined(code, self._named(state))
        return _joined(code, [self._reduced(thing)])

    def _reduced(self, thing: Any) -> str:
        """Return the text of an object that another language holds, by what pickle would keep of it."""
        try:
            reduced = thing.__reduce_ex__(2)
        except Exception as error:  # an object may refuse in whatever way
            return self._not_told(thing, type(error).__name__)
        if isinstance(reduced, str):
            return reduced
        made_by, *parts = reduced
        items = [list(part) if index > 1 and part is not None else part for index, part in enumerate(parts)]
        return _joined(_name(made_by), [self.of(item) for item in items])

    def _not_told(self, thing: Any, reason: str) -> str:
        name = f"{type(thing).__module__}.{type(thing).__qualname__}"
        self._unknown.append(f"{name} ({reason})")
        return f"unknown {name}"


def _joined(kind: str, parts: Iterable[str]) -> str:
    """Return a short text for many: written out, each level of nesting would double what quotes the one below."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode())
        digest.update(part.encode("utf-8", "surrogatepass"))
    return f"{kind} {digest.hexdigest()[:32]}"


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", None) or type(thing).__qualname__)
