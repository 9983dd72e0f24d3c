"""The moving average of the weights, against its formula and for what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from karui.spaces.training.averaging import WeightAverage


@given(st.floats(0.0, 0.999), st.lists(st.floats(-10.0, 10.0), max_size=12), st.floats(-10.0, 10.0))
@settings(deadline=None, max_examples=40)
def test_average_is_that_of_the_formula(decay: float, values: list[float], start: float) -> None:
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, start)
    average = WeightAverage(network, decay)
    expected = start
    for step, value in enumerate(values, start=1):
        nn.init.constant_(network.weight, value)
        average.update()
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
    with average.swapped_in():
        assert network.weight.item() == pytest.approx(expected, abs=1e-9)


def test_long_average_forgets_as_the_decay_says() -> None:
    """After the warm-up, which 0.9 ends at step 80, a weight that drops from 1 to 0 is worth 0.9 to the power of t."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    average = WeightAverage(network, 0.9)
    for _ in range(100):
        average.update()
    nn.init.zeros_(network.weight)
    for _ in range(7):
        average.update()
    with average.swapped_in():
        assert network.weight.item() == pytest.approx(0.9**7, rel=1e-5)


def test_networks_own_weights_come_back_and_what_happened_to_the_average_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    parameters = list(network.parameters())
    average = WeightAverage(network, 0.5)
    network(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    average.update()
    own = copy.deepcopy(network.state_dict())
    with average.swapped_in():
        first = copy.deepcopy(network.state_dict())
        # the counter of batches is taken as it is, the running mean lies between those before and after
        assert int(first["1.num_batches_tracked"]) == 1
        torch.testing.assert_close(first["1.running_mean"], own["1.running_mean"] * 9 / 11)
        nn.init.zeros_(parameters[0])
    assert all(torch.equal(tensor, own[name]) for name, tensor in network.state_dict().items())
    assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))

    def stop() -> None:
        assert all(torch.equal(tensor, first[name]) for name, tensor in network.state_dict().items())
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"), average.swapped_in():
        stop()
    assert all(torch.equal(tensor, own[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_without_meaning_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"expected 0 <= decay < 1, got {decay}"):
        WeightAverage(nn.Linear(1, 1), decay)
