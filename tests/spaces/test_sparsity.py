"""Channels removed and weights zeroed, against networks whose dead parts are known and a brute-force ranking."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models

from karui.errors import CandidateFailure
from karui.spaces.axes.sparsity.channels import kept_channels, remove_channels
from karui.spaces.sparsity_names import ZeroPattern
from karui.spaces.training.zeroing import FINAL_PROGRESS, WeightZeroing, zero_fraction, zero_weights


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.7, 0.95])
def test_every_layer_loses_that_fraction(tiny_network: nn.Module, example: Tensor, fraction: float) -> None:
    narrower = remove_channels(tiny_network, example, fraction)
    for before, after in zip(convolutions(tiny_network), convolutions(narrower), strict=True):
        assert after.out_channels == max(1, round(before.out_channels * (1 - fraction)))
    assert narrower.eval()(example).shape == (2, 3)


def test_channels_that_do_nothing_are_the_ones_removed(tiny_network: nn.Module, example: Tensor) -> None:
    """The second half of every layer's channels is dead; without them the network computes the same."""
    tiny_network.eval()
    with torch.no_grad():
        for layer in tiny_network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight[layer.out_channels // 2 :] = 0.0
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                layer.weight[layer.num_features // 2 :] = 0.0
                layer.bias[layer.num_features // 2 :] = 0.0
        tiny_network.get_parameter("head.weight")[:, 8:] *= 1e-3
    narrower = remove_channels(tiny_network, example, 0.5)
    torch.testing.assert_close(narrower(example), tiny_network(example))
    assert not torch.allclose(remove_channels(tiny_network, example, 0.75)(example), tiny_network(example))


def test_weakest_channels_go_by_squared_weights() -> None:
    """Two linear layers: what counts for a hidden unit are its row before and its column after, each squared."""
    first, second = nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[3.0, 0.0], [0.1, 0.1], [0.0, 2.0], [0.2, 0.0]]))
        second.weight.copy_(torch.tensor([[0.1, 9.0, 0.1, 0.1]]))
    narrower = remove_channels(nn.Sequential(first, second), torch.ones(1, 2), 0.5)
    assert narrower.get_parameter("0.weight").tolist() == [[3.0, 0.0], [pytest.approx(0.1), pytest.approx(0.1)]]


class Sharing(nn.Module):
    """Two convolutions with one weight; in a row, or beside a sum that ties their inputs to their outputs."""

    def __init__(self, *, summed: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 3)
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.second.weight = self.first.weight
        self.summed = summed

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stem(inputs)
        for layer in (self.first, self.second):
            features = layer(features).relu() + (features if self.summed else 0.0)
        outputs: Tensor = self.head(features.mean((2, 3)))
        return outputs


def test_layers_that_share_a_weight_still_do(example: Tensor) -> None:
    """A sum ties all eight channels together, so that both layers keep the same four of them."""
    torch.manual_seed(0)
    network = Sharing(summed=True)
    network.first.weight.requires_grad_(False)
    narrower = remove_channels(network, example, 0.5)
    first, second = (narrower.get_parameter(f"{name}.weight") for name in ("first", "second"))
    assert first is second
    assert first.shape == (4, 4, 3, 3)
    assert not first.requires_grad
    assert network.second.weight is network.first.weight
    stem, narrow_stem = (module.get_parameter("stem.weight") for module in (network, narrower))
    kept = [int((stem - row).abs().flatten(1).sum(dim=1).argmin()) for row in narrow_stem]
    assert torch.equal(first, network.first.weight[kept][:, kept])


def test_a_shared_weight_stays_one_where_one_layer_reads_what_the_other_makes(example: Tensor) -> None:
    """The second half of the channels is strong; one layer makes what the other reads, by the same weight."""
    torch.manual_seed(0)
    network = Sharing(summed=False)
    with torch.no_grad():
        network.stem.weight[:4] *= 1e-3
        network.first.weight[:4] *= 1e-3
        network.first.weight[:, :4] *= 1e-3
        network.head.weight[:, :4] *= 1e-3
    network.first.weight.requires_grad_(False)
    narrower = remove_channels(network, example, 0.5)
    first, second = (narrower.get_parameter(f"{name}.weight") for name in ("first", "second"))
    assert first is second
    assert torch.equal(first, network.first.weight[4:, 4:])
    assert not first.requires_grad
    assert narrower(example).shape == (len(example), 3)


