"""Quantization-aware training: what is trained is what the file holds, and it is never worse than plain rounding."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.errors import CandidateFailure, OutputError
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import open_session
from karui.spaces.formats.onnx.quantization.aware_start import aware_start, bits_of_modules, learned_grids
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.learned import ActivationGrid, LearnedGrids
from karui.spaces.rounding.rounded_weights import RoundedWeight
from karui.spaces.rounding.settings import ActivationRanges, QuantizationSettings
from karui.spaces.task import Task
from karui.spaces.training.qat.folding import fold_batch_norm
from karui.spaces.training.qat.grids import InputGrid, WeightGrid
from karui.spaces.training.qat.qat_training import AwareResult, train_aware
from karui.spaces.training.recovery import TrainingSettings, metric_of, train
from karui.spaces.training.zeroing import zero_weights

QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-2, device="cpu")
FLOAT_TOLERANCE = 1e-4


def trained_on(
    network: nn.Module,
    task: Task,
    training: TrainingSettings,
    *,
    teacher: nn.Module,
    bits: dict[str, int],
    activation_bits: int,
    calibration: Tensor,
    quantization: QuantizationSettings | None = None,
) -> AwareResult:
    how = quantization or QuantizationSettings()
    return train_aware(
        network,
        task,
        training,
        teacher=teacher,
        start=lambda folded: aware_start(folded, bits, activation_bits, calibration, how),
        calibration=calibration,
    )


def aware(
    network: nn.Module,
    task: Task,
    training: TrainingSettings = QUICK,
    *,
    weight_bits: int = 2,
    activation_bits: int = 32,
    teacher: nn.Module | None = None,
    quantization: QuantizationSettings | None = None,
) -> AwareResult:
    calibration = task.calibration_batch(64)
    bits = bits_of_modules(
        network, BitChoice(weight_bits, activation_bits), calibration, quantization or QuantizationSettings(), None
    )
    return trained_on(
        network,
        task,
        training,
        teacher=teacher or network,
        bits=bits,
        activation_bits=activation_bits,
        calibration=calibration,
        quantization=quantization,
    )


def quantized_file(
    network: nn.Module,
    task: Task,
    choice: BitChoice,
    path: Path,
    result: AwareResult | None,
    quantization: QuantizationSettings | None = None,
) -> Path:
    """Export and quantize as a study does, the grids kept in a file between."""
    calibration = task.calibration_batch(64)
    source, grids, destination = path / "float.onnx", path / "grids.npz", path / "rounded.onnx"
    export_onnx(network, calibration[:8], source)
    (LearnedGrids() if result is None else learned_grids(result, source)).save(grids)
    quantize(
        source, destination, choice, calibration=calibration.numpy(), settings=quantization,
        learned=LearnedGrids.load(grids),
    )  # fmt: skip
    return destination


def grids_of_activations(path: Path) -> set[tuple[float, int]]:
    """Return scale and zero point of every activation that the file rounds."""
    model = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        (float(tensors[node.input[1]]), int(tensors[node.input[2]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and tensors[node.input[1]].ndim == 0
    }


def outputs_of(path: Path, inputs: Tensor) -> np.ndarray:
    session = open_session(onnx.load(path))
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])


def relative_difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


def inputs_of(task: Task) -> Tensor:
    inputs: Tensor = task.test.tensors[0]  # type: ignore[attr-defined]
    return inputs


def task_for(network: nn.Module, inputs: Tensor) -> Task:
    """Three classes that a linear function of the inputs tells apart."""
    generator = torch.Generator().manual_seed(3)
    scores = inputs.flatten(1) @ torch.randn(inputs[0].numel(), 3, generator=generator)
    split = TensorDataset(inputs, scores.argmax(dim=1))
    return Task(model=network, train=split, validation=split, test=split)


@pytest.fixture
def trained(tiny_network: nn.Module, tiny_task: Task) -> nn.Module:
    train(tiny_network, tiny_task, replace(QUICK, epochs=3, learning_rate=5e-3))
    return tiny_network


# folding


def test_folding_leaves_no_normalization_and_the_outputs(trained: nn.Module, example: Tensor) -> None:
    before = copy.deepcopy(trained.state_dict())
    folded = fold_batch_norm(trained, example)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(example), trained(example), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())


def lively(norm: nn.Module) -> nn.Module:
    """Normalization that does something."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    for tensor, start in ((norm.running_mean, 0.3), (norm.running_var, 2.0), (norm.weight, 1.5), (norm.bias, -0.2)):
        assert tensor is not None
        nn.init.constant_(tensor, start)
    return norm


