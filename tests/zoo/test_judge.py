"""The judge's own answers, where they are known: it has to see what is wrong."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from .case import Wrong
from .layers import conv, head
from .levels import judge_channels_of_outputs, level_db, relative_error
from .plain_rounding import plainly_rounded
from .registry import images, vary
from .twins import fewer_blocks_twin, masked_twins

KEPT = [0, 2, 3, 5, 6, 7]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(conv(3, 8), nn.Sigmoid(), conv(8, 8), nn.ReLU(), head(8))
        vary(made)
    return made.eval()


def narrowed(order: list[int]) -> nn.Sequential:
    """Return the network with six of the first layer's channels, which the second one reads in this order."""
    smaller = network()
    first, second = smaller[0], smaller[2]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert first.bias is not None
    first.weight, first.bias = nn.Parameter(first.weight[KEPT]), nn.Parameter(first.bias[KEPT])
    second.weight = nn.Parameter(second.weight[:, order])
    return smaller


def error_of(smaller: nn.Module) -> float:
    inputs = images(4)
    with torch.no_grad():
        return min(
            relative_error(smaller(inputs).numpy(), twin(inputs).numpy()) for twin in masked_twins(network(), smaller)
        )


def test_channels_that_are_gone_everywhere_are_right() -> None:
    assert error_of(narrowed(KEPT)) < 1e-5


@pytest.mark.parametrize("order", [[2, 0, 3, 5, 6, 7], [0, 1, 2, 3, 5, 6], [1, 2, 3, 5, 6, 7]])
def test_channels_that_are_read_by_other_weights_are_seen(order: list[int]) -> None:
    assert error_of(narrowed(order)) > 1e-2


def test_a_norm_may_count_the_channels_that_are_left_alone() -> None:
    norm, inputs = nn.LayerNorm(8), torch.randn(4, 8)
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.normal_()
    first = nn.Linear(5, 8)
    original = nn.Sequential(first, norm)
    smaller = copy.deepcopy(original)
    smaller[0].weight, smaller[0].bias = nn.Parameter(first.weight[KEPT]), nn.Parameter(first.bias[KEPT])
    smaller[1] = nn.LayerNorm(6)
    smaller[1].weight, smaller[1].bias = nn.Parameter(norm.weight[KEPT]), nn.Parameter(norm.bias[KEPT])
    counting_zeros, counting_left = masked_twins(original, smaller)
    with torch.no_grad():
        wanted = smaller(inputs[:, :5])
        torch.testing.assert_close(counting_left(inputs[:, :5])[:, KEPT], wanted)
        assert not torch.allclose(counting_zeros(inputs[:, :5])[:, KEPT], wanted, atol=1e-2)


def test_blocks_that_are_gone_are_passed_over() -> None:
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)]
    twin, passed_over = fewer_blocks_twin(nn.Sequential(*blocks), nn.Sequential(blocks[0], blocks[2]))
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(twin(inputs), blocks[2](blocks[0](inputs)))
    assert passed_over == ["1"]


def test_level_is_signal_to_noise_in_decibel() -> None:
    wanted = np.array([[3.0], [5.0]], np.float32)
    assert level_db(wanted + np.float32(0.1), wanted) == pytest.approx(20.0, abs=1e-3)
    assert level_db(wanted, wanted) == 120.0
    assert level_db(np.full_like(wanted, np.nan), wanted) == -math.inf
    assert level_db(np.array([[4.0], [4.2]], np.float32), np.array([[4.0], [4.0]], np.float32)) == -math.inf


def test_a_channel_that_became_constant_is_seen() -> None:
    wanted = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    wanted[:, 2] *= 0.01
    given = wanted.copy()
    given[:, 2] = 0.0
    with pytest.raises(Wrong, match="channel 2"):
        judge_channels_of_outputs(given, wanted, 8.0)


def test_plain_rounding_is_a_grid_of_so_many_steps() -> None:
    inputs = images(8)
    rounded = plainly_rounded(network(), inputs, 4, 8)
    weight = rounded[0].weight[0].detach()
    assert len(weight.unique()) <= 15
    with torch.no_grad():
        assert 0 < relative_error(rounded(inputs).numpy(), network()(inputs).numpy()) < 0.5
