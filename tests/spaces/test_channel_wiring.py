"""Whatever moves, mirrors, pads, pairs or counts channels between layers, against the original with those masked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from karui.errors import CandidateFailure
from karui.spaces.axes.sparsity.channel_coverage import channel_coverage
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.axes.sparsity.heads import HEADS
from karui.spaces.axes.students.choice import Student
from karui.spaces.candidate import Candidate

from .masked_twin import largest_difference, masked_twin, with_weights_of_their_own

WIDTH = 16
Between = Callable[[Tensor, Tensor], Tensor]


class Wired(nn.Module):
    """Two convolutions, and what lies between them: a function of what the first makes and of the input."""

    def __init__(self, between: Between, reads: int) -> None:
        super().__init__()
        self.between = between
        self.first, self.second = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(reads, 8, 1)
        self.last = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.second(self.between(self.first(inputs).relu(), inputs)).relu()
        outputs: Tensor = self.last(features.mean((2, 3)))
        return outputs


def shuffled(features: Tensor) -> Tensor:
    rows, channels, height, width = features.shape
    return features.view(rows, 4, channels // 4, height, width).transpose(1, 2).reshape(features.shape)


def gated(features: Tensor) -> Tensor:
    first, second = features.chunk(2, 1)
    return first * second.sigmoid()


def in_parts(features: Tensor, *sizes: int) -> Tensor:
    return features.reshape(len(features), *sizes, *features.shape[2:])


def paired(features: Tensor) -> Tensor:
    return in_parts(features, -1, 2).amax(2)


def halved(features: Tensor) -> Tensor:
    return in_parts(features, 2, -1).amax(1)


def swapped(features: Tensor) -> Tensor:
    half = features.shape[1] // 2
    return torch.cat([features[:, half:], features[:, :half]], 1)


# what lies between, the channels that the second layer reads, and how many of the first's 16 stay where half may go
NARROWED: dict[str, tuple[Between, int, int]] = {
    "nothing": (lambda y, _: y, 16, 8),
    "input first": (lambda y, x: torch.cat([x, y], 1), 19, 8),
    "input between": (lambda y, x: torch.cat([y, x, 2 * y], 1), 35, 8),
    "constant first": (lambda y, _: torch.cat([y.new_ones(len(y), 1, 8, 8), y], 1), 17, 8),
    "twice": (lambda y, _: torch.cat([y, y], 1), 32, 8),
    "flip": (lambda y, _: y.flip(1), 16, 8),
    "pad": (lambda y, _: functional.pad(y, (0, 0, 0, 0, 2, 3)), 21, 8),
    "pad by ones": (lambda y, _: functional.pad(y, (1, 1, 0, 0, 1, 0), value=1.0), 17, 8),
    "shuffle": (lambda y, _: shuffled(y), 16, 8),
    "channel_shuffle": (lambda y, _: functional.channel_shuffle(y, 4), 16, 8),
    "stack and flatten": (lambda y, _: torch.stack([y, 2 * y], 2).flatten(1, 2), 32, 8),
    "repeat": (lambda y, _: y.repeat(1, 2, 1, 1), 32, 8),
    "gate": (lambda y, _: gated(y), 8, 8),
    "glu": (lambda y, _: functional.glu(y, 1), 8, 8),
    "maximum of pairs": (lambda y, _: paired(y), 8, 8),
    "maximum of halves": (lambda y, _: halved(y), 8, 8),
    "sum of groups": (lambda y, _: in_parts(y, 4, -1).sum(1), 4, 8),
    "swapped halves": (lambda y, _: swapped(y), 16, 8),
    "every other": (lambda y, _: torch.cat([y[:, ::2], y[:, 1::2]], 1), 16, 8),
    "pixel_shuffle": (lambda y, _: functional.pixel_shuffle(y, 2), 4, 8),
    "pixel_unshuffle": (lambda y, _: functional.pixel_unshuffle(y, 2), 64, 8),
    "unfold": (lambda y, _: functional.unfold(y, 2).reshape(len(y), -1, 7, 7), 64, 8),
    "squeeze and excite": (lambda y, _: y * y.mean((2, 3), keepdim=True).sigmoid(), 16, 8),
    "product with itself": (lambda y, _: torch.einsum("nchw,nchw->nchw", y, y), 16, 8),
    "norm over channels": (lambda y, _: functional.normalize(y, dim=1), 16, 8),
    "sum beside": (lambda y, _: y + y.sum(1, keepdim=True), 16, 8),
    "transposed twice": (lambda y, _: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), 16, 8),
    "resized": (lambda y, _: functional.interpolate(functional.max_pool2d(y, 2), scale_factor=2.0), 16, 8),
    "in place": (lambda y, _: y.mul_(2.0).clamp_(max=3.0), 16, 8),
}
SPARED: dict[str, tuple[Between, int]] = {
    "mean over channels": (lambda y, _: y - y.mean(1, keepdim=True), 16),
    "softmax over channels": (lambda y, _: y.softmax(1), 16),
    "maximum over channels": (lambda y, _: y * y.amax(1, keepdim=True), 16),
    "running sum": (lambda y, _: y.cumsum(1), 16),
    "sorted": (lambda y, _: y.sort(1).values, 16),
    "roll": (lambda y, _: y.roll(1, 1), 16),
    "taken by number": (lambda y, _: y[:, [3, 1, 2, 0, *range(4, 16)]], 16),
    "a fixed view": (lambda y, _: y.view(-1, 16, 8, 8), 16),
    "constant per channel": (lambda y, _: y * torch.arange(1.0, 17.0, dtype=y.dtype).view(1, -1, 1, 1), 16),
    "response norm": (lambda y, _: functional.local_response_norm(y, 3), 16),
    "layer norm": (lambda y, _: functional.layer_norm(y, y.shape[1:]), 16),
    "written into": (lambda y, _: _written(y), 16),
}


def _written(features: Tensor) -> Tensor:
    target = torch.zeros(len(features), 16, 8, 8, dtype=features.dtype)
    target[:, :16] = features
    return target


def checked(
    network: nn.Module, inputs: Tensor, fraction: float = 0.5, multiple: int = 1
) -> tuple[nn.Module, list[str]]:
    """Return the smaller network, equal to the masked twin and to nothing else, and what was noted."""
    network = with_weights_of_their_own(network)
    notes: list[str] = []
    smaller = remove_channels(network, inputs, fraction, multiple=multiple, note=notes.append).eval()
    with torch.no_grad():
        assert largest_difference(smaller(inputs), masked_twin(network, smaller)(inputs)) < 1e-9
    return smaller, notes


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NARROWED)
def test_channels_go_rightly_through(name: str, images: Tensor) -> None:
    between, reads, kept = NARROWED[name]
    smaller, notes = checked(Wired(between, reads), images)
    assert smaller.get_parameter("first.weight").shape[0] == kept
    assert not notes


@pytest.mark.parametrize("name", SPARED)
def test_channels_that_something_counts_are_spared_with_a_word(name: str, images: Tensor) -> None:
    smaller, notes = checked(Wired(*SPARED[name]), images)
    assert smaller.get_parameter("first.weight").shape[0] == WIDTH
    assert smaller.get_parameter("second.weight").shape[0] == 4
    (note,) = notes
    assert note.startswith("channels of first were spared: ")


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_of_every_kind(kind: type[nn.Module], transposed: bool) -> None:
    axes = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[kind]  # type: ignore[index]
    made = getattr(nn, f"ConvTranspose{axes}d") if transposed else kind
    layers = [
        kind(2, 8, 3, padding=1), made(8, 8, 2, groups=8), nn.PReLU(8), made(8, 12, 1, groups=2),
        getattr(nn, f"InstanceNorm{axes}d")(12, affine=True), made(12, 8, 1), nn.Flatten(2),
    ]  # fmt: skip
    built = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(16, 3))
    inputs = torch.randn(2, 2, *[6] * axes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = with_weights_of_their_own(built)
    smaller = remove_channels(network, inputs, 0.5).eval()
    assert [len(smaller.get_parameter(f"{number}.bias")) for number in (0, 1, 3, 5)] == [4, 4, 6, 4]
    twin = with_zero_weights(network, smaller)
    torch.testing.assert_close(smaller(inputs), twin(inputs))


def with_zero_weights(network: nn.Module, smaller: nn.Module) -> nn.Module:
    """Return the network with every parameter zero that the smaller one lacks, seen from its values."""
    twin = with_weights_of_their_own(network)
    left = torch.cat([parameter.detach().flatten() for parameter in smaller.parameters()])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter[~torch.isin(parameter, left)] = 0.0
    return twin


def test_groups_of_a_normalization_go_whole(images: Tensor) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.GroupNorm(1, 8), nn.Flatten(),
        nn.Linear(128, 3),
    )  # fmt: skip
    smaller, notes = checked(network, images)
    norm = smaller.get_submodule("1")
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.num_channels) == (2, 8)
    assert len(smaller.get_parameter("3.weight")) == 8
    assert notes == ["channels of 3 were spared: a normalization counts all channels"]


class Attention(nn.Module):
    """Four heads of four, written out; how the heads are told apart in the code varies."""

    def __init__(self, split: str, scale: float = 0.5) -> None:
        super().__init__()
        self.embed, self.joint = nn.Linear(5, 8), nn.Linear(8, 48)
        self.out, self.last = nn.Linear(16, 8), nn.Linear(8, 3)
        self.split, self.scale, self.num_heads, self.head_dim = split, scale, 4, 4

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs)
        rows, length = inputs.shape[:2]
        shape = {
            "by size": (3, -1, 4), "by attributes": (3, self.num_heads, self.head_dim), "by number": (3, 4, -1),
        }[self.split]  # fmt: skip
        queries, keys, values = self.joint(tokens).view(rows, length, *shape).permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.transpose(-2, -1) * self.scale).softmax(-1)
        mixed = (weights @ values).transpose(1, 2).reshape(rows, length, -1)
        outputs: Tensor = self.last((tokens + self.out(mixed)).mean(1))
        return outputs


@pytest.mark.parametrize("split", ["by size", "by attributes"])
@pytest.mark.parametrize("fraction", [0.2, 0.25, 0.4, 0.5, 0.7])
def test_heads_go_whole_or_not_at_all(split: str, fraction: float) -> None:
    """Rows of a head of the wide layer that are left, are left all, in queries, keys and values alike."""
    network = with_weights_of_their_own(Attention(split))
    inputs = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smaller = remove_channels(network, inputs, fraction).eval()
    left = torch.isin(network.get_parameter("joint.bias"), smaller.get_parameter("joint.bias")).view(3, 4, 4)
    assert bool((left == left[:1, :, :1]).all())
    assert int(left[0, :, 0].sum()) == {0.2: 3, 0.25: 3, 0.4: 2, 0.5: 2, 0.7: 1}[fraction]
    torch.testing.assert_close(smaller(inputs), masked_twin(network, smaller)(inputs))


def test_heads_whose_number_the_code_fixes_keep_all_of_their_channels() -> None:
    """Equal places of every head would give the masked twin's answers as well, but no head would be whole."""
    smaller, notes = checked(Attention("by number"), torch.randn(2, 6, 5, dtype=torch.float64))
    assert len(smaller.get_parameter("joint.weight")) == 48
    assert len(smaller.get_parameter("out.weight")) == 4
    assert notes == [f"channels of joint were spared: {HEADS}"]


