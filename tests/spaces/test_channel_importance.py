"""By what channels go, layer by layer and globally, against rankings in numpy and networks with dead parts."""

from __future__ import annotations

import copy
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from karui.errors import CandidateFailure
from karui.spaces.axes.sparsity.channel_choice import KEPT_AT_LEAST, RankedChannels, keep_globally
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.sparsity_names import ChannelImportance, ChannelScope

FIRST, SECOND = 12, 10
LAYERS = ((0, FIRST), (3, SECOND))
INPUTS = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(8) % 4
Array = NDArray[np.float64]


def sequential_network(*, normalized: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for channels, out_channels in ((3, FIRST), (FIRST, SECOND)):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=False))
        norm = nn.BatchNorm2d(out_channels) if normalized else nn.Identity()
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
        layers += [norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(SECOND, 4))


def fill_gradients(network: nn.Module) -> None:
    loss: Tensor = nn.functional.cross_entropy(network(INPUTS), TARGETS)
    loss.backward()  # type: ignore[no-untyped-call]


def arrays(network: nn.Module, *, with_gradients: bool = False) -> dict[str, Array]:
    """Each parameter in numpy, or its gradient."""
    parameters = dict(network.named_parameters())
    tensors = {name: p.grad if with_gradients else p.detach() for name, p in parameters.items()}
    return {name: tensor.double().numpy() for name, tensor in tensors.items() if tensor is not None}


def summed_squares(values: dict[str, Array], layer: int) -> Array:
    """Rows that make the channels, their scale, and the columns of the next layer that read them."""
    rows, scale, columns = (values[f"{number}.weight"] for number in (layer, layer + 1, 3 if layer == 0 else 8))
    total: Array = (rows**2).reshape(len(rows), -1).sum(axis=1) + scale**2
    for channel in range(len(rows)):
        total[channel] += (columns[:, channel] ** 2).sum()
    return total


def score_by_hand(network: nn.Module, importance: ChannelImportance, layer: int) -> Array:
    weights = arrays(network)
    if importance == "batch_norm":
        scales: Array = np.abs(weights[f"{layer + 1}.weight"])
        return scales
    if importance == "geometric_median":
        filters = weights[f"{layer}.weight"].reshape(-1, weights[f"{layer}.weight"][0].size)
        return np.array([sum(math.dist(one, other) for other in filters) for one in filters])
    if importance == "taylor":
        twin = copy.deepcopy(network).eval()
        fill_gradients(twin)
        gradients = arrays(twin, with_gradients=True)
        return summed_squares({name: weights[name] * gradients[name] for name in weights}, layer)
    return summed_squares(weights, layer)


@pytest.mark.parametrize("importance", get_args(ChannelImportance))
def test_layers_keep_the_channels_of_the_highest_scores(importance: ChannelImportance) -> None:
    network = sequential_network()
    first, second = (
        np.sort(np.argsort(score_by_hand(network, importance, layer))[count // 2 :]) for layer, count in LAYERS
    )
    narrower = remove_channels(network, INPUTS[:2], 0.5, importance=importance, gradient=fill_gradients)
    weights, narrow = arrays(network), arrays(narrower)
    np.testing.assert_array_equal(narrow["0.weight"], weights["0.weight"][first])
    np.testing.assert_array_equal(narrow["3.weight"], weights["3.weight"][second][:, first])
    np.testing.assert_array_equal(narrow["8.weight"], weights["8.weight"][:, second])
    assert all(parameter.grad is None for parameter in (*network.parameters(), *narrower.parameters()))


def test_the_rankings_differ() -> None:
    orders = {tuple(np.argsort(score_by_hand(sequential_network(), name, 0))) for name in get_args(ChannelImportance)}
    assert len(orders) == len(get_args(ChannelImportance))


def test_without_normalization_its_scales_give_way_to_magnitude() -> None:
    network = sequential_network(normalized=False)
    narrower = remove_channels(network, INPUTS[:2], 0.5, importance="batch_norm")
    twin = remove_channels(network, INPUTS[:2], 0.5, importance="magnitude")
    assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in narrower.state_dict().items())


@pytest.mark.parametrize("scope", get_args(ChannelScope))
@pytest.mark.parametrize("importance", ["magnitude", "batch_norm", "taylor"])
def test_channels_that_do_nothing_go_first(
    tiny_network: nn.Module, example: Tensor, importance: ChannelImportance, scope: ChannelScope
) -> None:
    """Every layer's even channels are dead; without them the network computes the same."""
    tiny_network.eval()
    with torch.no_grad():
        for layer in tiny_network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight[::2] = 0.0
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, -0.5, 0.5)
                layer.get_buffer("running_mean").uniform_(-0.5, 0.5)
                layer.weight[::2] = 0.0
                layer.bias[::2] = 0.0

    def gradient(network: nn.Module) -> None:
        network(example).square().sum().backward()

    # a dead channel of the last layer still has a column in the head, by which magnitude ranks it
    tiny_network.get_parameter("head.weight").data[:, ::2] *= 1e-3
    narrower = remove_channels(tiny_network, example, 0.5, importance=importance, scope=scope, gradient=gradient)
    assert sum(p.numel() for p in narrower.parameters()) < 0.3 * sum(p.numel() for p in tiny_network.parameters())
    torch.testing.assert_close(narrower(example), tiny_network(example))


