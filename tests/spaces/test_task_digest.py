"""What a task trains by: equal for equal tasks in every process, different wherever a network could differ."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from karui.spaces import task_digest as module
from karui.spaces.networks.code_digest import describe, describe_network
from karui.spaces.task import Task
from karui.spaces.task_digest import task_digest


def compiled(source: str, name: str = "f") -> Any:
    """Run a source text as a module of its own, and return what it calls by that name."""
    made = types.ModuleType("users")
    exec(compile(source, "users.py", "exec"), made.__dict__)
    return getattr(made, name)


LOSS = "def f(outputs, targets):\n    return outputs.sum() * 2.0\n"
GLOBAL = "WEIGHT = 2.0\ndef f(outputs):\n    return outputs * WEIGHT\n"
HELPER = "def g(x):\n    return x + 1\ndef f(x):\n    return g(x)\n"
CLOSURE = "def make(weight):\n    def inner(x):\n        return x * weight\n    return inner\nf = make(2.0)\n"
DEFAULT = "def f(x, weight=2.0):\n    return x * weight\n"
KEYWORD = "def f(x, *, weight=2.0):\n    return x * weight\n"
LAMBDA = "f = lambda x: x.mean()\n"
NESTED = "def f(x):\n    return [y + 1 for y in (lambda z: z)(x)]\n"
TENSOR = "import torch\nWEIGHTS = torch.tensor([1.0, 2.0])\ndef f(x):\n    return x * WEIGHTS\n"
OBJECT = (
    "class Loss:\n    def __init__(self, weight):\n        self.weight = weight\n"
    "    def __call__(self, x):\n        return self.half(x) * self.weight\n"
    "    def half(self, x):\n        return x / 2\nf = Loss(2.0)\n"
)
PARTIAL = "from functools import partial\ndef g(x, weight):\n    return x * weight\nf = partial(g, weight=2.0)\n"
METHOD = OBJECT + "f = Loss(2.0).half\n"
RECURSIVE = "def f(x):\n    return x if x < 1 else f(x - 1)\n"
CONTAINER = "SETTINGS = {'weights': [1, 2, {3, 4}]}\ndef f(x):\n    return x * SETTINGS['weights'][0]\n"

DIFFERENT = {
    "another constant": (LOSS, "2.0", "3.0"),
    "another operation": (LOSS, "sum", "mean"),
    "another operator": (LOSS, "*", "+"),
    "another name": (LOSS, "targets", "labels"),
    "another global": (GLOBAL, "2.0", "3.0"),
    "another helper": (HELPER, "x + 1", "x - 1"),
    "another closure": (CLOSURE, "make(2.0)", "make(3.0)"),
    "another default": (DEFAULT, "2.0", "3.0"),
    "another keyword default": (KEYWORD, "2.0", "3.0"),
    "another lambda": (LAMBDA, "mean", "sum"),
    "another inner function": (NESTED, "y + 1", "y + 2"),
    "another innermost function": (NESTED, "lambda z: z", "lambda z: -z"),
    "another tensor": (TENSOR, "[1.0, 2.0]", "[1.0, 2.5]"),
    "another attribute": (OBJECT, "Loss(2.0)", "Loss(3.0)"),
    "another method": (OBJECT, "x / 2", "x / 3"),
    "another bound argument": (PARTIAL, "weight=2.0", "weight=3.0"),
    "another bound object": (METHOD, "Loss(2.0).half", "Loss(3.0).half"),
    "another step of a recursion": (RECURSIVE, "x - 1", "x - 2"),
    "another value within": (CONTAINER, "{3, 4}", "{3, 5}"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_computes_something_else_is_told_apart(name: str) -> None:
    source, before, after = DIFFERENT[name]
    assert before in source
    assert describe(compiled(source)) == describe(compiled(source))
    assert describe(compiled(source)) != describe(compiled(source.replace(before, after)))


@pytest.mark.parametrize(
    "change",
    [
        lambda source: "\n\n# a comment\nUNUSED = object()\n" + source,
        lambda source: source.replace(":\n", ":  # so it is\n"),
        lambda source: source + "\n\ndef other():\n    return 5\n",
    ],
)
@pytest.mark.parametrize("source", [LOSS, GLOBAL, HELPER, CLOSURE, OBJECT, METHOD, RECURSIVE, CONTAINER])
def test_what_only_looks_different_is_the_same(source: str, change: Callable[[str], str]) -> None:
    assert describe(compiled(change(source))) == describe(compiled(source))


FINGERPRINT = """
import hashlib, types
from torch import nn
from karui.spaces.networks.code_digest import describe, describe_network
texts = [describe(nn.functional.cross_entropy).text]
texts.append(describe_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())).text)
for source in SOURCES:
    made = types.ModuleType("users")
    exec(compile(source, "users.py", "exec"), made.__dict__)
    texts.append(describe(made.f).text)
