"""What a model reads, wherever that is kept: changed, it is another model, and gets no network of the old one."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.stage_cache import StageCache
from karui.spaces.candidate import Candidate
from karui.spaces.task import Task
from karui.spaces.task_digest import task_digest, unshared, whole_digest

HEAD = """
import dataclasses, enum, functools, random
from collections import OrderedDict, namedtuple
from types import SimpleNamespace
import numpy as np
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
"""
ATTRIBUTE = HEAD + (
    "class Network(Base):\n    def __init__(self):\n        super().__init__()\n        self.kept = KEPT\n"
    "    def forward(self, x):\n        return self.linear(x - READ)\n"
)


def attribute(kept: str, read: str, before: str = "") -> str:
    return before + ATTRIBUTE.replace("KEPT", kept).replace("READ", read)


WAYS = {
    "a list": attribute("[0.5]", "self.kept[0]"),
    "a list within a list": attribute("[[1, [0.5]]]", "self.kept[0][1][0]"),
    "a dict": attribute("{'c': 0.5}", "self.kept['c']"),
    "an ordered dict": attribute("OrderedDict(c=0.5)", "self.kept['c']"),
    "a tuple": attribute("(0.5,)", "self.kept[0]"),
    "a tensor": attribute("torch.tensor(0.5)", "self.kept"),
    "a bfloat16 tensor": attribute("torch.tensor(0.5, dtype=torch.bfloat16)", "self.kept"),
    "an array": attribute("np.array([0.5])", "float(self.kept[0])"),
    "a numpy number": attribute("np.float32(0.5)", "float(self.kept)"),
    "a namespace": attribute("SimpleNamespace(c=0.5)", "self.kept.c"),
    "a namespace of namespaces": attribute("SimpleNamespace(d=SimpleNamespace(c=[0.5]))", "self.kept.d.c[0]"),
    "a partial": attribute("functools.partial(max, 0.5)", "self.kept(-1.0)"),
    "a lambda": attribute("lambda: 0.5", "self.kept()"),
    "a closure": attribute("(lambda c: lambda: c)(0.5)", "self.kept()"),
    "a default": attribute("lambda c=0.5: c", "self.kept()"),
    "a named tuple": attribute("namedtuple('Kept', 'c')(0.5)", "self.kept.c"),
    "a plain list of layers": attribute("[nn.Threshold(-9.0, 0.5)]", "self.kept[0].value"),
    "an object with slots": HEAD
    + "class Kept:\n    __slots__ = ('c',)\n    def __init__(self):\n        self.c = 0.5\n"
    + attribute("Kept()", "self.kept.c").removeprefix(HEAD),
    "a data class": HEAD
    + "@dataclasses.dataclass(frozen=True)\nclass Kept:\n    c: float = 0.5\n"
    + attribute("Kept()", "self.kept.c").removeprefix(HEAD),
    "a class": HEAD + "class Kept:\n    c = 0.5\n" + attribute("Kept", "self.kept.c").removeprefix(HEAD),
    "an enumeration": HEAD
    + "class Kept(enum.Enum):\n    C = 0.5\n"
    + attribute("Kept.C", "self.kept.value").removeprefix(HEAD),
    "a dict with attributes": HEAD
    + "class Kept(dict):\n    def __init__(self, c):\n        self.c = c\n"
    + attribute("Kept(c=0.5)", "self.kept.c").removeprefix(HEAD),
    "an attribute of the class": HEAD
    + "class Network(Base):\n    kept = [0.5]\n"
    + "    def forward(self, x):\n        return self.linear(x - self.kept[0])\n",
    "a property": HEAD
    + "class Network(Base):\n    @property\n    def kept(self):\n        return 0.5\n"
    + "    def forward(self, x):\n        return self.linear(x - self.kept)\n",
    "a static method": HEAD
    + "class Network(Base):\n    @staticmethod\n    def kept():\n        return 0.5\n"
    + "    def forward(self, x):\n        return self.linear(x - self.kept())\n",
    "a kept method": HEAD
    + "class Network(Base):\n    @functools.lru_cache\n    def kept(self):\n        return 0.5\n"
    + "    def forward(self, x):\n        return self.linear(x - self.kept())\n",
    "a global list": HEAD
    + "KEPT = [0.5]\nclass Network(Base):\n    def forward(self, x):\n        return self.linear(x - KEPT[0])\n",
    "a hook": HEAD
    + "def kept(layer, inputs, outputs):\n    return outputs - 0.5\n"
    + "class Network(Base):\n    def __init__(self):\n        super().__init__()\n"
    + "        self.linear.register_forward_hook(kept)\n    def forward(self, x):\n        return self.linear(x)\n",
    "a function of its own autograd": HEAD
    + "class Kept(torch.autograd.Function):\n    @staticmethod\n"
    + "    def forward(context, x):\n        return x.round()\n"
    + "    @staticmethod\n    def backward(context, gradient):\n        return gradient * 0.5\n"
    + "class Network(Base):\n    def forward(self, x):\n        return self.linear(Kept.apply(x))\n",
    "what training alone reads": HEAD
    + "class Network(Base):\n    def __init__(self):\n        super().__init__()\n        self.kept = [0.5]\n"
    + "    def forward(self, x):\n        return self.linear(nn.functional.dropout(x, self.kept[0], self.training))\n",
    "chance in training": HEAD
    + "class Network(Base):\n    def forward(self, x):\n"
    + "        return self.linear(x) if self.training and random.random() < 0.5 else self.linear(x - 1)\n",
}


@pytest.fixture(autouse=True)
def _users_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "users", types.ModuleType("users"))


def network_of(source: str) -> nn.Module:
    made = sys.modules["users"] = types.ModuleType("users")  # where data classes look
    exec(compile(source, "users.py", "exec", dont_inherit=True), made.__dict__)
    torch.manual_seed(0)
    network: nn.Module = made.Network()
    return network


def task_of(network: nn.Module, split: Any = None) -> Task:
    torch.manual_seed(0)
    split = split or TensorDataset(torch.randn(8, 3), torch.randint(0, 3, (8,)))
    return Task(model=network, train=split, validation=split, test=split)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_another_one_where_what_it_reads_differs(way: str) -> None:
    source = WAYS[way]
    assert source.count("0.5") == 1
    same, again, other = (
        whole_digest(task_of(network_of(text))) for text in (source, source, source.replace("0.5", "0.7"))
    )
    assert same == again
    assert same.value != other.value
    assert not same.unknown


def test_what_another_module_of_the_user_holds_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = types.ModuleType("users_settings")
    monkeypatch.setitem(sys.modules, "users_settings", settings)
    forward = (
        "class Network(Base):\n    def forward(self, x):\n        return self.linear(x - users_settings.KEPT[0])\n"
    )
    digests = []
    for value in (0.5, 0.5, 0.7):
        settings.KEPT = [value]  # type: ignore[attr-defined]
        settings.UNREAD = object()  # type: ignore[attr-defined]
        digests.append(task_digest(task_of(network_of(f"import users_settings\n{HEAD}{forward}"))))
    assert digests[0] == digests[1] != digests[2]


def test_a_model_that_names_a_global_of_the_script_is_told() -> None:
    source = (
        HEAD + "class Network(Base):\n    def forward(self, x):\n        return self.linear(x - len(task.labels))\n"
    )
    made = sys.modules["users"] = types.ModuleType("users")  # where data classes look
    exec(compile(source, "users.py", "exec", dont_inherit=True), made.__dict__)
    made.__dict__["task"] = task = task_of(made.Network())  # which holds the model, whose code reads the task
    assert len(task_digest(task)) == 64


def test_layers_that_hold_each_other_are_told() -> None:
    network = network_of(WAYS["a list"])
    object.__setattr__(network.linear, "parent", network)
    kept: Any = network.kept
    kept.append(kept)
    assert len(task_digest(task_of(network))) == 64


def test_a_lock_keeps_no_network_from_being_shared() -> None:
    network = network_of(WAYS["a list"])
    network.lock = threading.Lock()  # type: ignore[assignment]
    assert not [what for what in whole_digest(task_of(network)).unknown if "lock" in what]


class Streamed(Dataset[tuple[Tensor, ...]]):
    """Samples beside something of which nobody can say what it holds."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.inputs = torch.randn(8, 3)
        self.numbers = (number for number in range(3))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.inputs[index], torch.tensor(index % 3)


def test_networks_of_what_cannot_be_told_stay_with_their_study(tmp_path: Path) -> None:
    shared = StageCache(tmp_path / "shared")
    network = network_of(WAYS["a list"])
    assert unshared(task_of(network)) is None
    Builder(task_of(network), BuildSettings(), tmp_path / "told", cache=shared).build(Candidate())
    assert len(shared.sizes()) == 1
    streamed = task_of(network, Streamed())
    assert "train: builtins.generator" in (unshared(streamed) or "")
    for _ in range(2):
        artifact = Builder(streamed, BuildSettings(), tmp_path / "untold", cache=shared).build(Candidate())
    assert artifact.stages[0].cached
    assert len(shared.sizes()) == 1
