"""The whole model timed with fewer bits, on a target whose times are known: what costs time there stays float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from karui.evaluators.targets.target import Target
from karui.evaluators.timing.alternating import PairTiming, TimingSettings
from karui.evaluators.whole_model import WholeModel
from karui.spaces.axes.axis import INT8, whole_variants
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.rounding.settings import OperatorKind, QuantizationSettings

SPREAD = 0.01


class Costs:
    """A target on which a file takes as long as its nodes: known for each kind of convolution, in float32 and int8."""

    def __init__(self, costs: Mapping[str, tuple[float, float]]) -> None:
        self.costs = costs

    def cost(self, path: Path) -> float:
        model = onnx.load(path)
        rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        total = 0.0
        for node in model.graph.node:
            group = next((each.i for each in node.attribute if each.name == "group"), 1)
            kind = "depthwise" if group > 1 else "convolution" if node.op_type == "Conv" else node.op_type
            plain, int8 = self.costs.get(kind, (0.0, 0.0))
            total += int8 if len(node.input) > 1 and node.input[1] in rounded else plain
        return total

    def time_pair(
        self, reference: Path, candidate: Path, inputs: NDArray[Any], _settings: TimingSettings
    ) -> PairTiming:
        assert len(inputs) == 2
        ratio = self.cost(candidate) / self.cost(reference)
        return PairTiming(1.0, 0.0, ratio, ratio, ratio, SPREAD, 10, (1, 1))


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("whole") / "float.onnx"
    export_onnx(network.eval(), torch.randn(2, 3, 10, 10), path)
    return path


def model_on(target: Costs, file: Path, place: Path, **settings: Any) -> WholeModel:
    inputs = np.random.default_rng(0).standard_normal((4, 3, 10, 10), dtype=np.float32)
    quantization = QuantizationSettings(**settings)
    return WholeModel(cast("Target", target), file, inputs, TimingSettings(), quantization, 2, place)


@pytest.mark.parametrize(
    ("costs", "wanted"),
    [
        # convolutions 2 -> 1, depthwise 1 -> 3: the depthwise ones had better stay
        ({"convolution": (2.0, 1.0), "depthwise": (1.0, 3.0), "Gemm": (1.0, 0.5)}, ("depthwise",)),
        ({"convolution": (2.0, 1.0), "depthwise": (2.0, 1.0), "Gemm": (1.0, 0.5)}, ()),
        ({"convolution": (2.0, 1.0), "depthwise": (1.0, 1.02), "Gemm": (1.0, 0.5)}, ()),  # within the noise
        (
            {"convolution": (1.0, 2.0), "depthwise": (1.0, 2.0), "Gemm": (0.1, 0.1)},
            ("convolution", "depthwise", "thin"),
        ),
    ],
)
def test_what_is_slower_in_int8_stays_float(
    costs: dict[str, tuple[float, float]], wanted: tuple[OperatorKind, ...], float_file: Path, tmp_path: Path
) -> None:
    target = Costs(costs)
    model = model_on(target, float_file, tmp_path)
    found = model.float_kinds()
    assert set(found) - {"pooling", "moves"} == set(wanted)  # these cost nothing here, and may go with others
    # Of the four layers, each as it is faster; differences within the noise may be left.
    layers = ("convolution", "depthwise", "convolution", "Gemm")
    least = sum(min(costs[each]) for each in layers) / sum(costs[each][0] for each in layers)
    chosen = next(row.time_ratio for row in model.rows(found) if row.variant == INT8)
    assert chosen == pytest.approx(least, rel=0.04)


def test_the_rows_are_of_the_whole_file(float_file: Path, tmp_path: Path) -> None:
    target = Costs({"convolution": (2.0, 1.0), "depthwise": (1.0, 3.0), "Gemm": (1.0, 1.0)})
    rows = {row.variant: row for row in model_on(target, float_file, tmp_path).rows(())}
    assert list(rows) == list(whole_variants())
    assert rows[INT8].time_ratio == pytest.approx((1.0 + 1.0 + 3.0 + 1.0) / (2.0 + 2.0 + 1.0 + 1.0))
    assert rows["8-bit weights"].time_ratio == pytest.approx(1.0)
    assert rows["4-bit weights"].size_ratio < rows["8-bit weights"].size_ratio < rows["float16 weights"].size_ratio < 1


def test_weights_of_layers_that_stay_float_are_of_few_bits_all_the_same(float_file: Path, tmp_path: Path) -> None:
    target = Costs({"convolution": (1.0, 1.0)})
    model = model_on(target, float_file, tmp_path)
    sizes = {
        kinds: next(row.size_ratio for row in model.rows(kinds) if row.variant == INT8)
        for kinds in ((), ("convolution", "thin"), ("convolution", "thin", "depthwise", "linear"))
    }
    assert max(sizes.values()) < 1.25 * sizes[()]