fingerprint = hashlib.sha256("".join(texts).encode()).hexdigest()
"""


def test_every_process_describes_the_same() -> None:
    sources = [LOSS, GLOBAL, HELPER, CLOSURE, NESTED, TENSOR, OBJECT, PARTIAL, METHOD, RECURSIVE, CONTAINER]
    sources.append("def f(x):\n    return x in {'a', 'b', 'c', 'd'}\n")
    sources.append("NAMES = {'a', 'b', 'c'}\ndef f(x):\n    return x in NAMES\n")
    here: dict[str, Any] = {"SOURCES": sources}
    exec(FINGERPRINT, here)
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another order of sets
    elsewhere = subprocess.run(
        [sys.executable, "-c", f"SOURCES = {sources!r}\n{FINGERPRINT}print(fingerprint)"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    assert elsewhere.stdout.strip() == here["fingerprint"]


def test_torchs_own_losses_are_told_apart() -> None:
    losses: list[Any] = [
        nn.functional.cross_entropy,
        nn.functional.mse_loss,
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
        partial(nn.functional.cross_entropy, label_smoothing=0.1),
        torch.relu,
        torch.tanh,
        None,
    ]
    assert len({describe(loss) for loss in losses}) == len(losses)


# --- networks ---------------------------------------------------------------------------------------------------------

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = 2.0

    def forward(self, x):
        return self.activation(self.linear(x)) * self.scale

    def activation(self, x):
        return torch.relu(x)
"""


def test_networks_of_the_same_weights_are_told_apart_by_their_code() -> None:
    sources = [NETWORK, NETWORK.replace("relu", "tanh"), NETWORK.replace("* self.scale", "+ self.scale")]
    sources += [NETWORK.replace("= 2.0", "= 3.0")]
    assert len({describe_network(compiled(source, "Network")()) for source in sources}) == len(sources)


def test_training_does_not_change_what_a_network_is() -> None:
    network = compiled(NETWORK, "Network")()
    before = describe_network(network)
    network.train(not network.training)
    with torch.no_grad():
        network.linear.weight.add_(1.0)
    assert describe_network(network) == before
    assert describe(network) != describe(compiled(NETWORK, "Network")()), "its state is told where it is a loss"


# --- tasks ------------------------------------------------------------------------------------------------------------


class Listed(Dataset[tuple[Tensor, ...]]):
    """The same samples one by one, changed as they are read."""

    def __init__(self, split: Any, change: Callable[[Tensor], Tensor] = lambda inputs: inputs) -> None:
        self.split, self.change = split, change

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, target = self.split[index]
        return self.change(inputs), target


def changed(split: Any, place: int) -> TensorDataset:
    inputs, targets = (tensor.clone() for tensor in split.tensors)
    inputs[place, 0, 0, 0] += 1e-3
    return TensorDataset(inputs, targets)


def relabelled(split: Any, place: int) -> TensorDataset:
    inputs, targets = (tensor.clone() for tensor in split.tensors)
    targets[place] = (targets[place] + 1) % 3
    return TensorDataset(inputs, targets)


def test_equal_tasks_are_equal_and_others_are_not(tiny_task: Task) -> None:
    first = task_digest(tiny_task)
    assert task_digest(replace(tiny_task)) == first
    assert task_digest(replace(tiny_task, test=tiny_task.validation, metric_name="share")) == first, "not trained by"
    others = [
        replace(tiny_task, train=changed(tiny_task.train, 77)),
        replace(tiny_task, train=relabelled(tiny_task.train, 77)),
        replace(tiny_task, validation=changed(tiny_task.validation, 0)),
        replace(tiny_task, calibration=tiny_task.validation),
        replace(tiny_task, loss=nn.functional.mse_loss),
        replace(tiny_task, metric=lambda outputs, targets: float(outputs.mean())),
        replace(tiny_task, augment=torch.neg),
        replace(tiny_task, train=Listed(tiny_task.train, lambda inputs: 2 * inputs)),
        replace(tiny_task, model=nn.Sequential(tiny_task.model, nn.ReLU())),
    ]
    assert len({first, *map(task_digest, others)}) == len(others) + 1


def test_data_beyond_the_limit_are_told_by_samples_over_their_whole_length(
    tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_WHOLE_BYTES", 0)
    first, last = 0, 191
    splits = [tiny_task.train, *(changed(tiny_task.train, place) for place in (first, last))]
    shorter = TensorDataset(*(tensor[:-1] for tensor in tiny_task.train.tensors))  # type: ignore[attr-defined]
    digests = {task_digest(replace(tiny_task, train=split)) for split in [*splits, shorter]}
    assert len(digests) == 4
    assert task_digest(replace(tiny_task, train=changed(tiny_task.train, first))) in digests


@pytest.mark.parametrize("source", ["torch", "numpy", "random"])
def test_data_drawn_at_random_are_told_by_their_shapes_and_leave_the_generators(tiny_task: Task, source: str) -> None:
    draws: dict[str, Callable[[], float]] = {
        "torch": lambda: float(torch.rand(())), "numpy": np.random.random, "random": random.random
    }  # fmt: skip
    noisy = replace(tiny_task, train=Listed(tiny_task.train, lambda inputs: inputs + draws[source]()))
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = draws[source]()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    digest = task_digest(noisy)
    assert draws[source]() == expected
    assert task_digest(replace(noisy)) == digest
    wider = Listed(tiny_task.train, lambda inputs: torch.cat([inputs, inputs]) + draws[source]())
    assert task_digest(replace(tiny_task, train=wider)) != digest


def test_a_task_keeps_its_digest_while_its_loss_keeps_count(tiny_task: Task) -> None:
    class Counting:
        calls = 0

        def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            return nn.functional.cross_entropy(outputs, targets)

    task = replace(tiny_task, loss=Counting())
    before = task_digest(task)
    task.loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    assert task_digest(task) == before
