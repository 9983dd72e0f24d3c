"""Networks of inverted-residual stages: the axis against itertools, the network against hand counts and formulas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from karui.spaces.axes.stages.axis import StagesAxis
from karui.spaces.axes.stages.choice import Stage, StageNetwork
from karui.spaces.axes.stages.stage_network import InvertedResidual, SqueezeExcite, build_stage_network
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice

PLAIN = Stage(kernel=3, expansion=1, squeeze_excite=False, depth=1)
GATED = Stage(kernel=5, expansion=6, squeeze_excite=True, depth=2)

stages = st.builds(Stage, st.sampled_from([3, 5, 7]), st.sampled_from([1, 3, 6]), st.booleans(), st.integers(1, 3))
networks = st.builds(StageNetwork, st.integers(1, 4), st.lists(stages, min_size=1, max_size=4).map(tuple))


class Chosen:
    """A suggester that answers from a list of parameters, or with the first choice, and remembers what was asked."""

    def __init__(self, parameters: dict[str, Any] | None = None) -> None:
        self.parameters = parameters or {}
        self.asked: dict[str, tuple[Any, ...]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked[name] = tuple(choices)
        return self.parameters.get(name, choices[0])


def trained_looking(module: nn.Module) -> nn.Module:
    """Give batch normalization statistics that do something."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, 0.1, 0.5)
            layer.get_buffer("running_mean").uniform_(-0.2, 0.2)
            layer.get_buffer("running_var").uniform_(0.5, 1.5)
    return module.eval()


def test_axis_asks_for_each_stage_by_name() -> None:
    trial = Chosen()
    StagesAxis(stages=2).suggest_network(trial)
    assert trial.asked == {
        "stages.channels": (16,),
        **{f"stages.{stage}.kernel": (3, 5, 7) for stage in (0, 1)},
        **{f"stages.{stage}.expansion": (1, 3, 6) for stage in (0, 1)},
        **{f"stages.{stage}.squeeze_excite": ("no", "yes") for stage in (0, 1)},
        **{f"stages.{stage}.depth": (1, 2) for stage in (0, 1)},
    }


def test_every_combination_of_parameters_is_a_network_of_its_own() -> None:
    axis = StagesAxis(stages=2, channels=(8, 16), expansions=(3, 6))
    first = Chosen()
    axis.suggest_network(first)
    combinations = [dict(zip(first.asked, values, strict=True)) for values in product(*first.asked.values())]
    found = {axis.suggest_network(Chosen(parameters)) for parameters in combinations}
    every = product((3, 5, 7), (3, 6), (False, True), (1, 2))
    assert found == {
        StageNetwork(channels, chosen)
        for channels, chosen in product((8, 16), product([Stage(*values) for values in every], repeat=2))
    }
    assert len(found) == len(combinations) == 2 * (3 * 2 * 2 * 2) ** 2