def test_fraction_zero_is_a_deep_copy(tiny_network: nn.Module, example: Tensor) -> None:
    twin = remove_channels(tiny_network, example, 0.0)
    assert twin.training
    assert not set(twin.parameters()) & set(tiny_network.parameters())
    assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in tiny_network.state_dict().items())


def test_argument_and_random_numbers_are_left_alone(tiny_network: nn.Module, example: Tensor) -> None:
    tiny_network.train().requires_grad_(False)
    before = copy.deepcopy(tiny_network.state_dict())
    random_state = torch.random.get_rng_state()
    with torch.no_grad():
        first = remove_channels(tiny_network, example, 0.5)
    second = remove_channels(tiny_network, example, 0.5)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_network.state_dict().items())
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize(
    "build", [models.mobilenet_v2, models.mobilenet_v3_small, models.resnet18, models.squeezenet1_1]
)
def test_published_networks_run_with_half_of_their_channels(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = build(weights=None, num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    narrower = remove_channels(network, images, 0.5)
    assert narrower(images).shape == (2, 4)
    for before, after in zip(convolutions(network), convolutions(narrower), strict=True):
        is_output = before.out_channels == 4
        assert after.out_channels == (4 if is_output else before.out_channels // 2)
        assert after.groups == (before.groups if before.groups == 1 else after.out_channels)


@pytest.mark.parametrize(("groups", "kept"), [(2, 4), (4, 4), (8, 8)])
def test_grouped_convolution_keeps_one_channel_in_each_group(groups: int, kept: int) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, groups=groups), nn.Flatten(), nn.Linear(16 * 16, 2)
    )
    narrower = remove_channels(network, torch.zeros(2, 1, 8, 8), 0.75)
    grouped = convolutions(narrower)[1]
    assert (grouped.groups, grouped.out_channels, grouped.in_channels) == (groups, kept, kept)


def test_all_layers_that_sum_to_the_output_keep_their_channels() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 8), nn.Linear(4, 6)
            self.left_head, self.right_head = nn.Linear(8, 5), nn.Linear(6, 5)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.left_head(self.left(inputs)) + self.right_head(self.right(inputs))
            return outputs

    narrower = remove_channels(TwoHeads(), torch.zeros(2, 4), 0.5)
    widths = [tuple(layer.weight.shape) for layer in narrower.children() if isinstance(layer, nn.Linear)]
    assert widths == [(4, 4), (3, 4), (5, 4), (5, 3)]


def test_batch_is_handed_over_as_one_argument() -> None:
    """torch-pruning tries network(*batch) first, which a network with a second, optional input would accept."""
    seen: set[tuple[int, ...]] = set()

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

        def forward(self, inputs: Tensor, gate: Tensor | None = None) -> Tensor:
            seen.add(tuple(inputs.shape))
            outputs: Tensor = self.head(self.conv(inputs if gate is None else inputs * gate).mean(dim=(-2, -1)))
            return outputs

    remove_channels(Gated(), torch.zeros(2, 1, 8, 8), 0.5)
    assert seen == {(2, 1, 8, 8)}


