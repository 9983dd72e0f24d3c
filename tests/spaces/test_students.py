"""Students: blocks dropped from the end of each stage, and torchvision families fitted to small images."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import StochasticDepth

from karui.errors import CandidateFailure
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.axes.students.families import BUILDERS, build_family
from karui.spaces.axes.students.names import FAMILIES
from karui.spaces.axes.students.shallower import droppable_blocks, shallower
from karui.spaces.formats.onnx.export import export_onnx


class Residual(nn.Module):
    """One convolution around which the input is added where shapes allow it."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, stride, 1)
        self.adds = channels == out_channels and stride == 1

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.relu(self.conv(inputs))
        return inputs + outputs if self.adds else outputs


def stage(channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    rest = (Residual(out_channels, out_channels) for _ in range(blocks - 1))
    return nn.Sequential(Residual(channels, out_channels, stride=1 + (channels != out_channels)), *rest)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


@pytest.fixture
def staged() -> nn.Sequential:
    """Stages of 4, 3 and 1 blocks, the second of which starts with a change of shape."""
    torch.manual_seed(0)
    stages = nn.Sequential(stage(4, 4, 4), stage(4, 8, 3), stage(8, 8, 1))
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), stages, *head(8)).eval()


@pytest.mark.parametrize(
    ("depth", "first", "second"),
    [(1.0, 4, 3), (0.75, 3, 2), (0.5, 2, 2), (0.34, 1, 1), (0.01, 1, 1)],
)
def test_depth_keeps_that_share_of_each_stage(
    staged: nn.Sequential, example: Tensor, depth: float, first: int, second: int
) -> None:
    student = shallower(staged, example, width=1.0, depth=depth)
    kept = [len(list(part.children())) for part in student.get_submodule("1").children()]
    assert kept == [first, second, 1]
    assert student(example).shape == (2, 3)


def test_what_is_dropped_are_the_last_blocks_and_the_rest_is_the_baseline(
    staged: nn.Sequential, example: Tensor
) -> None:
    """The twin is put together by hand from the baseline's own layers."""
    student = shallower(staged, example, width=1.0, depth=0.5)
    first, second, third = (list(part.children()) for part in staged.get_submodule("1").children())
    stem, _, *rest = staged.children()
    twin = nn.Sequential(stem, *first[:2], *second[:2], *third, *rest)
    torch.testing.assert_close(student(example), twin(example), rtol=0, atol=0)


def test_droppable_blocks_are_those_that_the_smallest_depth_drops(staged: nn.Sequential, example: Tensor) -> None:
    assert droppable_blocks(staged, example) == 3 + 2
    # of stages of four and of three blocks, 0.5 keeps two of each
    assert droppable_blocks(staged, example, 0.5) == 2 + 1
    assert parameters(staged) - parameters(shallower(staged, example, width=1.0, depth=0.01)) == (
        3 * (9 * 4 * 4 + 4) + 2 * (9 * 8 * 8 + 8)
    )


def test_one_sequence_of_all_blocks_is_cut_where_the_shape_changes(example: Tensor) -> None:
    blocks = nn.Sequential(*stage(1, 1, 3), *stage(1, 2, 1), *stage(2, 2, 2), *stage(2, 4, 2))
    network = nn.Sequential(blocks, *head(4))
    # same-shape blocks join the stage of the change before them: 3, 3 and 2 blocks
    assert droppable_blocks(network, example) == 2 + 2 + 1
    student = shallower(network, example, width=1.0, depth=0.5)
    shapes = [layer.weight.shape[:2] for layer in student.modules() if isinstance(layer, nn.Conv2d)]
    assert [tuple(shape) for shape in shapes] == [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2)]