class ReadTwice(nn.Module):
    """The first convolution is read behind its normalization and before it; the second only behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.first_norm, self.second_norm = lively(nn.BatchNorm2d(4)), lively(nn.BatchNorm2d(4))

    def forward(self, inputs: Tensor) -> Tensor:
        made = self.first(inputs)
        outputs: Tensor = self.second_norm(self.second(self.first_norm(made) + made)).mean(dim=(2, 3))
        return outputs


class TwoNorms(nn.Module):
    """One convolution, run twice, with a normalization for each run."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(1, 1, 3, padding=1)
        self.norms = nn.ModuleList([lively(nn.BatchNorm2d(1)), lively(nn.BatchNorm2d(1))])

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.norms[1](self.shared(self.norms[0](self.shared(inputs)))).flatten(1)
        return outputs


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (ReadTwice(), 1),
        (TwoNorms(), 2),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), lively(nn.BatchNorm2d(4)), nn.Flatten()), 1),
        (nn.Sequential(lively(nn.BatchNorm2d(1)), nn.Conv2d(1, 4, 3), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(1, 4, 3), lively(nn.BatchNorm2d(4)), nn.Flatten()), 0),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False), lively(nn.BatchNorm1d(4))), 0),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten()), 0),
    ],
)
def test_only_what_can_be_folded_is(network: nn.Module, left: int, example: Tensor) -> None:
    network.eval()
    folded = fold_batch_norm(network, example)
    assert sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in folded.modules()) == left
    with torch.no_grad():
        torch.testing.assert_close(folded(example), network(example), rtol=1e-4, atol=1e-5)


# grids


