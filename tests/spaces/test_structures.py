"""Structures of tensors: taken apart into named ones, and put together again."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from karui.spaces.data.named import Named, feeds_of, from_arrays, joined, to_arrays, with_rows
from karui.spaces.data.structures import SeesStructure, named, restored, take_apart

Pair = namedtuple("Pair", "left right")


@dataclass
class Answer:
    logits: Any
    cache: object = None
    hidden: Any = None


def ones(number: float = 1.0) -> Tensor:
    return torch.full((2, 1), number)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (ones(), ["output"]),
        ((ones(), ones()), ["output_0", "output_1"]),
        ([ones()], ["output_0"]),
        ({"boxes": ones(), "scores": ones()}, ["boxes", "scores"]),
        ({"b": ones(), "a": (ones(), ones())}, ["b", "a.0", "a.1"]),
        (Pair(ones(), {"x": ones()}), ["left", "right.x"]),
        (Answer(ones(), None, (ones(), ones())), ["logits", "hidden.0", "hidden.1"]),
        ({1: ones()}, ["1"]),
        ({"a": {"b": ones()}, "a.b": ones()}, ["a.b", "a.b_out"]),
    ],
)
def test_tensors_have_names_by_their_places(value: Any, names: list[str]) -> None:
    assert list(take_apart(value).parts) == names


def test_what_is_no_tensor_is_left_out_by_name() -> None:
    apart = take_apart(Answer(ones(), None, {"steps": 3, "of": ones()}))
    assert list(apart.parts) == ["logits", "hidden.of"]
    assert apart.left_out == ("cache: NoneType", "hidden.steps: int")
    again = apart.structure.restore(apart.parts)
    assert isinstance(again, Answer)
    assert again.cache is None
    assert again.hidden == {"steps": None, "of": apart.parts["hidden.of"]}


def test_no_output_is_called_as_an_input_is() -> None:
    assert list(take_apart({"state": ones(), "y": ones()}, taken=["x", "state"]).parts) == ["state_out", "y"]


def test_the_parts_of_a_tuple_are_called_as_the_arguments() -> None:
    assert list(take_apart((ones(), ones(), ones()), "input", naming=["ids", "mask"]).parts) == [
        "ids",
        "mask",
        "input_2",
    ]


def containers(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(inside, min_size=1, max_size=3)
    keys = st.dictionaries(st.text("abc.", min_size=1, max_size=3), inside, min_size=1, max_size=3)
    return st.one_of(
        few,
        few.map(tuple),
        keys,
        keys.map(OrderedDict),
        st.tuples(inside, inside).map(lambda pair: Pair(*pair)),
        st.tuples(inside, inside).map(lambda pair: Answer(pair[0], None, pair[1])),
    )


NUMBERS = st.integers(0, 99)
STRUCTURES = containers(st.recursive(NUMBERS, containers, max_leaves=6))


def with_tensors(value: Any) -> Any:
    """The structure with a tensor of one number in place of each number."""
    if isinstance(value, int):
        return ones(value)
    if isinstance(value, Answer):
        return Answer(*(with_tensors(part) for part in (value.logits, value.cache, value.hidden)))
    if isinstance(value, dict):
        return type(value)((key, with_tensors(part)) for key, part in value.items())
    if isinstance(value, Pair):
        return Pair(*map(with_tensors, value))
    return value if value is None else type(value)(map(with_tensors, value))


def with_numbers(value: Any) -> Any:
    """The other way round."""
    if isinstance(value, Tensor):
        return int(value[0, 0])
    if isinstance(value, Answer):
        return Answer(*(with_numbers(part) for part in (value.logits, value.cache, value.hidden)))
    if isinstance(value, dict):
        return type(value)((key, with_numbers(part)) for key, part in value.items())
    if isinstance(value, Pair):
        return Pair(*map(with_numbers, value))
    return value if value is None else type(value)(map(with_numbers, value))


@given(STRUCTURES)
@settings(deadline=None, max_examples=60)
def test_a_structure_comes_back_as_it_was(value: Any) -> None:
    apart = take_apart(with_tensors(value))
    again = apart.structure.restore(apart.parts)
    assert with_numbers(again) == value
    assert type(again) is type(value)
    assert apart.structure.names == tuple(apart.parts)


def test_a_loss_sees_what_the_model_gives() -> None:
    structure = take_apart(Answer(ones(1), None, ones(2))).structure
    seen: list[Any] = []
    sees = SeesStructure(lambda outputs, targets: seen.append((outputs, targets)), structure)
    sees(Named({"logits": ones(3), "hidden": ones(4)}), "targets")
    assert with_numbers(seen[0][0]) == Answer(3, None, 4)
    assert seen[0][1] == "targets"
    sees(named({"other": ones(5)}), "targets")  # what comes with its own structure, as a network in training gives it
    assert with_numbers(seen[1][0]) == {"other": 5}


def test_the_only_output_of_a_file_goes_back_into_its_dict() -> None:
    assert with_numbers(restored(ones(7), take_apart({"out": ones()}).structure)) == {"out": 7}
    assert with_numbers(restored(ones(7), take_apart(ones()).structure)) == 7


def test_named_tensors_are_cut_joined_and_kept_by_name() -> None:
    batch = Named({"a": torch.arange(6).reshape(3, 2), "b": torch.arange(3)})
    assert len(batch) == 3
    assert joined([batch[:1], batch[1:]]).parts["a"].tolist() == batch.parts["a"].tolist()
    arrays = to_arrays("inputs", batch.numpy())
    assert sorted(arrays) == ["inputs.a", "inputs.b"]
    assert from_arrays("inputs", arrays).parts["b"].tolist() == [0, 1, 2]
    assert from_arrays("targets", arrays) is None
    filled = with_rows(batch.numpy()[:2], 3)
    assert filled.parts["b"].tolist() == [0, 1, 0]
    assert list(feeds_of(["b"], batch)) == ["b"]
    assert torch.utils._pytree.tree_leaves(batch)[1] is batch.parts["b"]
