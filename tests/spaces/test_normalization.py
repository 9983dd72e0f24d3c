"""Statistics of batch normalization: against means and variances computed by hand, and for what stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.spaces.task import Task
from karui.spaces.training.batch_statistics import STATISTICS_BATCH, reestimate_normalization, statistics_inputs


def batches_of(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [3.0 + 2.0 * torch.randn(size, 5, generator=generator) for size in sizes]


def test_statistics_are_the_plain_means_of_the_batches() -> None:
    network = nn.Sequential(nn.BatchNorm1d(5, momentum=0.3), nn.Dropout(0.5), nn.BatchNorm1d(5, affine=False))
    nn.init.constant_(network[0].running_mean, 100.0)  # type: ignore[arg-type]
    nn.init.constant_(network[0].weight, 3.0)  # type: ignore[arg-type]
    nn.init.constant_(network[0].bias, -2.0)  # type: ignore[arg-type]
    batches = batches_of(16, 16, 7)
    assert reestimate_normalization(network, batches) == 2
    means, variances = zip(*((batch.mean(dim=0), batch.var(dim=0)) for batch in batches), strict=True)
    state = network.state_dict()
    torch.testing.assert_close(state["0.running_mean"], torch.stack(means).mean(dim=0))
    torch.testing.assert_close(state["0.running_var"], torch.stack(variances).mean(dim=0))
    # normalized by the batch and not dropped, the second layer sees mean -2 and deviation 3
    torch.testing.assert_close(state["2.running_mean"], torch.full((5,), -2.0))
    biased_to_unbiased = sum(size / (size - 1) for size in (16, 16, 7)) / 3
    torch.testing.assert_close(state["2.running_var"], torch.full((5,), 9.0 * biased_to_unbiased), rtol=1e-3, atol=0.0)


def test_everything_else_stays() -> None:
    layers = (nn.Linear(5, 5), nn.BatchNorm1d(5, momentum=0.3), nn.BatchNorm1d(5, momentum=None), nn.Dropout(0.2))
    network = nn.Sequential(*layers, nn.BatchNorm1d(5, track_running_stats=False))
    network[1].eval()
    flags = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    random_state = torch.random.get_rng_state()
    assert reestimate_normalization(network, batches_of(8)[0]) == 2
    assert [module.training for module in network.modules()] == flags
    assert [getattr(layer, "momentum", None) for layer in network] == [None, 0.3, None, None, 0.1]
    assert torch.equal(torch.random.get_rng_state(), random_state)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{layer}.{name}" for layer in (1, 2) for name in statistics}
    again = copy.deepcopy(network.state_dict())
    reestimate_normalization(network, batches_of(8)[0])
    assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())


def test_failing_network_gets_its_flags_and_momenta_back() -> None:
    network = nn.Sequential(nn.BatchNorm1d(5, momentum=0.3), nn.Linear(4, 1))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        reestimate_normalization(network, batches_of(8))
    assert network[0].momentum == 0.3
    assert all(module.training for module in network.modules())


def test_without_batch_normalization_nothing_runs() -> None:
    def refuse(_module: nn.Module, _inputs: object) -> None:
        raise AssertionError("the network ran")

    network = nn.Sequential(nn.Linear(5, 2), nn.LayerNorm(2))
    network.register_forward_pre_hook(refuse)
    assert reestimate_normalization(network, batches_of(8)) == 0
    with pytest.raises(ValueError, match="expected one batch or more, got none"):
        reestimate_normalization(nn.BatchNorm1d(5), [])


def test_scaled_weights_lose_nothing_once_the_statistics_are_right(tiny_network: nn.Module, tiny_task: Task) -> None:
    """Before batch normalization the scale of a convolution's weights has no meaning."""
    inputs = tiny_task.calibration_batch(64)
    reestimate_normalization(tiny_network, inputs)
    expected = tiny_network.eval()(inputs)
    with torch.no_grad():
        tiny_network.get_submodule("stem.0").weight.mul_(7.0)  # type: ignore[operator]
    assert not torch.allclose(tiny_network(inputs), expected, atol=1e-2)
    reestimate_normalization(tiny_network, inputs)
    torch.testing.assert_close(tiny_network(inputs), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("available", "asked", "sizes"),
    [
        (300, 1024, [128, 128, 44]),
        (300, 129, [128, 128]),
        (257, 1024, [128, 128]),
        (1, 1024, [1]),
    ],
)
def test_inputs_are_drawn_from_the_training_data(available: int, asked: int, sizes: list[int]) -> None:
    assert STATISTICS_BATCH == 128
    numbers = torch.arange(float(available)).unsqueeze(1)
    split = TensorDataset(numbers, torch.zeros(available))
    model = nn.Linear(1, 1)
    task = Task(model=model, train=split, validation=split, test=split, augment=lambda inputs: inputs - 1000.0)
    drawn = list(statistics_inputs(task, seed=0, samples=asked))
    assert [len(inputs) for inputs in drawn] == sizes
    values = torch.cat(drawn).flatten().tolist()
    assert len(set(values)) == len(values)
    assert set(values) <= set(numbers.flatten().tolist())
    assert values != sorted(values) or available == 1
    assert torch.cat(list(statistics_inputs(task, seed=0, samples=asked))).flatten().tolist() == values