class StageModule(nn.Module):
    """A stage that is a module of its own class, as in many user's networks."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(models.resnet.BasicBlock(channels, channels) for _ in range(blocks)))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.blocks(inputs)
        return outputs


def test_stages_of_a_class_of_their_own_are_not_taken_for_blocks(example: Tensor) -> None:
    stages = nn.Sequential(StageModule(4, 3), StageModule(4, 2))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), stages, *head(4))
    assert droppable_blocks(network, example) == 2 + 1


@pytest.mark.parametrize(
    ("build", "droppable"),
    [
        # stages of 2, 2, 2, 2 and of 3, 4, 6, 3 blocks (He et al. 2016, table 1)
        (models.resnet18, 4),
        (models.resnet50, 12),
        # inverted residuals repeated 1, 2, 3, 4, 3, 3, 1 times (Sandler et al. 2018, table 2): stages of 64 and 96
        # channels have one resolution but two shapes
        (models.mobilenet_v2, 10),
        (models.vgg11, 0),
    ],
)
def test_published_networks_have_their_repeated_blocks(build: Callable[..., nn.Module], droppable: int) -> None:
    network = build(weights=None, num_classes=3)
    images = torch.zeros(1, 3, 32, 32)
    assert droppable_blocks(network, images) == droppable
    assert shallower(network, images, width=1.0, depth=0.3)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_depth_has_no_effect_where_nothing_repeats(example: Tensor) -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), *head(8)).eval()
    assert droppable_blocks(plain, example) == 0
    student = shallower(plain, example, width=1.0, depth=0.1)
    torch.testing.assert_close(student(example), plain(example), rtol=0, atol=0)


def test_width_removes_channels_as_remove_channels_does(tiny_network: nn.Module, example: Tensor) -> None:
    tiny_network.eval()
    student = shallower(tiny_network, example, width=0.5, depth=1.0)
    torch.testing.assert_close(student(example), remove_channels(tiny_network, example, 0.5)(example), rtol=0, atol=0)


def test_baseline_is_left_alone(tiny_network: nn.Module, example: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_network.state_dict().items()}
    tiny_network.train()
    droppable_blocks(tiny_network, example)
    shallower(tiny_network, example, width=0.5, depth=0.5)
    assert all(module.training for module in tiny_network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_network.state_dict().items())


class TakesByNumber(nn.Module):
    """Breaks when a block is dropped, because it takes each by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = stage(1, 1, 3)
        self.head = nn.Sequential(*head(1))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.blocks[2](self.blocks[1](self.blocks[0](inputs))))
        return outputs


def test_network_that_needs_its_blocks_fails_as_a_candidate(example: Tensor) -> None:
    with pytest.raises(CandidateFailure, match="architecture: the network does not run without the dropped blocks"):
        shallower(TakesByNumber(), example, width=1.0, depth=0.3)


@pytest.mark.parametrize(("width", "depth"), [(0.0, 1.0), (1.5, 1.0), (1.0, 0.0), (1.0, -1.0), (float("nan"), 1.0)])
def test_share_without_meaning_is_refused(tiny_network: nn.Module, example: Tensor, width: float, depth: float) -> None:
    with pytest.raises(ValueError, match="of a shallower student: expected 0 <"):
        shallower(tiny_network, example, width=width, depth=depth)


def test_names_are_those_of_the_registry() -> None:
    assert set(FAMILIES) == set(BUILDERS)


def test_names_are_read_without_torch() -> None:
    program = "import sys, karui.spaces.axes.students.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("input_shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64), (4, 5, 9), (2, 1, 1)])
def test_family_takes_small_images_and_trains(name: str, input_shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_family(name, width=0.25, input_shape=input_shape, outputs=7)
    outputs = network.train()(torch.randn(2, *input_shape))
    assert outputs.shape == (2, 7)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_family_learns_a_few_images_by_heart(name: str) -> None:
    """From logits near zero, whose loss is that of a guess: log 3."""
    torch.manual_seed(0)
    network = build_family(name, width=0.25, input_shape=(1, 8, 8), outputs=3).train()
    for layer in network.modules():
        if isinstance(layer, (nn.Dropout, StochasticDepth)):
            layer.p = 0.0
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    images, targets = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(3), abs=0.6)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_exported_with_parity(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 1, 8, 8)
    network = build_family(name, width=0.25, input_shape=(1, 8, 8), outputs=3).eval()
    export_onnx(network, images, tmp_path / "family.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "family.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs), network(images).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_at_full_width_is_torchvisions(name: str) -> None:
    published = {
        "shufflenet_v2": models.shufflenet_v2_x1_0,
        "mnasnet": models.mnasnet1_0,
        "squeezenet": models.squeezenet1_1,
    }.get(name) or getattr(models, name)
    network = build_family(name, width=1.0, input_shape=(3, 64, 64), outputs=10)
    expected = published(weights=None, num_classes=10)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in expected.state_dict().items()}