def test_gradients_are_taken_of_a_copy(tiny_network: nn.Module, example: Tensor) -> None:
    tiny_network.requires_grad_(False)
    before = copy.deepcopy(tiny_network.state_dict())
    called: list[nn.Module] = []

    def gradient(network: nn.Module) -> None:
        called.append(network)
        assert not network.training
        network.train()
        network(example).sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()

    with torch.no_grad():
        narrower = remove_channels(tiny_network, example, 0.5, importance="taylor", gradient=gradient)
    assert len(called) == 1
    assert called[0] is not tiny_network
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_network.state_dict().items())
    assert all(float(p.abs().max()) > 0 for p in narrower.parameters() if p.ndim > 1)
    assert not any(parameter.requires_grad for parameter in narrower.parameters())
    remove_channels(tiny_network, example, 0.5, importance="magnitude", gradient=gradient)
    assert len(called) == 1


def test_arguments_without_meaning_are_refused(tiny_network: nn.Module, example: Tensor) -> None:
    with pytest.raises(ValueError, match="importance 'taylor': expected a gradient function, got None"):
        remove_channels(tiny_network, example, 0.5, importance="taylor")
    with pytest.raises(ValueError, match=r"gradient: expected it to fill grad .* got none"):
        remove_channels(tiny_network, example, 0.5, importance="taylor", gradient=lambda network: None)
    with pytest.raises(ValueError, match=r"importance of channels: expected one of .*, got 'size'"):
        remove_channels(tiny_network, example, 0.5, importance="size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scope of channels: expected one of .*, got 'block'"):
        remove_channels(tiny_network, example, 0.5, scope="block")  # type: ignore[arg-type]


def test_score_that_is_no_number_fails_as_a_candidate(tiny_network: nn.Module, example: Tensor) -> None:
    tiny_network.get_parameter("stem.0.weight").data[0] = float("nan")
    with pytest.raises(CandidateFailure, match="sparsity: importance of channels by magnitude is not finite"):
        remove_channels(tiny_network, example, 0.5)


@st.composite
def ranked_groups(draw: st.DrawFn, *, parts: st.SearchStrategy[int]) -> list[RankedChannels]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    widths = draw(st.lists(st.tuples(st.integers(1, 40), parts), min_size=1, max_size=5))
    return [RankedChannels(torch.rand(width, generator=generator) + 0.1, count) for width, count in widths]


@given(ranked_groups(parts=st.just(1)), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=60)
def test_single_channels_go_in_the_order_of_their_normalized_scores(
    groups: list[RankedChannels], fraction: float
) -> None:
    """The twin sorts all channels, and passes over those of a layer that is down to its floor."""
    total = sum(len(group.scores) for group in groups)
    left = [len(group.scores) for group in groups]
    to_go = math.floor(fraction * total + 0.5 + 1e-9)
    normalized = [(group.scores.double() / group.scores.double().mean()).tolist() for group in groups]
    for _, number in sorted((score, number) for number, scores in enumerate(normalized) for score in scores):
        if to_go > 0 and left[number] - 1 >= max(1, math.ceil(KEPT_AT_LEAST * len(groups[number].scores) - 1e-9)):
            left[number] -= 1
            to_go -= 1
    assert keep_globally(groups, fraction, 1) == left


@given(ranked_groups(parts=st.sampled_from([1, 1, 2, 3])), st.floats(0.01, 0.99), st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None, max_examples=60)
def test_globally_that_fraction_goes_in_multiples_and_no_layer_vanishes(
    groups: list[RankedChannels], fraction: float, multiple: int
) -> None:
    kept = keep_globally(groups, fraction, multiple)
    next_steps = []
    for group, count in zip(groups, kept, strict=True):
        positions = len(group.scores)
        step = multiple // math.gcd(multiple, group.parts)
        if positions < step:
            step = 1
        floor = max(step, KEPT_AT_LEAST * positions - 1e-9)
        assert count == positions or (count % step == 0 and count >= floor)
        smaller = count - (count % step or step)
        if smaller >= floor:
            next_steps.append((count - smaller) * group.parts)
    wanted = fraction * sum(len(group.scores) * group.parts for group in groups)
    removed = sum((len(group.scores) - count) * group.parts for group, count in zip(groups, kept, strict=True))
    largest_step = max(group.parts * multiple for group in groups)
    assert removed <= wanted + largest_step / 2 + 1e-6
    # nearer than half of the smallest step that is left, or nothing is left above the floors
    assert not next_steps or removed + max(next_steps) / 2 >= wanted - 1e-6


def test_globally_the_network_loses_that_fraction_of_its_channels(tiny_network: nn.Module, example: Tensor) -> None:
    """Stem and both stages tie into two groups of 8 and 16 beside the inner layers of 8, 8, 16 and 16 channels."""
    first = remove_channels(tiny_network, example, 0.4, scope="global")
    second = remove_channels(tiny_network, example, 0.4, scope="global")
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    ways = ("stem.0", "stage1.0.conv1", "stage1.1.conv1", "stage2.0.conv1", "stage2.0.conv2", "stage2.1.conv1")
    widths = [len(first.get_parameter(f"{way}.weight")) for way in ways]
    assert sum(widths) == 72 - 29
    assert len({width / full for width, full in zip(widths, (8, 8, 8, 16, 16, 16), strict=True)}) > 1