@pytest.mark.parametrize(
    "axis",
    [StagesAxis(), StagesAxis(stages=1, channels=(8, 24), kernels=(7, 3), expansions=(6,), squeeze_excite=("yes",))],
)
def test_axis_reads_back_from_json(axis: StagesAxis) -> None:
    assert StagesAxis.model_validate_json(axis.model_dump_json()) == axis


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"kernels": [3, 4]}, "Input should be 3, 5 or 7"),
        ({"expansions": [2]}, "Input should be 1, 3 or 6"),
        ({"squeeze_excite": ["maybe"]}, "Input should be 'no' or 'yes'"),
        ({"depths": [0]}, "greater than or equal to 1"),
        ({"depths": [1, 1]}, "a value stands twice"),
        ({"channels": []}, "at least 1 item"),
        ({"stages": 0}, "greater than or equal to 1"),
        ({"widths": [1]}, "Extra inputs are not permitted"),
    ],
)
def test_axis_refuses_what_has_no_meaning(given_values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StagesAxis.model_validate(given_values)


def test_largest_and_smallest_are_the_ends_of_every_choice() -> None:
    axis = StagesAxis(stages=2, channels=(16, 8), kernels=(5, 7, 3), expansions=(6, 1), depths=(2, 3, 1))
    assert axis.largest() == StageNetwork(16, (Stage(7, 6, True, 3),) * 2)
    assert axis.smallest() == StageNetwork(8, (Stage(3, 1, False, 1),) * 2)
    assert StagesAxis(squeeze_excite=("no",)).largest().stages[0].squeeze_excite is False
    assert StagesAxis(squeeze_excite=("yes",)).smallest().stages[0].squeeze_excite is True


@given(networks)
def test_choice_reads_back_from_json(choice: StageNetwork) -> None:
    assert StageNetwork.from_dict(json.loads(json.dumps(asdict(choice)))) == choice


def test_description_is_short_and_names_every_choice() -> None:
    choice = StageNetwork(16, (Stage(3, 3, False, 2), Stage(5, 6, True, 1), Stage(3, 3, False, 1)))
    assert choice.describe() == "stages 16ch [k3 e3 d2 | k5 e6 se d1 | k3 e3 d1]"
    assert choice.channels_of_stages == (16, 32, 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((4, 3, False, 1), r"Stage.kernel: expected one of \(3, 5, 7\), got 4"),
        ((3, 2, False, 1), r"Stage.expansion: expected one of \(1, 3, 6\), got 2"),
        ((3, 3, "yes", 1), "Stage.squeeze_excite: expected True or False, got 'yes'"),
        ((3, 3, True, 0), "Stage.depth: expected 1 or more, got 0"),
    ],
)
def test_stage_without_meaning_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage(*values)


def test_network_without_stages_or_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"StageNetwork.stages: expected at least one stage"):
        StageNetwork(8, ())
    with pytest.raises(ValueError, match=r"StageNetwork.channels: expected 1 or more, got 0"):
        StageNetwork(0, (PLAIN,))


def test_gate_computes_its_formula() -> None:
    gate = SqueezeExcite(8).double()
    inputs = torch.randn(3, 8, 5, 4, dtype=torch.double)
    weights = [layer.weight.reshape(layer.out_channels, -1) for layer in (gate.squeeze, gate.excite)]
    assert [tuple(weight.shape) for weight in weights] == [(4, 8), (8, 4)]
    squeezed = (inputs.mean(dim=(2, 3)) @ weights[0].T + gate.squeeze.bias).clamp(min=0)  # type: ignore[operator]
    scales = 1 / (1 + torch.exp(-(squeezed @ weights[1].T + gate.excite.bias)))  # type: ignore[operator]
    torch.testing.assert_close(gate(inputs), inputs * scales[:, :, None, None])