def test_widths_of_efficientnet_are_those_of_the_larger_ones() -> None:
    """EfficientNet-B2 is 1.1 times as wide as B0 (Tan & Le, ICML 2019); B0 has the first of its blocks."""
    wider = build_family("efficientnet_b0", width=1.1, input_shape=(3, 64, 64), outputs=10).state_dict()
    larger = models.efficientnet_b2(weights=None, num_classes=10).state_dict()
    assert all(tensor.shape == larger[key].shape for key, tensor in wider.items())


@pytest.mark.parametrize(("width", "channels"), [(1.0, [64, 16, 64, 64]), (0.5, [32, 8, 32, 32])])
def test_widths_of_squeezenet_are_fractions_of_the_published_ones(width: float, channels: list[int]) -> None:
    network = build_family("squeezenet", width=width, input_shape=(3, 64, 64), outputs=10)
    layers = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert layers[:4] == channels
    assert layers[-1] == 10


@pytest.mark.parametrize("name", FAMILIES)
def test_family_follows_torchs_seed_and_narrows_with_width(name: str) -> None:
    states = []
    for width in (0.25, 0.25, 0.5):
        torch.manual_seed(3)
        states.append(build_family(name, width=width, input_shape=(1, 8, 8), outputs=4).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    sizes = [sum(tensor.numel() for tensor in state.values()) for state in states]
    assert sizes[0] < 0.6 * sizes[2]


@pytest.mark.parametrize(("side", "first"), [(28, 28), (63, 63), (64, 32)])
def test_stem_keeps_the_resolution_of_small_images_only(side: int, first: int) -> None:
    network = build_family("resnet18", width=0.1, input_shape=(1, side, side), outputs=2).eval()
    sides: list[int] = []
    network.get_submodule("conv1").register_forward_hook(lambda *call: sides.append(call[2].shape[-1]))
    network.get_submodule("layer1").register_forward_hook(lambda *call: sides.append(call[2].shape[-1]))
    network(torch.zeros(1, 1, side, side))
    assert sides == [first, first if side < 64 else first // 2]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_stride_shrinks_an_image_to_one_pixel(name: str) -> None:
    network = build_family(name, width=0.25, input_shape=(1, 8, 8), outputs=2).eval()
    sides: list[int] = []
    for layer in network.modules():
        if isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)):
            layer.register_forward_hook(lambda *call: sides.append(call[2].shape[-1]))
    network(torch.zeros(1, 1, 8, 8))
    assert min(sides) == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_normalization_follows_the_weights_within_a_short_training(name: str) -> None:
    network = build_family(name, width=0.25, input_shape=(1, 8, 8), outputs=2)
    assert all(layer.momentum == 0.1 for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))


def test_unknown_family_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match="unknown family 'alexnet': expected one of mobilenet_v2, mobilenet_v3_small"):
        build_family("alexnet", width=1.0, input_shape=(1, 8, 8), outputs=2)


@pytest.mark.parametrize(("name", "width"), [("mobilenet_v2", 0.0), ("resnet18", 1.5)])
def test_width_without_meaning_is_refused(name: str, width: float) -> None:
    with pytest.raises(ValueError, match=f"width of {name}: expected"):
        build_family(name, width=width, input_shape=(1, 8, 8), outputs=2)


@pytest.mark.parametrize("input_shape", [(64,), (1, 0, 8)])
def test_family_for_something_else_than_images_is_refused(input_shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=rf"inputs of shape \(channels, height, width\), not {re.escape(str(input_shape))}"
    ):
        build_family("mobilenet_v2", width=1.0, input_shape=input_shape, outputs=2)
