"""The network that others learn from, which remembers what it said, and where it looked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batches import Inputs, Outputs, Pairs, is_held_in_memory, read_inputs
from ..data.named import parts_of
from ..networks.running import copy_network
from ..prediction import predict
from .attention_transfer import Maps, Resolution, attention_map, features_of, last_modules
from .precision import Precision, outputs_in

MOST_BYTES = 1 << 29
"""Most bytes that a teacher remembers."""


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher makes of a batch.

    Args:
        outputs: Its outputs.
        maps: Where it looked: its attention maps, in half precision; None where they were not asked for.
    """

    outputs: Outputs
    maps: Maps | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.outputs.nbytes) + sum(each.nbytes for each in (self.maps or {}).values())


class Teacher:
    """A trained network whose outputs are the same whenever it sees the same inputs, and are computed once.

    All candidates of a study learn from one baseline, on batches that come in the same order with the same random
    changes. A small student learns faster than the baseline runs, so that half of its training was the teacher's.
    What is remembered is found by the bytes of the batch itself: batches that differ are never taken for each other.
    (The same idea, with stored changes instead: Shen & Xing, FKD, ECCV 2022, arXiv:2112.01528.)

    Args:
        network: Left as it is.
        precision: What it computes in, batch by batch.
        most_bytes: How much is remembered; what comes later is computed every time.
    """

    def __init__(self, network: nn.Module, *, precision: Precision = "float32", most_bytes: int = MOST_BYTES) -> None:
        # a copy, because the network is the user's and stays where it is
        self._network = copy_network(network).cpu().eval()
        self._device = torch.device("cpu")
        self._precision = precision
        self._free = most_bytes
        self._batches: dict[bytes, TeacherOutput] = {}
        self._looks_at: dict[Resolution, nn.Module] | None = None
        self._split: Pairs | None = None
        self._of_split: Outputs | None = None

    @classmethod
    def of(cls, network: nn.Module | Teacher, precision: Precision) -> Teacher:
        """Return the teacher itself, or a new one around a network, which computes in that precision."""
        return network if isinstance(network, Teacher) else cls(network, precision=precision)

    def on(self, device: torch.device) -> nn.Module:
        """Return the network in evaluation mode, on a device."""
        if device != self._device:
            self._network.to(device)
            self._device = device
        return self._network

    def outputs(self, inputs: Inputs, device: torch.device) -> Outputs:
        """Return the outputs for a batch, on the device; see :meth:`taught`."""
        return self.taught(inputs, device).outputs

    def taught(self, inputs: Inputs, device: torch.device, *, with_maps: bool = False) -> TeacherOutput:
        """Return what the network makes of a batch, on the device.

        Args:
            inputs: Shape (n, *input_shape), anywhere.
            device: Where the network runs where it has to.
            with_maps: Whether attention maps are wanted as well.
        """
        # to look at the bytes of what lies on an accelerator, or is made for one, costs more than to compute
        if device.type != "cpu" or inputs.device.type != "cpu":
            return self._look(inputs, device, with_maps=with_maps)
        digest = hashlib.blake2b(digest_size=16)
        for part in parts_of(inputs).values():
            digest.update(_bytes_of(part))
        key = digest.digest()
        known = self._batches.get(key)
        if known is not None and (known.maps is not None or not with_maps):
            return known
        found = self._look(inputs, device, with_maps=with_maps)
        more = found.nbytes - (0 if known is None else known.nbytes)
        if more <= self._free:
            self._free -= more
            self._batches[key] = found
        return found

    def resolutions(self, inputs: Inputs) -> tuple[Resolution, ...]:
        """Return the resolutions of its attention maps.

        Args:
            inputs: A batch by which they are found, shape (n, *input_shape).
        """
        if self._looks_at is None:
            self._looks_at = last_modules(self._network, inputs)
        return tuple(self._looks_at)

    def outputs_of_all(self, split: Pairs, device: torch.device) -> Outputs | None:
        """Return the outputs for all samples of a split, on the CPU in their order; None where they are too many.

        Those of one split, the last asked for, are remembered; None also where the split does not lie in memory, so
        that its samples may come out different every time.

        Args:
            split: Inputs and targets.
            device: Where the network runs where it has to.
        """
        if not is_held_in_memory(split):
            return None
        if split is not self._split:
            self._forget_split()
            samples = len(split)  # type: ignore[arg-type]
            first = read_inputs(split, torch.zeros(1, dtype=torch.int64))
            if self._compute(first, device).nbytes * samples > self._free:
                return None
            self._split, self._of_split = split, predict(self.on(device), split)[0]
            self._free -= self._of_split.nbytes
        return self._of_split

    def _forget_split(self) -> None:
        self._free += 0 if self._of_split is None else self._of_split.nbytes
        self._split = self._of_split = None

    def _look(self, inputs: Inputs, device: torch.device, *, with_maps: bool) -> TeacherOutput:
        if not with_maps:
            return TeacherOutput(self._compute(inputs, device))
        self.resolutions(inputs)
        assert self._looks_at is not None
        with features_of(self._looks_at) as features:
            outputs = self._compute(inputs, device)
        # half precision tells two places apart by a thousandth, and is half of what there is to remember
        return TeacherOutput(outputs, {place: attention_map(each).half() for place, each in features.items()})

    def _compute(self, inputs: Inputs, device: torch.device) -> Outputs:
        with torch.no_grad():
            return outputs_in(self._precision, self.on(device), inputs.to(device))


def _bytes_of(inputs: Tensor) -> memoryview:
    return inputs.detach().contiguous().flatten().view(torch.uint8).numpy().data
