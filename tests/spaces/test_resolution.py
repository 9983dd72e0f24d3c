"""Students that compute on fewer pixels: the weights stay, strides grow."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from karui.errors import CandidateFailure
from karui.spaces.axes.students.resolution import coarsen
from karui.spaces.axes.students.shallower import shallower

IMAGES = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def plain(stride: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    stem = nn.Conv2d(1, 4, 3, stride=stride, padding=1)
    return nn.Sequential(stem, nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


class TwoStems(nn.Module):
    """Two convolutions that read the input, and one that reads a function of it."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs / 2
        outputs: Tensor = self.last(torch.cat([self.narrow(inputs), self.wide(inputs)], dim=1)).mean((2, 3))
        return outputs


@pytest.mark.parametrize(("resolution", "stride"), [(1.0, 1), (0.5, 2), (0.25, 4)])
def test_the_network_is_the_one_made_with_a_wider_stride(resolution: float, stride: int) -> None:
    network = plain()
    coarsen(network, IMAGES, resolution)
    assert torch.equal(network(IMAGES), plain(stride)(IMAGES))


def test_at_half_the_resolution_every_inner_image_has_half_the_sides() -> None:
    network, sides = models.resnet18(weights=None, num_classes=3).eval(), []
    images = torch.zeros(1, 3, 128, 128)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    network(images)
    whole = sides.copy()
    coarse = copy.deepcopy(network)
    coarsen(coarse, images, 0.5)
    sides.clear()
    coarse(images)
    assert sides == [side // 2 for side in whole]


def test_all_that_read_the_input_are_changed_and_nothing_else() -> None:
    network = TwoStems().eval()
    coarsen(network, IMAGES, 0.5)
    assert [layer.stride for layer in (network.narrow, network.wide, network.last)] == [(2, 2), (2, 2), (1, 1)]


def test_a_student_keeps_the_baselines_weights_and_leaves_the_baseline_alone() -> None:
    baseline = plain()
    before = baseline(IMAGES)
    student = shallower(baseline, IMAGES, width=1.0, depth=1.0, resolution=0.5)
    assert torch.equal(baseline(IMAGES), before)
    for name, tensor in baseline.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor)
    assert torch.equal(student(IMAGES), plain(2)(IMAGES))


def test_what_cannot_compute_on_fewer_pixels_is_the_candidates_failure() -> None:
    flat = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(512, 3))
    with pytest.raises(CandidateFailure, match=r"does not run at resolution 0\.5: RuntimeError"):
        shallower(flat, IMAGES, width=1.0, depth=1.0, resolution=0.5)
    whole = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten())
    with pytest.raises(CandidateFailure, match=r"shape changed from \(2, 512\) to \(2, 128\) at resolution 0\.5"):
        shallower(whole, IMAGES, width=1.0, depth=1.0, resolution=0.5)
    with pytest.raises(CandidateFailure, match="no convolution reads the input"):
        coarsen(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), IMAGES, 0.5)


def test_a_resolution_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resolution: expected one of 1\.0, 0\.5, 0\.25, got 0\.3"):
        coarsen(plain(), IMAGES, 0.3)
