"""Blocks that a loop walks, against the original with those blocks as identities."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from karui.errors import CandidateFailure
from karui.spaces.axes.students.shallower import droppable_blocks, shallower

from .masked_twin import with_weights_of_their_own


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, inputs: Tensor, scale: float = 1.0) -> Tensor:
        outputs: Tensor = inputs + scale * self.f(inputs).relu()
        return outputs


class Walking(nn.Module):
    """Walks its blocks in a way of its own."""

    def __init__(self, blocks: nn.Module, walk: Callable[[Walking, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3, padding=1), blocks, nn.Linear(8, 4)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(4)])
        self.walk = walk

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.walk(self, self.stem(inputs)).mean((2, 3)))
        return outputs


def several() -> nn.ModuleList:
    return nn.ModuleList([Block() for _ in range(4)])


def loop(network: Walking, features: Tensor) -> Tensor:
    for block in network.blocks:  # type: ignore[attr-defined]
        features = block(features)
    return features


def by_length(network: Walking, features: Tensor) -> Tensor:
    for number in range(len(network.blocks)):  # type: ignore[arg-type]
        features = network.blocks[number](features)  # type: ignore[index]
    return features


def with_arguments(network: Walking, features: Tensor) -> Tensor:
    for block in network.blocks:  # type: ignore[attr-defined]
        features = block(features, scale=0.5)
    return features


def of_a_dict(network: Walking, features: Tensor) -> Tensor:
    for block in network.blocks.values():  # type: ignore[operator]
        features = block(features)
    return features


def nested(network: Walking, features: Tensor) -> Tensor:
    for stage in network.blocks:  # type: ignore[attr-defined]
        for block in stage:
            features = block(features)
    return features


def but_the_last(network: Walking, features: Tensor) -> Tensor:
    for block in network.blocks[:-1]:  # type: ignore[index]
        features = block(features)
    return network.blocks[-1](features)  # type: ignore[index,no-any-return]


WALKS = {
    "loop": (several, loop, 3),
    "by length": (several, by_length, 3),
    "further arguments": (several, with_arguments, 3),
    "but the last": (several, but_the_last, 3),
    "dict": (lambda: nn.ModuleDict({name: Block() for name in "abcd"}), of_a_dict, 3),
    "nested": (lambda: nn.ModuleList([several(), several()]), nested, 6),
    "sequential by a loop": (lambda: nn.Sequential(*several()), loop, 3),
}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("walk", WALKS)
def test_blocks_that_a_loop_walks_can_be_passed_over(walk: str, images: Tensor) -> None:
    """Half of the blocks of each container stay, the first ones; the twin's others are identities."""
    make, forward, droppable = WALKS[walk]
    network = with_weights_of_their_own(Walking(make(), forward))
    assert droppable_blocks(network, images) == droppable
    student = shallower(network, images, width=1.0, depth=0.5).eval()
    left = {value for parameter in student.parameters() for value in parameter.flatten().tolist()}
    twin = copy.deepcopy(network)
    passed_over = 0
    for block in twin.modules():
        if isinstance(block, Block) and block.f.get_parameter("bias")[0].item() not in left:
            block.forward = lambda inputs, **_: inputs  # type: ignore[method-assign]
            passed_over += 1
    assert passed_over == droppable_blocks(network, images, 0.5)
    torch.testing.assert_close(student(images), twin(images), rtol=0, atol=1e-12)


def by_number(network: Walking, features: Tensor) -> Tensor:
    features = network.blocks[0](network.blocks[1](features))  # type: ignore[index]
    return network.blocks[3](network.blocks[2](features))  # type: ignore[index,no-any-return]


def beside_norms(network: Walking, features: Tensor) -> Tensor:
    for block, norm in zip(network.blocks, network.norms, strict=False):  # type: ignore[call-overload]
        features = norm(block(features))
    return features


def taps(network: Walking, features: Tensor) -> Tensor:
    total = features
    for number, block in enumerate(network.blocks):  # type: ignore[arg-type,var-annotated]
        features = block(features)
        total = total + number * features
    return total


@pytest.mark.parametrize("walk", [by_number, beside_norms, taps])
def test_blocks_that_the_code_counts_on_stay(walk: Callable[[Walking, Tensor], Tensor], images: Tensor) -> None:
    network = with_weights_of_their_own(Walking(several(), walk))
    assert droppable_blocks(network, images) == 0
    with pytest.raises(CandidateFailure, match=r"architecture: the network .* without the dropped blocks"):
        shallower(network, images, width=1.0, depth=0.5)


def test_containers_that_can_be_cut_are_and_the_others_are_told(images: Tensor) -> None:
    def both(network: Walking, features: Tensor) -> Tensor:
        return by_number(network, loop_of(network.get_submodule("more"), features))

    network = Walking(several(), both)
    network.more = several()
    network = with_weights_of_their_own(network)  # type: ignore[assignment]
    notes: list[str] = []
    student = shallower(network, images, width=1.0, depth=0.5, note=notes.append)
    assert [len(list(student.get_submodule(name).children())) for name in ("blocks", "more")] == [4, 2]
    (note,) = notes
    assert note.startswith("all blocks of blocks were kept: the network does not run without the dropped blocks")


def loop_of(blocks: nn.Module, features: Tensor) -> Tensor:
    for block in blocks.children():
        features = block(features)
    return features