@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (4, 2), (8, 1)])
def test_block_is_expansion_depthwise_projection_and_residual_where_shapes_agree(
    out_channels: int, stride: int
) -> None:
    block = trained_looking(InvertedResidual(Stage(5, 3, False, 1), 4, out_channels, stride))
    state, inputs = block.state_dict(), torch.randn(2, 4, 7, 6)

    def normalized(values: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return functional.batch_norm(values, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    inner = normalized(functional.conv2d(inputs, state["expand.convolution.weight"]), "expand.normalization").relu()
    kernels = state["depthwise.convolution.weight"]
    each = [
        functional.conv2d(inner[:, channel : channel + 1], kernels[channel : channel + 1], stride=stride, padding=2)
        for channel in range(12)
    ]
    inner = normalized(torch.cat(each, dim=1), "depthwise.normalization").relu()
    expected = normalized(functional.conv2d(inner, state["project.weight"]), "normalization")
    if (out_channels, stride) == (4, 1):
        expected = expected + inputs
    with torch.no_grad():
        torch.testing.assert_close(block(inputs), expected)


def test_network_has_the_parameters_of_its_definition() -> None:
    """Counted by hand, batch normalization as two numbers a channel."""
    stem = 9 * 1 * 4 + 8
    first = (9 * 4 + 8) + (4 * 4 + 8)  # no expansion

    def block(channels: int, out_channels: int) -> int:
        hidden = 6 * channels
        gate = hidden * (hidden // 4) + hidden // 4 + (hidden // 4) * hidden + hidden
        return (channels * hidden + 2 * hidden) + (25 * hidden + 2 * hidden) + gate + (hidden + 2) * out_channels

    head = 8 * 3 + 3
    network = build_stage_network(StageNetwork(4, (PLAIN, GATED)), (1, 8, 8), 3)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == stem + first + block(4, 8) + block(8, 8) + head


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (4, [4, 4, 4]),
        (6, [6, 6, 6]),
        (7, [7, 4, 4]),
        (8, [8, 4, 4]),
        (13, [13, 7, 4]),
        (16, [16, 8, 4]),
        (28, [28, 14, 7]),
        (63, [63, 32, 16]),
        (64, [32, 16, 8]),
    ],
)
def test_image_is_halved_between_stages_but_not_below_four(side: int, sides: list[int]) -> None:
    network = build_stage_network(StageNetwork(2, (PLAIN,) * 3), (2, side, side + 3), 5).eval()
    seen: list[tuple[int, ...]] = []
    for layer in network.get_submodule("stages").children():
        layer.register_forward_hook(lambda _layer, _inputs, outputs: seen.append(tuple(outputs.shape)))
    assert network(torch.zeros(2, 2, side, side + 3)).shape == (2, 5)
    assert [shape[1:3] for shape in seen] == [(2 * 2**position, length) for position, length in enumerate(sides)]


@given(networks, st.integers(8, 64), st.integers(8, 64))
@settings(deadline=None, max_examples=25)
def test_every_choice_takes_images_of_any_size(choice: StageNetwork, height: int, width: int) -> None:
    network = build_stage_network(choice, (3, height, width), 2)
    assert sum(isinstance(layer, InvertedResidual) for layer in network.modules()) == sum(
        stage.depth for stage in choice.stages
    )
    outputs = network(torch.randn(2, 3, height, width))
    assert outputs.shape == (2, 2)
    assert torch.isfinite(outputs).all()


@pytest.mark.parametrize("shape", [(8,), (8, 8), (1, 8, 8, 8)])
def test_input_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\)"):
        build_stage_network(StageNetwork(4, (PLAIN,)), shape, 3)


def test_file_holds_only_plain_operators_and_its_int8_form_only_int8_kernels(tmp_path: Path) -> None:
    """Batch normalization is folded, nothing is computed from shapes, and the gate is no island of float32."""
    torch.manual_seed(0)
    digits, classes = load_digits(return_X_y=True)
    images, targets = torch.from_numpy(digits).float().view(-1, 1, 8, 8)[:512] / 16, torch.from_numpy(classes)[:512]
    network = build_stage_network(StageNetwork(8, (PLAIN, GATED)), (1, 8, 8), 10)
    # Outputs of a network that has learnt nothing hardly differ, so that steps of 8 bits are too coarse for them.
    optimizer = torch.optim.Adam(network.train().parameters(), 3e-3)
    for rows in torch.randperm(512).repeat(6).view(-1, 32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval()
    path, rounded, optimized = (tmp_path / f"{name}.onnx" for name in ("float", "int8", "optimized"))
    export_onnx(network, images[:2], path)
    graph = onnx.load(path).graph
    operators = {node.op_type for node in graph.node}
    assert operators == {"Conv", "Relu", "Add", "Sigmoid", "Mul", "GlobalAveragePool", "Flatten", "Gemm"}
    assert sum(node.op_type == "Conv" for node in graph.node) == 1 + 2 + 2 * (3 + 2)
    reach = quantize(path, rounded, BitChoice(7, 8), calibration=images.numpy())
    assert reach.quantized_layers == reach.all_layers == 1 + 2 + 2 * (3 + 2) + 1
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(rounded), options, providers=["CPUExecutionProvider"])
    fused = {node.op_type for node in onnx.load(optimized).graph.node}
    assert fused <= {
        "QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearGlobalAveragePool", "QGemm", "Flatten",
        "Reshape", "QuantizeLinear", "DequantizeLinear",
    }  # fmt: skip
    (outputs,) = session.run(None, {"input": images.numpy()})
    with torch.no_grad():
        expected = network(images)
    assert (torch.from_numpy(outputs) - expected).square().mean() < 0.05 * expected.var()
