"""Which weights are packed together, and how: the choice that makes the file smallest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .bits import fewest_bits
from .chain import Chain
from .graph import FEWEST_LOOKUP_ELEMENTS, add_dense, add_sparse, nonzero_mask

FEWEST_ELEMENTS = 32
_FLOATS = {16: np.float16, 32: np.float32}

_BYTES_PER_TENSOR = 36
"""What a packed tensor needs beside its values more than a plain one: a Reshape, a Split output, a shape."""


@dataclass(frozen=True, order=True)
class Form:
    """How the tensors of one group are stored.

    Args:
        bits: Bits of a stored value; 16 for float16, 32 for float32.
        sparse: Whether a mask says which values are stored.
    """

    bits: int
    sparse: bool


@dataclass(frozen=True)
class Group:
    """Tensors that one chain of nodes unpacks."""

    form: Form
    names: tuple[str, ...]


def plan(tensors: dict[str, np.ndarray], opset: int) -> list[Group]:
    """Return the groups in which tensors, int8 or floating, take the fewest bytes; one that is left out stays plain.

    Every form starts out allowed. Then the form whose loss saves most is given up, its tensors going to their next
    best one, until every form that is left earns the bytes of its nodes.
    """
    costs = {name: _costs(tensor) for name, tensor in tensors.items() if tensor.size >= FEWEST_ELEMENTS}
    allowed = {form for options in costs.values() for form in options}
    total, choice = _assign(costs, tensors, allowed, opset)
    while allowed:
        trials = [(*_assign(costs, tensors, allowed - {form}, opset), form) for form in sorted(allowed)]
        fewer, without, form = min(trials, key=lambda trial: trial[0])
        if fewer > total:
            break
        total, choice = fewer, without
        allowed = allowed - {form}
    return _groups(choice, tensors)


def _costs(tensor: np.ndarray) -> dict[Form, float]:
    """Return the bytes of a tensor in every form that can hold it."""
    extra = _BYTES_PER_TENSOR if tensor.ndim != 1 else 0
    nonzeros = int(np.count_nonzero(nonzero_mask(tensor.ravel())))
    mask_bytes = tensor.size / 8
    if tensor.dtype != np.int8:
        form = Form(8 * tensor.itemsize, True)
        packable = tensor.dtype == np.float32 or not np.isnan(tensor).any()
        return {form: extra + mask_bytes + tensor.itemsize * nonzeros} if packable else {}
    costs = {}
    for bits in range(fewest_bits(tensor), 9):
        if bits < 8:
            costs[Form(bits, False)] = extra + tensor.size * bits / 8
        costs[Form(bits, True)] = extra + mask_bytes + nonzeros * bits / 8
    return costs


def _assign(
    costs: dict[str, dict[Form, float]], tensors: dict[str, np.ndarray], allowed: set[Form], opset: int
) -> tuple[float, dict[str, Form]]:
    """Return the bytes in all, and the cheapest allowed form of each tensor that is not cheaper left plain."""
    total = 0.0
    choice = {}
    for name, options in costs.items():
        best, form = float(tensors[name].nbytes), None
        for option, cost in options.items():
            if option in allowed and cost < best:
                best, form = cost, option
        total += best
        if form is not None:
            choice[name] = form
    return total + sum(_chain_bytes(form, opset) for form in set(choice.values())), choice


def _groups(choice: dict[str, Form], tensors: dict[str, np.ndarray]) -> list[Group]:
    """Return one group per form, and one per large tensor: alone it need not be cut out, which takes memory at load."""
    groups = []
    for form in sorted(set(choice.values())):
        names = [name for name, chosen in choice.items() if chosen == form]
        small = tuple(name for name in names if tensors[name].size < FEWEST_LOOKUP_ELEMENTS)
        groups += [Group(form, (name,)) for name in names if name not in small]
        groups += [Group(form, small)] if small else []
    return groups


def add_group(chain: Chain, form: Form, tensors: dict[str, np.ndarray]) -> None:
    """Add the nodes and initializers of one group."""
    (add_sparse if form.sparse else add_dense)(chain, tensors, form.bits)


@cache
def _chain_bytes(form: Form, opset: int) -> int:
    """Return what the nodes of a group take, whatever it holds: built once for a tensor of next to nothing."""
    chain = Chain("a", opset)
    dtype = _FLOATS.get(form.bits, np.int8)
    add_group(chain, form, {"b": np.zeros(8, dtype=dtype), "c": np.zeros(8, dtype=dtype)})
    # A message inside a graph is preceded by its tag and its length, of one byte each.
    node_bytes = sum(int(node.ByteSize()) + 2 for node in chain.nodes)
    return node_bytes + sum(int(tensor.ByteSize()) + 2 for tensor in chain.initializers)
