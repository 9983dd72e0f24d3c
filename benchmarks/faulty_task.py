"""The task of ``search_faults.py``: small handwritten digits, and every tenth training of a candidate goes wrong."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from karui.spaces.task import Task, top1_accuracy
from karui.studies.tasks import digits
from karui.studies.tasks.resnet import ResNet

EVERY, OFFSET = 10, 5
"""Of ten trainings the fifth goes wrong: the 5th, the 15th and so on of a study."""

HEADROOM_BYTES = 200_000_000


def kill() -> None:
    """Do what the kernel does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


def hang() -> None:
    """Never return."""
    while True:
        time.sleep(1.0)


def run_out_of_memory() -> None:
    """Allocate past a limit of the process, until Python says so."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM_BYTES, before[1]))
    held = []
    try:
        while True:
            held.append(bytearray(HEADROOM_BYTES // 10))
    finally:
        held.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


FAULTS: dict[str, Callable[[], None]] = {
    "SIGKILL": kill,
    "segmentation fault": segfault,
    "hang": hang,
    "out of memory": run_out_of_memory,
}
"""Faults that happen in the loss; beside them it can be "NaN loss", and the metric "NaN metric"."""


class Trainings:
    """Tells one training from the next by the parameters behind the outputs, and counts them over all processes.

    Args:
        fault: What goes wrong; empty for nothing.
        diary: A line for each training.
        own: The task's own model, whose training counts for nothing.
    """

    def __init__(self, fault: str, diary: str, own: nn.Module) -> None:
        self.fault = fault
        self.diary = diary
        self._own = own
        self._last: weakref.ref[Tensor] | None = None
        self._is_faulty = False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy, unless this training goes wrong."""
        loss = nn.functional.cross_entropy(outputs, targets)
        self._look(outputs)
        if self._is_faulty and self.fault != "NaN metric":
            if self.fault == "NaN loss":
                return loss * float("nan")
            FAULTS[self.fault]()
        return loss

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the accuracy, or once after a faulty training began no number."""
        if self._is_faulty and self.fault == "NaN metric":
            self._is_faulty = False
            return float("nan")
        return top1_accuracy(outputs, targets)

    def _look(self, outputs: Tensor) -> None:
        parameter = first_parameter(outputs)
        if parameter is None or (self._last and self._last() is parameter):
            return
        if any(parameter is own for own in self._own.parameters()):
            return
        self._last = weakref.ref(parameter)
        number = len(Path(self.diary).read_text().splitlines()) + 1 if Path(self.diary).exists() else 1
        self._is_faulty = bool(self.fault) and number % EVERY == OFFSET
        with Path(self.diary).open("a") as file:
            file.write(f"{time.time():.3f} {'fault' if self._is_faulty else 'sound'}\n")


def first_parameter(outputs: Tensor) -> Tensor | None:
    """Return one parameter from which outputs were computed, the same in each step; None where none asks for it."""
    found, waiting, seen = [], [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [function for function, _ in node.next_functions]
    return min(found, key=id, default=None)


def make_task(fault: str = "", diary: str = "") -> Task:
    """Return the task.

    Args:
        fault: What goes wrong; empty for nothing.
        diary: A file to which a line is added for each training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet(input_channels=1, outputs=10, widths=(8, 16), blocks_per_stage=(2, 2))
    task = replace(digits.make_task(), model=model, baseline_epochs=3)
    if not diary:
        return task
    trainings = Trainings(fault, diary, model)
    return replace(task, loss=trainings.loss, metric=trainings.metric)
