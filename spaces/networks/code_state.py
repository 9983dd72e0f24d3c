"""What an object holds, and what of a class computes nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.named import Named

OF_EVERY_CLASS = frozenset(
    [
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__qualname__",
        "__slots__",
        "__slotnames__",
        "__abstractmethods__",
        "_abc_impl",
        "__parameters__",
        "__orig_bases__",
        "__firstlineno__",
        "__static_attributes__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
        "__hash__",
        "__type_params__",
    ]
)
"""What a class holds that computes nothing."""

_HEAP_TYPE = 1 << 9
"""``Py_TPFLAGS_HEAPTYPE``: the class was made by Python code, or as such code would."""


def state_of(thing: Any) -> dict[str, Any] | None:
    """Return the attributes of an object of a class written in Python; None for another, whose state is hidden."""
    classes = type(thing).__mro__[:-1]
    if not all(each.__flags__ & _HEAP_TYPE for each in classes):
        return None
    slots: list[str] = []
    for each in classes:
        named = vars(each).get("__slots__", ())
        slots += [named] if isinstance(named, str) else list(named)
    filled = {
        name: getattr(thing, name) for name in slots if name not in ("__dict__", "__weakref__") and hasattr(thing, name)
    }
    return {**vars(thing), **filled} if hasattr(thing, "__dict__") else filled or None


def array_digest(values: Tensor | np.ndarray | Named) -> str:
    """Return a digest of shape, type and values."""
    if isinstance(values, Named):
        told = [(name, array_digest(part)) for name, part in values.parts.items()]
        return hashlib.sha256(str(told).encode()).hexdigest()
    if isinstance(values, Tensor):
        values = values.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}".encode())
        # by its bytes: numpy has no bfloat16
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
    array = np.ascontiguousarray(values)
    digest = hashlib.sha256(f"{values.shape} {array.dtype}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()