class FixedShape(nn.Module):
    """Counts on its eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8 * 36, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.conv(inputs).view(-1, 8 * 36))
        return outputs


def test_network_that_counts_on_all_of_its_channels_fails_as_a_candidate() -> None:
    with pytest.raises(CandidateFailure, match="sparsity: conv: the network does not run without some of its channels"):
        remove_channels(FixedShape(), torch.zeros(2, 1, 8, 8), 0.5)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_without_meaning_is_refused(tiny_network: nn.Module, example: Tensor, fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction of channels to remove: expected 0 <= fraction < 1"):
        remove_channels(tiny_network, example, fraction)
    with pytest.raises(ValueError, match="fraction of weights to zero: expected 0 <= fraction < 1"):
        zero_weights(tiny_network, fraction)


@given(st.floats(0.0, 0.9), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_that_fraction_of_all_weights_is_zero(fraction: float, seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(2, 12, 3), nn.Conv2d(12, 4, 1), nn.Linear(9, 40), nn.LSTM(3, 3))
    total = 2 * 12 * 9 + 12 * 4 + 9 * 40
    zero_weights(network, fraction)
    # the 48 weights of the tiny layer stay, and one in each of the 52 other rows
    expected = min(round(fraction * total), total - 48 - 52)
    assert zero_fraction(network) == pytest.approx(expected / total)
    first, tiny, last = (network.get_parameter(f"{number}.weight") for number in range(3))
    assert tiny.count_nonzero() == tiny.numel()
    for weight in (first, last):
        assert all(row.count_nonzero() > 0 for row in weight)


def lamp_by_hand(weight: Tensor) -> list[float]:
    """The score of each weight as the paper defines it: its square over those of all that are not smaller."""
    squares = weight.flatten().square().tolist()
    return [square / sum(other for other in squares if other >= square) for square in squares]


def test_zeroed_weights_are_those_of_the_lowest_scores() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(20, 6, bias=False), nn.Linear(6, 25, bias=False))
    weights = [network.get_parameter(f"{number}.weight") for number in range(2)]
    ranked: list[tuple[float, int, int]] = []
    for number, weight in enumerate(weights):
        largest = weight.abs().argmax(dim=1).tolist()
        kept = {row * weight.shape[1] + place for row, place in enumerate(largest)}
        scores = enumerate(lamp_by_hand(weight.detach()))
        ranked += [(score, number, place) for place, score in scores if place not in kept]
    expected = {(number, place) for _, number, place in sorted(ranked)[:135]}
    zero_weights(network, 0.5)
    zeroed = {
        (number, place)
        for number, weight in enumerate(weights)
        for place, value in enumerate(weight.flatten().tolist())
        if value == 0
    }
    assert zeroed == expected


def test_equal_weights_are_zeroed_to_the_exact_count() -> None:
    network = nn.Linear(50, 10)
    nn.init.constant_(network.weight, 0.5)
    zero_weights(network, 0.4)
    assert int((network.weight == 0).sum()) == 200


@given(st.floats(0.0, 0.95), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25)
def test_fraction_grows_cubically_and_stays(final: float, moments: list[float]) -> None:
    torch.manual_seed(0)
    network = nn.Linear(100, 20)
    zeroing = WeightZeroing(network, final)
    for progress in sorted(moments):
        zeroing.step(progress)
        assert zeroing.is_final == (progress >= FINAL_PROGRESS or final == 0.0) or final < 1e-9
        expected = final * (1 - (1 - min(1.0, progress / FINAL_PROGRESS)) ** 3)
        assert zero_fraction(network) == pytest.approx(expected, abs=0.5 / 2000 + 1e-9)


def test_apply_zeroes_what_an_optimizer_moved_and_nothing_else() -> None:
    torch.manual_seed(0)
    network = nn.Linear(30, 10)
    zeroing = WeightZeroing(network, 0.5)
    zeroing.step(1.0)
    zeros = network.weight == 0
    with torch.no_grad():
        network.weight += 1.0
    zeroing.apply()
    assert torch.equal(network.weight == 0, zeros)
    # positive zero: a negative one is another byte pattern, which packing would not take for a zero
    assert not bool(torch.signbit(network.weight[zeros]).any())


def test_choice_is_fixed_once_final() -> None:
    torch.manual_seed(0)
    network = nn.Linear(30, 10)
    zeroing = WeightZeroing(network, 0.5)
    zeroing.step(FINAL_PROGRESS)
    zeros = network.weight == 0
    with torch.no_grad():
        network.weight[~zeros] *= torch.rand(int((~zeros).sum())) + 0.01
    zeroing.step(0.9)
    assert torch.equal(network.weight == 0, zeros)


def test_network_without_weights_has_no_zeros() -> None:
    network = nn.ReLU()
    zero_weights(network, 0.5)
    assert zero_fraction(network) == 0.0


@pytest.mark.parametrize("other_width", [None, 12], ids=["one tensor", "one for each"])
@pytest.mark.parametrize("pattern", ["free", "2:4"])
def test_half_of_an_attention_network_is_zero(other_width: int | None, pattern: ZeroPattern) -> None:
    """Counted over every parameter but biases and embeddings, by their names alone."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 2, kdim=other_width, vdim=other_width)
    network = nn.ModuleList([attention, nn.Linear(16, 32), nn.Embedding(20, 16)])
    zero_weights(network, 0.5, pattern)
    counted = {name: each for name, each in network.named_parameters() if "bias" not in name and name != "2.weight"}
    assert len(counted) == (3 if other_width is None else 5)
    total, zeros = (
        sum(int(count(each)) for each in counted.values()) for count in (torch.numel, lambda x: (x == 0).sum())
    )
    assert zeros == total // 2
    assert zero_fraction(network) == zeros / total
    for each in counted.values():
        assert bool((each == 0).any())
        assert all(row.count_nonzero() > 0 for row in each)


