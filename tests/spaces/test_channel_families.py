"""Channels removed from published families, against the same networks with those channels masked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vgg import VGG, make_layers
from torchvision.models.vision_transformer import VisionTransformer

from karui.errors import CandidateFailure
from karui.spaces.axes.sparsity.channel_coverage import channel_coverage
from karui.spaces.axes.sparsity.channels import remove_channels

from .masked_twin import largest_difference, masked_twin, with_weights_of_their_own

CLASSES = 4


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


def small_convnext() -> nn.Module:
    network: nn.Module = ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=CLASSES)
    return network


def small_swin(version: int) -> nn.Module:
    second = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if version == 2 else {}
    network: nn.Module = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=CLASSES,
        **second,
    )
    return network


def small_vit() -> nn.Module:
    network: nn.Module = VisionTransformer(
        image_size=32, patch_size=16, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=96, num_classes=CLASSES
    )
    return network


def small_vgg() -> nn.Module:
    widths: list[str | int] = [16, "M", 32, "M", 48, 48, "M", 64, 64, "M", 64, 64, "M"]
    network: nn.Module = VGG(make_layers(widths, batch_norm=True), num_classes=CLASSES)
    network.classifier = nn.Sequential(nn.Linear(64 * 7 * 7, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    return network


def small_resnext() -> nn.Module:
    network: nn.Module = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, groups=32, width_per_group=4)
    return network


SMALL: dict[str, Callable[[], nn.Module]] = {
    "maxvit": small_maxvit,
    "convnext": small_convnext,
    "swin": partial(small_swin, 1),
    "swin_v2": partial(small_swin, 2),
    "vit": small_vit,
    "vgg_bn": small_vgg,
    "resnext": small_resnext,
}
"""Families of few and narrow blocks: those of full size would take minutes, and prove no more."""

QUICK = ["resnet18", "mobilenet_v3_small", "maxvit"]
SLOW = ["mobilenet_v2", "mnasnet0_5", "squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf", "alexnet"]
SLOW += ["densenet121", "googlenet", "inception_v3", "efficientnet_b0", *sorted(SMALL.keys() - {*QUICK})]
SIDES = {"vgg_bn": 32, "vit": 32, "inception_v3": 299}
# what a layer normalization counts is spared, and what is summed with it: of its layers, so many are left
COUNTED = {"convnext": 4, "swin": 4, "swin_v2": 4, "vit": 3}
SPARING = {*COUNTED, "maxvit", "shufflenet_v2_x0_5"}
OUTPUTS = {"googlenet": 3, "inception_v3": 2}


def published(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in SMALL:
        return SMALL[name]()
    settings: dict[str, object] = {"weights": None, "num_classes": CLASSES}
    if name in OUTPUTS:
        settings["init_weights"] = False
    network: nn.Module = models.get_model(name, **settings)
    if name == "alexnet":
        network.classifier = nn.Sequential(nn.Linear(256 * 6 * 6, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    return network


def weight_layers(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_family_computes_what_it_does_with_those_channels_masked(name: str) -> None:
    network, side = with_weights_of_their_own(published(name)), SIDES.get(name, 64)
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    coverage = channel_coverage(network, images)
    layers = len(weight_layers(network))
    assert coverage.total == layers
    if name not in SPARING:
        assert (coverage.reached, len(coverage.reasons)) == (layers - OUTPUTS.get(name, 1), OUTPUTS.get(name, 1))
    else:
        assert coverage.reached >= COUNTED.get(name, 1)
    notes: list[str] = []
    narrower = remove_channels(network, images, 0.3, note=notes.append)
    assert any("spared" in note for note in notes) == (name in SPARING)
    before, after = (sum(p.numel() for p in module.parameters()) for module in (network, narrower))
    # 0.7 of the inputs and of the outputs of most layers
    assert 0.45 * before < after < (0.97 if name in SPARING else 0.56) * before
    with torch.no_grad():
        outputs = narrower.eval()(images)
        assert largest_difference(outputs, masked_twin(network, narrower)(images)) < 1e-9
        assert largest_difference(outputs, network(images)) > 1e-6
    outputs = narrower.train()(images)
    for output in outputs if isinstance(outputs, tuple) else [outputs]:
        assert output.shape == (2, CLASSES)
        output.sum().backward(retain_graph=True)
    assert all(parameter.grad is not None for parameter in narrower.parameters())


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
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

    coverage = channel_coverage(Mixed(), torch.zeros(2, 4))
    assert str(coverage) == "1 of 5 layers"
    assert set(coverage.reasons) == {
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
    coverage = channel_coverage(PartlyFixed(), images)
    assert str(coverage) == "2 of 5 layers"
    assert [reason.split(":")[0] for reason in coverage.reasons] == ["depthwise", "counted", "head"]
    assert coverage.reasons[1].startswith(
        "counted: the network does not run without some of its channels: RuntimeError: "
    )
    narrower = remove_channels(PartlyFixed(), images, 0.5)
    shapes = [tuple(layer.weight.shape) for layer in weight_layers(narrower) if isinstance(layer.weight, Tensor)]
    assert shapes == [(4, 1, 3, 3), (5, 4, 3, 3), (6, 5, 1, 1), (4, 6), (3, 4)]
    assert narrower(images).shape == (2, 3)


class ReadTwice(nn.Module):
    """A layer whose weights are read a second time, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner = nn.Linear(5, 6), nn.Linear(6, 8)
        self.twice, self.head = nn.Linear(8, 12), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.twice(self.inner(self.before(inputs)).relu()).relu()
        outputs: Tensor = self.head(nn.functional.linear(hidden, self.twice.weight.t()))
        return outputs


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_weights_that_are_read_twice_lose_the_same_channels_both_times(fraction: float) -> None:
    """What ``twice`` reads it makes again, transposed: the head reads the channels of ``inner``."""
    network = with_weights_of_their_own(ReadTwice())
    inputs = torch.randn(2, 5, dtype=torch.float64)
    assert str(channel_coverage(network, inputs)) == "3 of 4 layers"
    narrower = remove_channels(network, inputs, fraction)
    kept = [len(layer.get_parameter("weight")) for layer in weight_layers(narrower)]
    assert all(
        abs(count - all_of_it * (1 - fraction)) <= 0.5 for count, all_of_it in zip(kept, (6, 8, 12), strict=False)
    )
    torch.testing.assert_close(narrower(inputs), masked_twin(network, narrower)(inputs))


def test_a_network_that_can_lose_nothing_fails_as_a_candidate() -> None:
    with pytest.raises(CandidateFailure, match=r"no layer has channels that can be removed \(0: makes the output\)"):
        remove_channels(nn.Sequential(nn.Linear(4, 3)), torch.zeros(2, 4), 0.5)


def test_a_multiple_that_is_too_coarse_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    left = remove_channels(network, torch.zeros(2, 4), 0.25, multiple=8)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(left.state_dict()[name], value, rtol=0, atol=0)