@given(st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6), st.floats(0.05, 0.5), st.integers(2, 8))
@settings(deadline=None, max_examples=50)
def test_weights_are_rounded_and_differentiated_as_the_paper_says(
    values: list[float], scale: float, bits: int
) -> None:  # fmt: skip
    """Against the formulas of LSQ, a weight at a time, for two outputs with a step each."""
    lowest, highest = (-127, 127) if bits == 8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    weight = torch.tensor(values).reshape(2, 3).requires_grad_()
    steps = torch.tensor([[scale], [2 * scale]])
    grid = WeightGrid(weight.detach(), steps, bits)
    upstream = torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])
    rounded = grid(weight)
    (rounded * upstream).sum().backward()
    assert weight.grad is not None
    assert grid.log_change.grad is not None
    for row in range(2):
        slope = 0.0
        step = float(steps[row])
        for column in range(3):
            scaled = float(weight[row, column].detach() / steps[row, 0])
            near = min(max(round(scaled), lowest), highest)
            passes = lowest <= scaled <= highest and weight[row, column] != 0
            assert float(rounded[row, column].detach()) == pytest.approx(near * step, rel=1e-6)
            assert float(weight.grad[row, column]) == (float(upstream[row, column]) if passes else 0.0)
            slope += float(upstream[row, column]) * (near - scaled if lowest <= scaled <= highest else near)
        expected = slope * step / math.sqrt(3 * highest)  # the chain rule through exp at 0 multiplies by the step
        assert float(grid.log_change.grad[row]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@given(st.floats(-3, 1), st.floats(0, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_inputs_are_rounded_as_onnx_says(lowest: float, highest: float, seed: int) -> None:
    grid = InputGrid(lowest, highest)
    inputs = 3 * torch.randn(50, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        rounded = grid(inputs)
    scale = float(grid.steps.detach())
    assert 0 <= grid.zero_point <= 255
    expected = torch.fake_quantize_per_tensor_affine(inputs, scale, grid.zero_point, 0, 255)
    # the library multiplies by 1 / scale, which may round a tie the other way
    assert float((rounded - expected).abs().max()) <= scale * 1.001
    assert float(((rounded - expected).abs() > scale / 2).float().mean()) <= 0.05
    assert grid(torch.zeros(1)).item() == 0.0


@given(st.floats(-1, 0), st.floats(0.5, 6), st.floats(-2, 2))
@settings(deadline=None, max_examples=40)
def test_grids_never_reach_beyond_their_limits(lowest: float, highest: float, change: float) -> None:
    free, held = InputGrid(lowest, highest), InputGrid(lowest, highest, (-1.0, 6.0))
    for grid in (free, held):
        with torch.no_grad():
            grid.log_change.fill_(change)
    start, step = held.start.item(), free.grid.scale
    allowed = min(6.0 / (255 - held.zero_point), 1.0 / held.zero_point if held.zero_point else math.inf)
    assert held.grid.scale == pytest.approx(min(step, max(allowed, start)), rel=1e-6)
    assert held(torch.linspace(-9, 9, 50)).max().item() <= max(6.0, 255 * start) * 1.000001
    held(torch.zeros(1)).sum().backward()
    assert held.log_change.item() <= max(math.log(max(allowed, start) / start), 0.0) + 1e-6, "brought back"


# training


def test_training_wins_back_what_rounding_lost(trained: nn.Module, tiny_task: Task) -> None:
    """Measured on the loss of data that it has not seen, at two bits throughout but for the ends."""
    task = replace(tiny_task, metric=lambda outputs, targets: -float(nn.functional.cross_entropy(outputs, targets)))
    start = aware(trained, task, replace(QUICK, epochs=0)).network
    result = aware(trained, task)
    assert result.report.best_metric == metric_of(result.network, task, task.validation)
    lost, left = (-metric_of(network, task, task.test) for network in (start, result.network))
    full = -metric_of(trained, task, task.test)
    assert full < lost
    assert left - full < 0.5 * (lost - full)


def test_epoch_zero_is_what_rounding_after_training_gives(
    trained: nn.Module, tiny_task: Task, tmp_path: Path
) -> None:  # fmt: skip
    result = aware(trained, tiny_task, replace(QUICK, epochs=0))
    path = quantized_file(trained, tiny_task, BitChoice(2), tmp_path, None)
    with torch.no_grad():
        outputs = result.network(inputs_of(tiny_task)).numpy()
    assert relative_difference(outputs, outputs_of(path, inputs_of(tiny_task))) < FLOAT_TOLERANCE
    assert result.report.best_epoch == 0


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse"])
def test_epoch_zero_has_the_ranges_that_rounding_after_training_finds(
    trained: nn.Module, tiny_task: Task, tmp_path: Path, ranges: ActivationRanges
) -> None:
    quantization = QuantizationSettings(activation_ranges=ranges)
    result = aware(trained, tiny_task, replace(QUICK, epochs=0), activation_bits=8, quantization=quantization)
    plain = quantized_file(trained, tiny_task, BitChoice(2, 8), tmp_path, None, quantization)
    for grid in result.activations.values():
        # two exports of the network differ in the last digits
        assert any(
            grid.zero_point == zero_point and grid.scale == pytest.approx(scale, rel=1e-3)
            for scale, zero_point in grids_of_activations(plain)
        )


class Clipped(nn.Module):
    """(n, 2, 6, 6): convolutions whose outputs reach beyond the 6 at which they are cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = nn.functional.relu6(4 * self.first(inputs))
        features = nn.functional.relu6(4 * self.second(features))
        outputs: Tensor = self.head(features.mean((2, 3)))
        return outputs


def test_ends_of_a_relu6_are_no_ends_that_training_moves_outwards(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = Clipped().eval(), 3 * torch.randn(96, 2, 6, 6)
    task = task_for(network, inputs)
    result = aware(network, task, replace(QUICK, epochs=3, learning_rate=0.5), activation_bits=8)
    assert result.report.best_epoch > 0
    path = quantized_file(result.network, task, BitChoice(2, 8), tmp_path, result)
    held = grids_of_activations(path)
    assert {(grid.scale, grid.zero_point) for grid in result.activations.values()} <= held
    assert max(grid.ends[1] for name, grid in result.activations.items() if name != "first") <= 6.0 + 1e-5


def test_zeros_of_weights_that_are_not_rounded_stay() -> None:
    torch.manual_seed(0)
    network, inputs = AttentionNetwork().eval(), torch.randn(64, 5, 8)
    zero_weights(network, 0.5)
    before = network.attention.in_proj_weight.detach().clone()
    result = aware(network, task_for(network, inputs), replace(QUICK, learning_rate=0.1))
    after = result.network.get_parameter("attention.in_proj_weight")
    assert result.report.best_epoch > 0
    assert not torch.equal(after, before)
    assert torch.equal(after == 0, before == 0)
    assert (after == 0).any()


class AttentionNetwork(nn.Module):
    """(n, 5, 8): attention, whose input projection is no linear layer, between two that are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.stem(inputs))
        outputs: Tensor = self.head(self.attention(features, features, features, need_weights=False)[0].mean(dim=1))
        return outputs


def test_it_never_ends_worse_than_it_starts(trained: nn.Module, tiny_task: Task) -> None:
    """The metric likes nothing better than the first network it sees."""
    seen: list[Tensor] = []

    def metric(outputs: Tensor, _targets: Tensor) -> float:
        seen.append(outputs)
        return -float((outputs - seen[0]).square().mean())

    start = aware(trained, tiny_task, replace(QUICK, epochs=0))
    result = aware(trained, replace(tiny_task, metric=metric))
    assert len(seen) > 2
    assert (result.report.best_epoch, result.report.best_metric) == (0, 0.0)
    for name, weight in start.weights.items():
        assert np.array_equal(weight.integers, result.weights[name].integers)
        assert np.array_equal(weight.scales, result.weights[name].scales)


def test_equal_settings_give_equal_networks_and_touch_nothing_else(trained: nn.Module, tiny_task: Task) -> None:
    noisy = replace(tiny_task, augment=lambda inputs: inputs + 0.1 * torch.randn_like(inputs))
    before = copy.deepcopy(trained.state_dict())
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = aware(trained, noisy, activation_bits=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    second = aware(trained, noisy, activation_bits=8)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())
    assert not any(module.training for module in first.network.modules())
    assert first.activations == second.activations
    states = first.network.state_dict(), second.network.state_dict()
    assert set(states[0]) == set(fold_batch_norm(trained, inputs_of(tiny_task)[:2]).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_weights_of_zero_stay_zero(trained: nn.Module, tiny_task: Task) -> None:
    convolution = trained.get_submodule("stage1.0.conv1")
    assert isinstance(convolution, nn.Conv2d)
    zeros = torch.rand(convolution.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    convolution.weight.data[zeros] = 0.0
    later_is_better = iter(range(100))
    task = replace(tiny_task, metric=lambda _outputs, _targets: float(next(later_is_better)))
    result = aware(trained, task, replace(QUICK, learning_rate=0.3), weight_bits=4)
    assert result.report.best_epoch == QUICK.epochs
    integers = result.weights["stage1.0.conv1"].integers
    assert not integers[zeros.numpy()].any()
    assert integers[~zeros.numpy()].any()


def test_frozen_networks_are_trained_and_frozen_layers_are_not(trained: nn.Module, tiny_task: Task) -> None:
    rounded = aware(trained, tiny_task, replace(QUICK, epochs=0)).weights
    frozen = aware(copy.deepcopy(trained).requires_grad_(False), tiny_task)
    assert any(not np.array_equal(weight.integers, rounded[name].integers) for name, weight in frozen.weights.items())
    trained.get_submodule("stage1").requires_grad_(False)
    for name, weight in aware(trained, tiny_task).weights.items():
        same = np.array_equal(weight.values, rounded[name].values)
        assert same or not name.startswith("stage1")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_fails_as_a_candidate(trained: nn.Module, tiny_task: Task, value: float) -> None:
    task = replace(tiny_task, loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) + value)
    with pytest.raises(CandidateFailure, match=f"aware training: the loss became {value} in epoch 1 of 2"):
        aware(trained, task)


def test_bits_without_meaning_are_refused(tiny_network: nn.Module, tiny_task: Task) -> None:
    run = partial(
        trained_on,
        tiny_network,
        tiny_task,
        QUICK,
        teacher=tiny_network,
        calibration=tiny_task.calibration_batch(8),
    )
    with pytest.raises(ValueError, match=r"bits of head must be within 2\.\.7 beside activations of 8 bits, got 8"):
        run(bits={"head": 8}, activation_bits=8)
    with pytest.raises(ValueError, match=r"bits of head must be within 2\.\.8 .* got 1"):
        run(bits={"head": 1}, activation_bits=32)
    with pytest.raises(ValueError, match="activation_bits must be 8 or 32, got 4"):
        run(bits={"head": 2}, activation_bits=4)
    with pytest.raises(CandidateFailure, match="aware training: TinyResNet has no layer that training can round"):
        run(bits={}, activation_bits=32)


@pytest.mark.parametrize(("activation_bits", "ends"), [(32, 8), (8, 7)])
def test_bits_are_those_that_quantization_gives(
    tiny_network: nn.Module, example: Tensor, activation_bits: int, ends: int
) -> None:
    """The ends are those of the graph, and so are the runs of layers that have bits of their own."""

    def spread(choice: BitChoice) -> dict[str, int]:
        return bits_of_modules(tiny_network, choice, example, QuantizationSettings(), None)

    bits = spread(BitChoice(3, activation_bits))
    modules = {name for name, module in tiny_network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert bits == {name: ends if name in ("stem.0", "head") else 3 for name in modules}
    halves = spread(BitChoice(4, activation_bits, "groups", (4, 2)))
    assert {halves["stem.0"], halves["stage1.0.conv2"]} == {4}
    assert {halves["stage2.1.conv1"], halves["head"]} == {2}


# what the file holds


def stored_weights(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The integers and scales of the weights in a quantized file, both as it reads them."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    pairs = [("#integers", "#scales"), ("_quantized", "_scale")]
    return [
        (integers, tensors[name.removesuffix(ending) + scales].reshape(-1))
        for name, integers in tensors.items()
        for ending, scales in pairs
        if name.endswith(ending) and integers.dtype == np.int8 and integers.ndim > 1
    ]


def assert_holds(path: Path, weights: dict[str, RoundedWeight]) -> None:
    stored = stored_weights(path)
    for name, weight in weights.items():
        assert any(
            np.array_equal(scales, weight.scales)
            and (np.array_equal(integers, weight.integers) or np.array_equal(integers.T, weight.integers))
            for integers, scales in stored
        ), name


@pytest.mark.parametrize("activation_bits", [32, 8])
@pytest.mark.parametrize("weight_bits", [2, 4])
def test_file_holds_what_was_trained(
    trained: nn.Module, tiny_task: Task, tmp_path: Path, weight_bits: int, activation_bits: int
) -> None:
    result = aware(trained, tiny_task, weight_bits=weight_bits, activation_bits=activation_bits)
    assert result.report.best_epoch > 0
    modules = {name for name, module in trained.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert set(result.weights) == modules
    for name, weight in result.weights.items():
        limit = 2 ** ((7 if activation_bits == 8 else 8) - 1) if name in ("stem.0", "head") else 2 ** (weight_bits - 1)
        assert weight.integers.min() >= -limit
        assert weight.integers.max() <= limit - 1
        held = result.network.get_submodule(name).get_parameter("weight").detach().numpy()
        assert held.tobytes() == (weight.integers.astype(np.float32) * weight.factors).tobytes()
    choice = BitChoice(weight_bits, activation_bits)
    path = quantized_file(result.network, tiny_task, choice, tmp_path, result)
    assert_holds(path, dict(result.weights))
    assert_same_outputs(path, result, inputs_of(tiny_task))


def assert_same_outputs(path: Path, result: AwareResult, inputs: Tensor) -> None:
    """The file computes what the network does, its inputs rounded by torch's own fake quantization."""
    network = copy.deepcopy(result.network)
    for name, grid in result.activations.items():
        network.get_submodule(name).register_forward_pre_hook(partial(rounded_inputs, grid))
    with torch.no_grad():
        expected = network(inputs).numpy()
    difference = np.abs(outputs_of(path, inputs) - expected)
    if not result.activations:
        assert difference.max() < FLOAT_TOLERANCE * np.abs(expected).max()
    else:
        # activations that no weight is multiplied with, outputs among them, are rounded in the file alone
        step = (max(expected.max(), 0.0) - min(expected.min(), 0.0)) / 255
        assert difference.mean() < 2 * step


def rounded_inputs(grid: ActivationGrid, _module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.fake_quantize_per_tensor_affine(arguments[0], grid.scale, grid.zero_point, 0, 255), *arguments[1:])


def test_grids_of_activations_are_in_the_file(trained: nn.Module, tiny_task: Task, tmp_path: Path) -> None:
    result = aware(trained, tiny_task, activation_bits=8)
    held = grids_of_activations(quantized_file(result.network, tiny_task, BitChoice(2, 8), tmp_path, result))
    assert set(result.activations) == set(result.weights)
    assert {(grid.scale, grid.zero_point) for grid in result.activations.values()} <= held
    # the first convolution of a stage and the shortcut beside it read the same tensor
    assert result.activations["stage2.0.conv1"] == result.activations["stage2.0.shortcut.0"]
    assert result.activations["stage2.0.conv1"] != result.activations["stage2.0.conv2"]


class Sequence(nn.Module):
    """(n, 6, 8): 1-d convolutions, one of them depthwise and one grouped; a product over three axes; one run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv1d(6, 8, 3, padding=1)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm1d(8)
        self.twice = nn.Conv1d(8, 8, 1)
        self.per_step = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.depthwise(torch.relu(self.wide(inputs))))
        features = torch.relu(self.norm(self.grouped(features)))
        features = torch.relu(self.twice(torch.relu(self.twice(features))))
        outputs: Tensor = self.head(torch.relu(self.per_step(features.transpose(1, 2))).mean(dim=1))
        return outputs


def test_every_kind_of_layer_is_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Sequence()
    task = task_for(network, torch.randn(128, 6, 8))
    train(network, task, replace(QUICK, epochs=2))
    for activation_bits in (32, 8):
        result = aware(network, task, weight_bits=3, activation_bits=activation_bits)
        assert set(result.weights) == {"wide", "depthwise", "grouped", "twice", "per_step", "head"}
        path = quantized_file(result.network, task, BitChoice(3, activation_bits), tmp_path, result)
        assert_holds(path, dict(result.weights))
        assert_same_outputs(path, result, inputs_of(task))


class Unusual(nn.Module):
    """(n, 2, 4, 4): a transposed convolution, weights that are computed, and weights read as a plain table as well."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 4, 2, stride=2)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.plain = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.read = nn.Conv2d(4, 4, 1)
        self.tied = nn.Linear(4, 5)
        self.table = nn.Embedding(5, 4)
        self.table.weight = self.tied.weight
        self.head = nn.Linear(9, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.computed(torch.relu(self.up(inputs))))
        features = nn.functional.conv2d(torch.relu(self.plain(features)), self.read.weight, self.read.bias)
        pooled = features.mean(dim=(2, 3))
        looked_up = self.table(pooled.argmax(dim=1))
        outputs: Tensor = self.head(torch.cat([self.tied(pooled), looked_up], dim=1))
        return outputs


def test_layers_that_cannot_be_trained_are_rounded_afterwards(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Unusual()
    task = task_for(network, torch.randn(96, 2, 4, 4))
    result = aware(network, task, replace(QUICK, epochs=1), weight_bits=4)
    assert set(result.weights) == {"plain", "read", "head"}
    path = quantized_file(result.network, task, BitChoice(4), tmp_path, result)
    assert_holds(path, dict(result.weights))
    computed, tied = (any(w.shape == shape for w, _ in stored_weights(path)) for shape in ((4, 4, 3, 3), (4, 5)))
    assert computed
    assert tied or any(w.shape == (5, 4) for w, _ in stored_weights(path))
    with pytest.raises(CandidateFailure, match="has no layer that training can round"):
        aware(nn.Sequential(nn.ConvTranspose2d(2, 3, 4), nn.Flatten(), nn.Softmax(dim=1)), task)


class Tied(nn.Module):
    """(n, 4): two layers share their weight, not their bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.relu(self.second(torch.relu(self.first(inputs)))))
        return outputs


def test_layers_that_share_a_weight_share_its_grid_and_one_scale_may_do(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Tied()
    task = task_for(network, torch.randn(96, 4))
    result = trained_on(
        network,
        task,
        QUICK,
        teacher=network,
        bits={"first": 3, "second": 3, "head": 8},
        activation_bits=32,
        calibration=inputs_of(task),
        quantization=QuantizationSettings(granularity="tensor"),
    )
    first, second = result.weights["first"], result.weights["second"]
    assert np.array_equal(first.integers, second.integers)
    assert first.scales == second.scales
    assert first.scales.shape == (1,)
    assert result.network.get_submodule("first").weight is result.network.get_submodule("second").weight
    path = quantized_file(result.network, task, BitChoice(3), tmp_path, result)
    assert_holds(path, dict(result.weights))
    assert_same_outputs(path, result, inputs_of(task))


def test_another_file_than_that_of_the_trained_network_is_refused(
    trained: nn.Module, tiny_task: Task, tmp_path: Path
) -> None:
    result = aware(trained, tiny_task, replace(QUICK, epochs=0))
    export_onnx(trained, inputs_of(tiny_task)[:2], tmp_path / "other.onnx")
    with pytest.raises(CandidateFailure, match=r"other\.onnx does not hold the weights of head, .* as trained"):
        learned_grids(result, tmp_path / "other.onnx")


# keeping the grids


@given(
    st.dictionaries(st.text(st.characters(exclude_characters="\0"), max_size=9), st.integers(0, 3), max_size=4),
    st.dictionaries(st.text(st.characters(exclude_characters="\0"), max_size=9), st.integers(0, 255), max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_grids_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, seeds: dict[str, int], zero_points: dict[str, int]
) -> None:
    weights = {}
    for name, seed in seeds.items():
        generator = np.random.default_rng(seed)
        integers = generator.integers(-8, 8, (2, 3, 1)).astype(np.int8)
        axis = None if seed == 3 else seed
        scales = generator.random(1 if axis is None else integers.shape[axis]).astype(np.float32)
        weights[name] = RoundedWeight(integers, scales, axis)
    activations = {name: ActivationGrid(1 / (1 + zero), zero) for name, zero in zero_points.items()}
    path = tmp_path_factory.mktemp("grids") / "kept.npz"
    LearnedGrids(weights, activations).save(path)
    read = LearnedGrids.load(path)
    assert read.activations == activations
    assert list(read.weights) == list(weights)
    for name, weight in weights.items():
        assert read.weights[name].integers.dtype == np.int8
        assert read.weights[name].scales.dtype == np.float32
        assert read.weights[name].channel_axis == weight.channel_axis
        assert np.array_equal(read.weights[name].integers, weight.integers)
        assert np.array_equal(read.weights[name].scales, weight.scales)


@pytest.mark.parametrize("kind", ["missing", "no archive", "other arrays", "pickle", "one array", "empty"])
def test_kept_grids_that_cannot_be_read_say_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "kept.npz"
    if kind == "no archive":
        path.write_bytes(b"PK\x03\x04 nonsense")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other arrays":
        np.savez(path, weights=np.array(["a"]))
    elif kind == "pickle":
        np.savez(path, weights=np.array([object()]))
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(OutputError, match=r"(?s)cannot be read.*kept\.npz.*delete that file"):
        LearnedGrids.load(path)
