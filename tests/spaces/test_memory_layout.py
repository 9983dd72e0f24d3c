"""Networks and batches lie in memory with their channels first, whatever they came as."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.network_factory import loss_gradient
from karui.spaces.networks.memory_layout import channels_first, lay_channels_first
from karui.spaces.task import Task


def channels_last(tensor: Tensor) -> Tensor:
    """Return the values with the strides of channels last, of one channel as well."""
    _, c, h, w = tensor.shape
    return tensor.contiguous(memory_format=torch.channels_last).as_strided(tensor.shape, (c * h * w, 1, c * w, c))


def network_of_last() -> nn.Sequential:
    """A network whose weights all have their channels last: a convolution, a depthwise one, a linear layer."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Flatten(),
        nn.Linear(80, 3),
    )  # fmt: skip
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = channels_last(parameter.data)
    return network


def strides(network: nn.Module) -> list[tuple[int, ...]]:
    return [parameter.stride() for parameter in network.parameters() if parameter.ndim == 4]


def task_of(network: nn.Module, **changes: object) -> Task:
    split = TensorDataset(channels_last(torch.rand(12, 2, 4, 5)), torch.arange(12) % 3)
    return Task(model=network, train=split, validation=split, test=split, **changes)  # type: ignore[arg-type]


def test_weights_are_laid_out_anew_and_keep_their_values() -> None:
    network = network_of_last()
    assert strides(network) == [(18, 1, 6, 2), (9, 1, 3, 1)]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parameters = list(network.parameters())
    lay_channels_first(network)
    assert strides(network) == [(18, 9, 3, 1), (9, 9, 3, 1)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    # the very same parameters, so that an optimizer that holds them, and layers that share them, still do
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))


def test_shared_weights_stay_shared() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    network = nn.Sequential(first, second)
    lay_channels_first(network)
    assert network[1].weight is network[0].weight


def test_a_tensor_that_counts_as_contiguous_is_laid_out_anew() -> None:
    tensor = channels_last(torch.rand(3, 1, 4, 5))
    assert tensor.is_contiguous()
    assert channels_first(tensor).stride() == (20, 20, 5, 1)
    assert torch.equal(channels_first(tensor), tensor)


def test_a_baseline_has_its_channels_first(tmp_path: Path) -> None:
    network = network_of_last()
    prepare_baseline(task_of(network), BuildSettings(), tmp_path)
    assert strides(network) == [(18, 9, 3, 1), (9, 9, 3, 1)]


def test_gradients_that_rank_channels_come_from_inputs_with_channels_first() -> None:
    seen = []
    network = network_of_last()
    network.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].stride()))
    loss_gradient(task_of(network), 4, seed=0)(network)
    assert set(seen) == {(40, 20, 5, 1)}