class SharedKeys(nn.Module):
    """Eight heads of queries on four of keys and values; a learnt bias for each head is the mask of the product."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = 8, 4, 2
        self.queries, self.keys, self.values = nn.Linear(5, 16), nn.Linear(5, 8), nn.Linear(5, 8)
        self.bias, self.out = nn.Parameter(torch.randn(8, 6, 6)), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        rows, length, _ = inputs.shape
        queries = self.queries(inputs).view(rows, length, self.n_heads, self.head_dim).transpose(1, 2)
        keys, values = (
            layer(inputs).view(rows, length, self.n_kv_heads, self.head_dim).transpose(1, 2)
            .repeat_interleave(self.n_heads // self.n_kv_heads, 1)
            for layer in (self.keys, self.values)
        )  # fmt: skip
        mixed = functional.scaled_dot_product_attention(queries, keys, values, self.bias)
        outputs: Tensor = self.out(mixed.transpose(1, 2).flatten(2).mean(1))
        return outputs


def test_heads_of_queries_go_with_the_keys_that_they_share() -> None:
    network = with_weights_of_their_own(SharedKeys())
    inputs = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smaller = remove_channels(network, inputs, 0.5).eval()
    assert isinstance(smaller, SharedKeys)
    assert (smaller.n_heads, smaller.n_kv_heads, smaller.head_dim) == (4, 2, 2)
    assert smaller.bias.shape == (4, 6, 6)
    kept = torch.isin(network.get_parameter("keys.bias"), smaller.get_parameter("keys.bias"))
    queries = torch.isin(network.get_parameter("queries.bias"), smaller.get_parameter("queries.bias"))
    assert torch.equal(queries.view(4, 2, 2), kept.view(4, 1, 2).expand(4, 2, 2))
    torch.testing.assert_close(smaller(inputs), masked_twin(network, smaller)(inputs))


def test_numbers_among_attributes_follow_the_widths() -> None:
    class Split(nn.Module):
        """Half of the channels by a number, and a convolution by function whose groups are one."""

        def __init__(self) -> None:
            super().__init__()
            self.width = self.groups = 8
            self.first, self.last = nn.Sequential(nn.Conv2d(3, 16, 1)), nn.Linear(8, 3)
            self.kernel = nn.Parameter(torch.randn(8, 1, 3, 3))

        def forward(self, inputs: Tensor) -> Tensor:
            gates, values = self.first(inputs).split((self.width, self.width), 1)
            features = functional.conv2d(gates.sigmoid() * values, self.kernel, groups=self.groups)
            outputs: Tensor = self.last(features.mean((2, 3)))
            return outputs

    smaller, notes = checked(Split(), torch.randn(2, 3, 6, 6, dtype=torch.float64))
    assert isinstance(smaller, Split)
    assert (smaller.width, smaller.groups, len(smaller.get_parameter("first.0.weight"))) == (4, 4, 8)
    assert not notes


def test_how_many_channels_of_a_layer_stay_is_told() -> None:
    between, reads = (lambda y, _: torch.cat([y[:, :8].cumsum(1), y[:, 8:]], 1)), 16
    smaller, notes = checked(Wired(between, reads), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert len(smaller.get_parameter("first.weight")) == 12
    assert notes == ["8 of 16 channels of first were spared: they are taken by their numbers"]


class ByLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(5, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.last = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs)
        outputs: Tensor = self.last(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))
        return outputs


def test_heads_of_an_attention_layer_go_whole() -> None:
    network = with_weights_of_their_own(ByLayer())
    inputs = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smaller = remove_channels(network, inputs, 0.5).eval()
    attention = smaller.get_submodule("attention")
    assert isinstance(attention, nn.MultiheadAttention)
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (2, 4, 8)
    torch.testing.assert_close(smaller(inputs), with_zero_weights(network, smaller)(inputs))


def test_a_scale_by_the_width_of_what_goes_is_not_changed() -> None:
    """Queries are divided by the root of their width: with fewer of it, the attention would be another one."""

    class OneHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(5, 16) for _ in range(3))
            self.last = nn.Linear(16, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            parts = (layer(inputs) for layer in (self.query, self.key, self.value))
            outputs: Tensor = self.last(functional.scaled_dot_product_attention(*parts).mean(1))
            return outputs

    inputs = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smaller, notes = checked(OneHead(), inputs)
    assert [len(smaller.get_parameter(f"{name}.weight")) for name in ("query", "key", "value")] == [16, 16, 8]
    assert notes == [
        "channels of query, key were spared: the network computes something else without some of its channels"
    ]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_read_fewer_channels(layer: type[nn.RNNBase]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.steps, self.last = nn.Linear(5, 8), layer(8, 6, batch_first=True), nn.Linear(6, 3)  # type: ignore[call-arg,arg-type]

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.last(self.steps(self.embed(inputs).relu())[0][:, -1])
            return outputs

    network = with_weights_of_their_own(Recurrent())
    inputs = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smaller = remove_channels(network, inputs, 0.5).eval()
    assert tuple(smaller.get_parameter("steps.weight_ih_l0").shape)[1] == 4
    torch.testing.assert_close(smaller(inputs), with_zero_weights(network, smaller)(inputs))


def test_weight_norm_is_folded_before_channels_go() -> None:
    norm = nn.utils.parametrizations.weight_norm
    network = nn.Sequential(norm(nn.Linear(4, 8)), nn.ReLU(), norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))
    inputs = torch.randn(3, 4)
    assert str(channel_coverage(network, inputs)) == "2 of 3 layers"
    smaller = remove_channels(network, inputs, 0.5)
    assert [tuple(smaller.get_parameter(f"{number}.weight").shape) for number in (0, 2, 4)] == [(4, 4), (3, 4), (2, 3)]


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_the_fraction_of_all_channels_is_kept_to_where_layers_lie_between_two_multiples(multiple: int) -> None:
    """A quarter of 16 channels, by 8: 8 or 16 stay, which are as near; of many layers every second keeps all."""
    layers: list[nn.Module] = [nn.Linear(4, 16)]
    for _ in range(7):
        layers += [nn.ReLU(), nn.Linear(16, 16)]
    notes: list[str] = []
    network = nn.Sequential(*layers, nn.Linear(16, 2))
    smaller = remove_channels(network, torch.randn(2, 4), 0.25, multiple=multiple, note=notes.append)
    widths = [layer.out_features for layer in smaller.modules() if isinstance(layer, nn.Linear)][:-1]
    assert sum(widths) == 8 * 12
    assert not notes


def test_of_layers_between_two_multiples_those_lose_more_to_which_it_matters_least() -> None:
    """Of two layers of 16, one has eight rows of next to nothing: by 8, a quarter of both are these."""
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    for weak, (kept_first, kept_second) in (("0", (8, 16)), ("2", (16, 8))):
        drawn = with_weights_of_their_own(network)
        with torch.no_grad():
            drawn.get_parameter(f"{weak}.weight")[::2] *= 1e-3
            drawn.get_parameter(f"{int(weak) + 2}.weight")[:, ::2] *= 1e-3
        smaller = remove_channels(drawn, torch.randn(2, 4, dtype=torch.float64), 0.25, multiple=8)
        assert len(smaller.get_parameter("0.weight")) == kept_first
        assert len(smaller.get_parameter("2.weight")) == kept_second


def test_what_share_went_is_told_where_it_is_another() -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    notes: list[str] = []
    remove_channels(network, torch.randn(2, 4), 0.25, multiple=8, note=notes.append)
    assert notes == ["50% of the channels that can go were removed, of 25% asked for: no nearer number fits"]
    assert (
        Candidate(removed_channels=0.25).describe_made(notes)
        == "baseline, -50% channels, float32 (asked: -25% channels)"
    )
    student = Candidate(Student("shallower", 0.75))
    assert student.describe_made(notes) == "shallower x0.5, float32 (asked: shallower x0.75)"


def test_a_network_of_which_nothing_can_go_is_refused_with_the_reason() -> None:
    network = Wired(lambda y, _: y, 16)
    network.second = nn.Conv2d(16, 16, 1, groups=16)
    network.between = lambda y, _: y.softmax(1)
    network.last = nn.Linear(16, 5)
    with pytest.raises(CandidateFailure, match="the operator softmax counts all channels"):
        remove_channels(network, torch.randn(2, 3, 8, 8), 0.5)