def test_zeroed_attention_computes_with_its_zeros() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 2).eval()
    inputs = torch.randn(5, 3, 16)
    zero_weights(attention, 0.5)
    queries, keys, values = (inputs @ part.T for part in attention.get_parameter("in_proj_weight").chunk(3))
    heads = [part.reshape(5, 3, 2, 8).permute(1, 2, 0, 3) for part in (queries, keys, values)]
    mixed = (heads[0] @ heads[1].mT / 8**0.5).softmax(-1) @ heads[2]
    expected = mixed.permute(2, 0, 1, 3).flatten(2) @ attention.get_parameter("out_proj.weight").T
    torch.testing.assert_close(attention(inputs, inputs, inputs)[0], expected)


def test_weights_that_are_computed_from_others_are_left_and_do_not_count() -> None:
    torch.manual_seed(0)
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(20, 20))
    network = nn.Sequential(computed, nn.Linear(20, 20))
    before = computed.weight.detach().clone()
    zero_weights(network, 0.5)
    assert torch.equal(computed.weight, before)
    assert int((network.get_parameter("1.weight") == 0).sum()) == 200
    assert zero_fraction(network) == 0.5


def test_shared_weights_count_once() -> None:
    first, second, third = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20)
    second.weight = first.weight
    network = nn.Sequential(first, second, third)
    zero_weights(network, 0.5)
    assert zero_fraction(network) == 0.5
    assert int(first.weight.count_nonzero() + third.weight.count_nonzero()) == 400


@given(st.integers(1, 300), st.floats(0.0, 0.99), st.integers(1, 32))
def test_kept_channels_are_the_nearest_multiple(channels: int, fraction: float, multiple: int) -> None:
    kept = kept_channels(channels, fraction, multiple)
    assert 1 <= kept <= channels
    wanted = channels * (1.0 - fraction)
    if channels < multiple:
        assert abs(kept - wanted) <= 0.5 or kept == 1
        return
    allowed = [*range(multiple, channels + 1, multiple)]
    assert min(abs(count - wanted) for count in [*allowed, channels]) >= abs(kept - wanted) - multiple / 2
    assert kept in allowed or kept == channels
    if kept in allowed:
        assert abs(kept - wanted) <= min(abs(count - wanted) for count in allowed) + 1e-6


@pytest.mark.parametrize(
    ("channels", "fraction", "kept"),
    [(32, 0.25, 24), (32, 0.5, 16), (16, 0.25, 8), (64, 0.7, 16), (6, 0.5, 3), (8, 0.9, 8)],
)
def test_of_two_multiples_as_near_the_lower_is_kept(channels: int, fraction: float, kept: int) -> None:
    assert kept_channels(channels, fraction, 8) == kept


def test_a_network_is_left_with_multiples(tiny_network: nn.Module, example: Tensor) -> None:
    narrower = remove_channels(tiny_network, example, 0.4, multiple=4)
    inner = [layer.out_channels for layer in narrower.modules() if isinstance(layer, nn.Conv2d)]
    before = [layer.out_channels for layer in tiny_network.modules() if isinstance(layer, nn.Conv2d)]
    # 8 * 0.6 = 4.8 is nearest to 4, 16 * 0.6 = 9.6 to 8.
    assert inner == [{8: 4, 16: 8}[channels] for channels in before]


class NormWithActivation(nn.BatchNorm2d):
    """Holds its activation, as normalizations of timm do: a layer and a container."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.activation = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        outputs: Tensor = self.activation(super().forward(input))
        return outputs


def test_statistics_of_a_norm_that_holds_its_activation_stay() -> None:
    norm = NormWithActivation(8)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), norm, nn.Conv2d(8, 5, 1)).eval()
    statistics = torch.arange(8.0)
    assert norm.running_mean is not None
    norm.running_mean.copy_(statistics)
    narrower = remove_channels(network, torch.randn(4, 3, 6, 6) + 3, 0.5)
    kept = narrower.get_buffer("1.running_mean")
    assert len(kept) == 4
    assert torch.isin(kept, statistics).all()
    torch.testing.assert_close(norm.running_mean, statistics)
