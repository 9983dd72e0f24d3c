"""Channels removed from published families, and how many of their layers that reaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.maxvit import MaxVit, RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from karui.errors import CandidateFailure
from karui.spaces.sparsity.channel_graph import ENDLESS
from karui.spaces.sparsity.channel_reach import Reach, channel_reach
from karui.spaces.sparsity.channels import remove_channels
from karui.spaces.students.shared_channels import shared_channels

CLASSES = 4
QUICK = [
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "regnet_y_400mf",
    "maxvit",
]
SLOW = ["resnext50_32x4d", "vgg11_bn", "alexnet", "densenet121", "googlenet", "convnext_tiny", "swin_t", "swin_v2_t"]
SLOW += ["vit_b_16", "inception_v3", "efficientnet_b0"]
SIDES = {"vgg11_bn": 32, "vit_b_16": 32, "inception_v3": 299}
# ShuffleNet V2: in each of the 16 blocks the 1x1 before the depthwise convolution, and it; and the last convolution
REACHED = {"shufflenet_v2_x0_5": 2 * 16 + 1}
OUTPUTS = {"googlenet": 3, "inception_v3": 2}


def published(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "maxvit":  # one block of it
        return small_maxvit()
    settings: dict[str, object] = {"weights": None, "num_classes": CLASSES}
    if name in OUTPUTS:
        settings["init_weights"] = False
    if name == "vit_b_16":
        settings["image_size"] = SIDES[name]
    network: nn.Module = models.get_model(name, **settings)
    return network


def small_maxvit() -> nn.Module:
    network: nn.Module = MaxVit(
        input_size=(64, 64),
        stem_channels=10,
        partition_size=4,
        block_channels=[20],
        block_layers=[1],
        head_dim=10,
        stochastic_depth_prob=0.0,
        num_classes=CLASSES,
    )
    return network


def weight_layers(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_family_runs_and_trains_with_fewer_channels(name: str) -> None:
    network, side = published(name), SIDES.get(name, 64)
    images = torch.randn(2, 3, side, side)
    reach = channel_reach(network, images)
    layers = len(weight_layers(network))
    # the biases of swin_v2's attentions are made by two small layers each, one attention in each of the 12 blocks
    inner = 2 * sum(isinstance(block, SwinTransformerBlockV2) for block in network.modules())
    expected = REACHED.get(name, layers - OUTPUTS.get(name, 1) - inner)
    assert (reach.reached, reach.total, len(reach.reasons)) == (expected, layers, layers - expected)
    narrower = remove_channels(network, images, 0.3)
    before, after = (sum(p.numel() for p in module.parameters()) for module in (network, narrower))
    # 0.7 of the inputs and of the outputs of most layers; ShuffleNet V2 keeps the outputs of its blocks
    assert 0.45 * before < after < (0.75 if name in REACHED else 0.56) * before
    assert narrower.eval()(images).shape == (2, CLASSES)
    outputs = narrower.train()(images)
    for output in outputs if isinstance(outputs, tuple) else [outputs]:
        assert output.shape == (2, CLASSES)
        output.sum().backward(retain_graph=True)
    assert all(parameter.grad is not None for parameter in narrower.parameters())


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_family_without_its_dead_channels_computes_the_same(name: str, scope: str) -> None:
    network = published(name).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)) and len(layer.weight) != CLASSES:
                layer.weight[1::2] = 0.0
                if layer.bias is not None:
                    layer.bias[1::2] = 0.0
                if not isinstance(layer, nn.BatchNorm2d):
                    # and what would read a dead channel does not, lest that column count for it
                    layer.weight[:, 1::2] = 0.0 if layer.weight.shape[1] > 3 else layer.weight[:, 1::2]
        head = weight_layers(network)[-1]
        assert isinstance(head, nn.Linear)
        head.weight[:, 1::2] = 0.0
    images = torch.randn(2, 3, 64, 64)
    narrower = remove_channels(network, images, 0.5, scope="global" if scope == "global" else "layer")
    assert sum(p.numel() for p in narrower.parameters()) < 0.7 * sum(p.numel() for p in network.parameters())
    torch.testing.assert_close(narrower(images), network(images))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs)
        outputs: Tensor = self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1))
        return outputs


def test_attention_without_the_dead_dimensions_of_its_heads_computes_the_same() -> None:
    """Dimensions 4 to 7 of both heads of 8 are dead: half the width, and queries still divided by the root of 8."""
    torch.manual_seed(0)
    network = Attending().eval()
    dead = [*range(4, 8), *range(12, 16)]
    with torch.no_grad():
        for parameter in (network.embed.weight, network.embed.bias, network.attention.out_proj.weight):
            parameter[dead] = 0.0
        for part in range(3):
            network.attention.in_proj_weight[[place + 16 * part for place in dead]] = 0.0
        network.attention.in_proj_weight.mul_(5.0)
        nn.init.normal_(network.attention.in_proj_bias[:4])
        network.head.weight[:, dead] = 0.0
    inputs = torch.randn(4, 6, 5)
    narrower = remove_channels(network, inputs, 0.5)
    assert narrower.get_parameter("attention.in_proj_weight").shape == (24, 8)
    torch.testing.assert_close(narrower(inputs), network(inputs))
    assert channel_reach(network, inputs) == Reach(2, 3, ("head: makes the output",))


class AttendingInWindows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.attention = RelativePositionalMultiHeadAttention(16, head_dim=8, max_seq_len=4)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.attention(self.embed(inputs)).mean(dim=(1, 2)))
        return outputs


def test_attention_in_windows_without_the_dead_dimensions_of_its_heads_computes_the_same() -> None:
    """As for the attention over all, with a bias by relative position and a scale that is kept as a number."""
    torch.manual_seed(0)
    network = AttendingInWindows().eval()
    dead = [*range(4, 8), *range(12, 16)]
    attention = network.attention
    with torch.no_grad():
        for parameter in (network.embed.weight, network.embed.bias, attention.merge.weight, attention.merge.bias):
            parameter[dead] = 0.0
        for part in range(3):
            attention.to_qkv.weight[[place + 16 * part for place in dead]] = 0.0
            attention.to_qkv.bias[[place + 16 * part for place in dead]] = 0.0
        attention.to_qkv.weight.mul_(5.0)
        attention.relative_position_bias_table.normal_()
        network.head.weight[:, dead] = 0.0
    inputs = torch.randn(2, 3, 4, 5)
    narrower = remove_channels(network, inputs, 0.5)
    assert narrower.get_parameter("attention.to_qkv.weight").shape == (24, 8)
    torch.testing.assert_close(narrower(inputs), network(inputs))


class Folding(nn.Module):
    """An attention in windows, written out, whose axes the graph takes for channels in a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.joint, self.head = nn.Linear(8, 24), nn.Linear(8, 3)
        self.bias = nn.Parameter(torch.zeros(4, 4, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        parts = self.joint(inputs).chunk(3, dim=-1)
        queries, keys, values = (part.reshape(len(inputs), -1, 4, 2, 4).permute(0, 1, 3, 2, 4) for part in parts)
        weights = torch.einsum("nwhid,nwhjd->nwhij", queries, keys) + self.bias.permute(2, 0, 1).contiguous()
        attended = torch.einsum("nwhij,nwhjd->nwhid", weights.softmax(dim=-1), values)
        outputs: Tensor = self.head(attended.permute(0, 1, 3, 2, 4).reshape(inputs.shape).mean(dim=(1, 2)))
        return outputs


class BesideFolding(nn.Module):
    """Two layers before it, of which it counts on the channels of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.folding = nn.Linear(5, 12), nn.Linear(12, 8), Folding()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.folding(self.second(self.first(inputs).relu()))
        return outputs


@pytest.mark.timeout(60)
def test_layers_whose_ties_find_no_end_are_left_and_named() -> None:
    with pytest.raises(CandidateFailure, match=f"no layer has channels that can be removed .joint: {ENDLESS}"):
        remove_channels(Folding(), torch.randn(2, 3, 4, 8), 0.5)
    inputs = torch.randn(2, 3, 4, 5)
    reach = channel_reach(BesideFolding(), inputs)
    assert str(reach) == "1 of 4 layers"
    assert [reason.split(":")[0] for reason in reach.reasons] == ["second", "folding.joint", "folding.head"]
    assert reach.reasons[1:] == (f"folding.joint: {ENDLESS}", "folding.head: makes the output")
    narrower = remove_channels(BesideFolding(), inputs, 0.5)
    assert [len(layer.get_parameter("weight")) for layer in weight_layers(narrower)] == [6, 8, 24, 3]
    assert narrower(inputs).shape == (2, 3)
    assert shared_channels(narrower, inputs) == []


@pytest.mark.parametrize("merging", [PatchMerging, PatchMergingV2])
def test_window_attention_and_merging_lose_the_places_of_the_same_channels(merging: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = SwinTransformer(
        [2, 2],
        embed_dim=12,
        depths=[1, 1],
        num_heads=[3, 6],
        window_size=[2, 2],
        num_classes=3,
        downsample_layer=merging,
    )
    narrower = remove_channels(network, torch.randn(2, 3, 16, 16), 0.5)
    stem, narrow_stem = (module.get_parameter("features.0.0.weight").flatten(1) for module in (network, narrower))
    kept = [int((stem - row).abs().sum(dim=1).argmin()) for row in narrow_stem]
    # three heads of four dimensions keep the same two
    assert len(kept) == 6
    assert kept[2:4] == [place + 4 for place in kept[:2]]
    assert kept[4:] == [place + 8 for place in kept[:2]]
    columns = [place + 12 * part for part in range(4) for place in kept]
    merged, narrow_merged = (module.get_submodule("features.2") for module in (network, narrower))
    wide = merged.get_parameter("reduction.weight")[:, columns]
    rows = [int((wide - row).abs().sum(dim=1).argmin()) for row in narrow_merged.get_parameter("reduction.weight")]
    assert torch.equal(narrow_merged.get_parameter("reduction.weight"), wide[rows])
    assert len(narrow_merged.get_parameter("norm.weight")) == (12 if merging is PatchMergingV2 else 24)
    qkv, narrow_qkv = (module.get_parameter("features.1.0.attn.qkv.weight") for module in (network, narrower))
    for part, scale in enumerate((0.5**0.5, 1.0, 1.0)):
        expected = qkv[[place + 12 * part for place in kept]][:, kept] * scale
        torch.testing.assert_close(narrow_qkv[6 * part : 6 * part + 6], expected)
    projection, narrow = (module.get_parameter("features.1.0.attn.proj.weight") for module in (network, narrower))
    assert torch.equal(narrow, projection[kept][:, kept])


def test_reach_names_what_it_does_not_reach() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.single, self.last = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(1, 5)
            self.side, self.unused = nn.Linear(4, 5), nn.Linear(2, 2)
            self.tied = nn.PReLU(5)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.last(self.single(self.first(inputs))) + self.tied(self.side(inputs))
            return outputs

    reach = channel_reach(Mixed(), torch.zeros(2, 4))
    assert str(reach) == "1 of 5 layers"
    assert set(reach.reasons) == {
        "single: one channel, or one in each group",
        "last: makes the output",
        "side: makes the output",
        "unused: not run on the example",
    }


class PartlyFixed(nn.Module):
    """Counts on the channels of its second convolution only; its first is depthwise, so tied to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.first, self.counted = nn.Conv2d(4, 10, 3), nn.Conv2d(10, 6, 1)
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.counted(self.first(self.depthwise(inputs)))
        outputs: Tensor = self.head(self.hidden(features.view(-1, 6, 16).mean(dim=2)))
        return outputs


def test_layers_that_the_network_counts_on_are_spared() -> None:
    images = torch.randn(2, 4, 8, 8)
    reach = channel_reach(PartlyFixed(), images)
    assert str(reach) == "2 of 5 layers"
    assert [reason.split(":")[0] for reason in reach.reasons] == ["depthwise", "counted", "head"]
    assert reach.reasons[1].startswith("counted: the network does not run without some of its channels: RuntimeError: ")
    narrower = remove_channels(PartlyFixed(), images, 0.5)
    shapes = [tuple(layer.weight.shape) for layer in weight_layers(narrower) if isinstance(layer.weight, Tensor)]
    assert shapes == [(4, 1, 3, 3), (5, 4, 3, 3), (6, 5, 1, 1), (4, 6), (3, 4)]
    assert narrower(images).shape == (2, 3)


class ReadTwice(nn.Module):
    """A layer whose weights are read a second time, transposed, which the graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner = nn.Linear(5, 6), nn.Linear(6, 8)
        self.twice, self.head = nn.Linear(8, 12), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.twice(self.inner(self.before(inputs)).relu()).relu()
        outputs: Tensor = self.head(nn.functional.linear(hidden, self.twice.weight.t()))
        return outputs


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_layers_that_can_lose_their_first_channel_but_not_their_last_are_spared(fraction: float) -> None:
    """The head has a channel for the first of ``twice``, but none for its last; narrowed alone, ``inner`` fits none."""
    inputs = torch.randn(2, 5)
    reach = channel_reach(ReadTwice(), inputs)
    assert str(reach) == "1 of 4 layers"
    assert [reason.split(":")[0] for reason in reach.reasons] == ["inner", "twice", "head"]
    narrower = remove_channels(ReadTwice(), inputs, fraction)
    kept = {0.25: 4, 0.5: 3, 0.75: 2}[fraction]
    assert [len(layer.get_parameter("weight")) for layer in weight_layers(narrower)] == [kept, 8, 12, 3]
    assert narrower(inputs).shape == (2, 3)


def test_a_network_that_can_lose_nothing_fails_as_a_candidate() -> None:
    with pytest.raises(CandidateFailure, match=r"no layer has channels that can be removed \(0: makes the output\)"):
        remove_channels(nn.Sequential(nn.Linear(4, 3)), torch.zeros(2, 4), 0.5)


def test_a_multiple_that_is_too_coarse_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    left = remove_channels(network, torch.zeros(2, 4), 0.25, multiple=8)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(left.state_dict()[name], value, rtol=0, atol=0)
