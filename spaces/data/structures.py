"""What networks take and give, taken apart into named tensors in a fixed order, and put together again.

Tuples, lists, dicts, named tuples and dataclasses (such as Hugging Face's ``ModelOutput``) of tensors, nested as they
like. What is no tensor has no place in a file: it is left out, and None stands for it afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .named import Named

OUTPUT = "output"
"""Name of the only output of a network that gives one tensor, and what the names of nameless ones begin with."""


@dataclass(frozen=True)
class Structure:
    """What held some tensors: a tensor's place, or a container of further ones.

    Args:
        name: Name of the tensor at this place; empty where there is a container, or nothing.
        container: Type of the container; None where there is none.
        keys: What the container's parts are called, in order; of sequences their numbers.
        children: Its parts.
    """

    name: str = ""
    container: type | None = None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, in order."""
        if self.container is None:
            return (self.name,) if self.name else ()
        return tuple(name for child in self.children for name in child.names)

    def restore(self, parts: Mapping[str, Any]) -> Any:
        """Return tensors, or whatever is given by their names, in the structure; None where no tensor was.

        Raises:
            KeyError: Where one of the names is missing.
        """
        if self.container is None:
            return parts[self.name] if self.name else None
        values = [child.restore(parts) for child in self.children]
        return _made(self.container, dict(zip(self.keys, values, strict=True)))


@dataclass(frozen=True)
class TakenApart:
    """Tensors and what they were taken out of.

    Args:
        parts: The tensors by name, in order.
        structure: What held them.
        left_out: What is no tensor, as ``name: type``.
    """

    parts: dict[str, Tensor]
    structure: Structure
    left_out: tuple[str, ...] = ()


def take_apart(value: Any, first: str = OUTPUT, taken: Sequence[str] = (), naming: Sequence[str] = ()) -> TakenApart:
    """Take a structure of tensors apart.

    Args:
        value: A tensor, or tensors in containers.
        first: What the name of a lone tensor is, and what names of those in a sequence begin with.
        taken: Names that no tensor may have; it is then called ``name_out``.
        naming: What the parts of a sequence are called, where they have names.
    """
    parts: dict[str, Tensor] = {}
    left_out: list[str] = []

    def visit(part: Any, path: str) -> Structure:
        if isinstance(part, Tensor):
            name = _unique(path or first, {*taken, *parts})
            parts[name] = part
            return Structure(name=name)
        found = _inside(part)
        if found is None:
            left_out.append(f"{path or first}: {type(part).__name__}")
            return Structure()
        keys = list(found)
        is_sequence = (
            not isinstance(part, Mapping) and not dataclasses.is_dataclass(part) and keys == [*range(len(keys))]
        )
        children = []
        for key in keys:
            own = naming[key] if is_sequence and not path and key < len(naming) else str(key)
            nameless = is_sequence and not path and key >= len(naming)
            children.append(visit(found[key], f"{first}_{key}" if nameless else f"{path}.{own}" if path else own))
        return Structure(container=type(part), keys=tuple(keys), children=tuple(children))

    structure = visit(value, "")
    return TakenApart(parts, structure, tuple(left_out))


def named(value: Any, first: str = OUTPUT, taken: Sequence[str] = ()) -> Tensor | Named:
    """Return what a network gave: its only tensor, or the tensors of what it gave by name."""
    if isinstance(value, Tensor):
        return value
    apart = take_apart(value, first, taken)
    return Named(apart.parts, apart.structure)


class SeesStructure:
    """A loss or metric of the user's, which is shown outputs in the structure that the user's model gives them.

    Args:
        function: Maps (outputs, targets) to a number.
        structure: Of outputs that come without theirs, such as those of a file.
    """

    def __init__(self, function: Callable[[Any, Any], Any], structure: Structure) -> None:
        self.function = function
        self.structure = structure

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """Return what the function says of outputs as they are handed around here."""
        return self.function(restored(outputs, self.structure), targets)


def restored(outputs: Any, structure: Structure) -> Any:
    """Return outputs in the structure of the model that gave them.

    Args:
        outputs: A tensor or named ones; anything else is taken to be in its structure.
        structure: What they are put into where they do not know it themselves.
    """
    if isinstance(outputs, Named):
        return (outputs.structure or structure).restore(outputs.parts)
    if isinstance(outputs, Tensor) and structure.container is not None and len(structure.names) == 1:
        return structure.restore({structure.names[0]: outputs})
    return outputs


def _inside(part: Any) -> dict[Any, Any] | None:
    """Return what a container holds, in order; None where it is none."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    if isinstance(part, Mapping):
        return dict(part)
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return dict(zip(part._fields, part, strict=True))
    if isinstance(part, (tuple, list)):
        return dict(enumerate(part))
    return None


def _made(container: Any, values: dict[Any, Any]) -> Any:
    if dataclasses.is_dataclass(container):
        taken = {field.name for field in dataclasses.fields(container) if field.init}
        constructor: Any = container
        made = constructor(**{name: value for name, value in values.items() if name in taken})
        for name in values.keys() - taken:
            object.__setattr__(made, name, values[name])
        return made
    if issubclass(container, Mapping):
        try:
            return container(values)
        except TypeError:  # such as a defaultdict
            return values
    if hasattr(container, "_fields"):
        return container(**values)
    return container(values.values())


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number, unique = 2, f"{name}_out"
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


torch.utils._pytree.register_pytree_node(
    Named,
    lambda batch: (list(batch.tensors), (batch.names, batch.structure)),
    lambda tensors, context: Named(dict(zip(context[0], tensors, strict=True)), context[1]),
)
