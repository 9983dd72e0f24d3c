"""Training in bfloat16: what computes in it and what does not, and that it learns as well."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.spaces.axes.stages.axis import StagesAxis
from karui.spaces.axes.stages.shared_stages import StageNetworks
from karui.spaces.axes.supernet.supernet_training import train_supernet
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.network_factory import training_settings
from karui.spaces.candidate import Candidate
from karui.spaces.task import Task
from karui.spaces.training.precision import Precision, outputs_in
from karui.spaces.training.recovery import TrainingSettings, metric_of, train

from .test_qat import aware

QUICK = TrainingSettings(epochs=3, batch_size=32, learning_rate=5e-3, device="cpu")
HALF = replace(QUICK, precision="bfloat16")


def seen_in(network: nn.Module, kind: type[nn.Module]) -> list[tuple[bool, torch.dtype]]:
    """Return a list that fills with whether the network trained, and the type, when such a layer gave its output."""
    seen: list[tuple[bool, torch.dtype]] = []
    for layer in network.modules():
        if isinstance(layer, kind):
            layer.register_forward_hook(lambda module, _inputs, output: seen.append((module.training, output.dtype)))
    return seen


def test_products_of_bfloat16_numbers_are_those_of_the_rounded_numbers() -> None:
    network, inputs = nn.Linear(3, 2, bias=False), torch.rand(5, 3)
    outputs = outputs_in("bfloat16", network, inputs)
    assert outputs.dtype == torch.float32
    exact = inputs.bfloat16().double() @ network.weight.bfloat16().double().T
    torch.testing.assert_close(outputs.double(), exact, rtol=2**-8, atol=0.0)  # one rounding: 8 bits of significand
    assert torch.equal(outputs_in("float32", network, inputs), network(inputs))


def test_it_learns_as_well_and_keeps_float32_weights(tiny_network: nn.Module, tiny_task: Task) -> None:
    plain = copy.deepcopy(tiny_network)
    train(plain, tiny_task, QUICK)
    seen = seen_in(tiny_network, nn.Conv2d)
    report = train(tiny_network, tiny_task, HALF, teacher=plain)
    assert report.best_metric is not None
    assert report.best_metric > 0.9
    assert metric_of(tiny_network, tiny_task, tiny_task.validation) == report.best_metric
    assert {dtype for training, dtype in seen if not training} == {torch.float32}, "validated as the file will compute"
    # the statistics of batch normalization are estimated in training mode, but not with gradients
    assert torch.bfloat16 in {dtype for training, dtype in seen if training}
    assert {tensor.dtype for tensor in tiny_network.state_dict().values() if tensor.is_floating_point()} == {
        torch.float32
    }


def test_it_is_deterministic_and_not_the_same_as_float32(tiny_network: nn.Module, tiny_task: Task) -> None:
    networks = [copy.deepcopy(tiny_network) for _ in range(3)]
    for network, settings in zip(networks, (HALF, HALF, QUICK), strict=True):
        train(network, tiny_task, settings)
    first, again, plain = (torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)


@pytest.mark.parametrize("hint_weight", [0.0, 1.0])
def test_a_regression_learns_from_a_teacher(hint_weight: float) -> None:
    torch.manual_seed(0)
    inputs = torch.rand(64, 1, 6, 6)
    targets = inputs.mean(dim=(1, 2, 3))[:, None]

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        assert outputs.dtype == torch.float32, "losses are computed in float32"
        return nn.functional.mse_loss(outputs, wanted)

    split = TensorDataset(inputs, targets)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 1))
    task = Task(
        model=model, train=split, validation=split, test=split, loss=loss,
        metric=lambda outputs, wanted: -float((outputs - wanted).square().mean()),
    )  # fmt: skip
    start = metric_of(model, task, split)
    report = train(model, task, replace(HALF, epochs=8, hint_weight=hint_weight), teacher=copy.deepcopy(model))
    assert report.best_metric is not None
    assert report.best_metric > start / 2


def test_training_with_rounded_weights_stays_in_float32(tiny_network: nn.Module, tiny_task: Task) -> None:
    plain, other = (aware(tiny_network, tiny_task, settings) for settings in (QUICK, HALF))
    assert plain.report.best_metric == other.report.best_metric
    assert all(torch.equal(grid, other.network.state_dict()[name]) for name, grid in plain.network.state_dict().items())


def test_a_supernet_trains_in_it(tiny_task: Task) -> None:
    networks = StageNetworks(StagesAxis(stages=2, channels=(4,), kernels=(3,), expansions=(1, 3)), (1, 8, 8), 3)
    found = [train_supernet(networks, tiny_task, replace(settings, epochs=1)) for settings in (QUICK, HALF)]
    plain, half = (torch.cat([p.detach().flatten() for p in supernet.parameters()]) for supernet in found)
    assert not torch.equal(plain, half)
    assert plain.dtype == half.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_settings_of_a_study_reach_its_trainings(precision: Precision) -> None:
    assert training_settings(BuildSettings(precision=precision), epochs=1, seed=0).precision == precision


def test_networks_of_another_precision_are_kept_beside_the_others(tiny_task: Task, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16", "float32"):
        settings = BuildSettings(epochs=1, epochs_from_scratch=1, channel_multiple=1, precision=precision)
        Builder(tiny_task, settings, tmp_path).build(Candidate(removed_channels=0.5))
    assert len(list((tmp_path / "cache" / "entries").iterdir())) == 2


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision: expected float32 or bfloat16, got 'float16'"):
        TrainingSettings(epochs=1, precision="float16")  # type: ignore[arg-type]
