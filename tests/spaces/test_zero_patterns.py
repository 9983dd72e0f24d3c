"""Zeros in runs of weights, n:m, while training: counted by hand in the network and in its file."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization.weight_layers import find_layers, read_weights
from karui.spaces.rounding.im2col import as_rows
from karui.spaces.sparsity_names import ZeroPattern
from karui.spaces.training.zeroing import FINAL_PROGRESS, WeightZeroing, zero_fraction, zero_weights
from karui.spaces.zero_patterns import PATTERNS, check_fraction


def network_of(seed: int) -> nn.Module:
    """Layers with and without weights left over behind the last run, and a tiny one."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 8, 1), nn.Flatten(), nn.Linear(72, 16)
    )


def weights_of(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for name, parameter in network.named_parameters() if name.endswith("weight")]


def zeros_by_run(weight: Tensor, length: int) -> list[tuple[list[float], list[float]]]:
    """The runs of a weight with nothing left over, each as its values and those behind the last run, in plain lists."""
    found = []
    for row in weight.reshape(len(weight), -1).tolist():
        whole = len(row) // length * length
        found += [(row[start : start + length], row[whole:]) for start in range(0, whole, length)]
    return found


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@given(seed=st.integers(0, 99), moments=st.lists(st.floats(0.0, 0.59), max_size=4))
@settings(deadline=None, max_examples=10)
def test_zeros_grow_to_exactly_the_pattern(pattern: ZeroPattern, seed: int, moments: list[float]) -> None:
    kept, length = (int(number) for number in pattern.split(":"))
    network = network_of(seed)
    before = [weight.clone() for weight in weights_of(network)]
    zeroing = WeightZeroing(network, 0.5, pattern)
    allowed = sum(weight.numel() // len(weight) // length * len(weight) * kept for weight in before if len(weight) != 8)
    for progress in sorted(moments):
        zeroing.step(progress)
        assert not zeroing.is_final
        zeros = sum(int((weight == 0).sum()) for weight in weights_of(network))
        assert zeros == round(allowed * (1 - (1 - progress / FINAL_PROGRESS) ** 3))
        for weight in weights_of(network):
            assert all(run.count(0.0) <= length - kept for run, _ in zeros_by_run(weight, length))
    zeroing.step(FINAL_PROGRESS)
    assert zeroing.is_final
    for weight, old in zip(weights_of(network), before, strict=True):
        if old.numel() < 100:
            assert torch.equal(weight, old)
            continue
        pairs = zip(zeros_by_run(weight, length), zeros_by_run(old, length), strict=True)
        for (run, behind), (old_run, _) in pairs:
            assert run.count(0.0) == length - kept
            assert all(behind)
            # Those that stay are as they were.
            assert all(value in (0.0, old_value) for value, old_value in zip(run, old_run, strict=True))


def test_the_smallest_of_each_run_go() -> None:
    network = nn.Linear(10, 10, bias=False)
    row = [4.0, -1.0, 2.0, -3.0, 0.1, -0.4, 0.3, 0.2, 9.0, 0.01]
    with torch.no_grad():
        network.weight.copy_(torch.tensor([row] * 10))
    zero_weights(network, 0.5, "2:4")
    expected = torch.tensor([4.0, 0.0, 0.0, -3.0, 0.0, -0.4, 0.3, 0.0, 9.0, 0.01])
    assert all(torch.equal(found, expected) for found in network.weight.detach())


def test_the_cheapest_of_those_that_may_go_are_the_first() -> None:
    network = nn.Linear(8, 20, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.arange(160.0).view(20, 8) + 1)
    zeroing = WeightZeroing(network, 0.5, "2:4")
    zeroing.step(0.1)
    zeros = network.weight.detach().flatten() == 0
    may_go = torch.tensor([True, True, False, False]).repeat(40)
    count = round(80 * (1 - (5 / 6) ** 3))
    assert torch.equal(zeros.nonzero().flatten(), may_go.nonzero().flatten()[:count])


def test_the_file_holds_the_runs_along_its_inputs(tmp_path: Path) -> None:
    network = network_of(0).eval()
    zero_weights(network, 0.5, "2:4")
    export_onnx(network, torch.randn(2, 3, 7, 7), tmp_path / "file.onnx")
    model = onnx.load(tmp_path / "file.onnx")
    layers = find_layers(model)
    groups = [1, 12, 1, 1]
    assert len(layers) == 4
    for layer, count in zip(layers, groups, strict=True):
        rows = as_rows(read_weights(model, {layer.weight_name})[layer.weight_name], layer.channel_axis, count)
        whole = rows.shape[2] // 4 * 4
        runs = (rows[:, :, :whole].reshape(-1, 4) != 0).sum(axis=1)
        np.testing.assert_array_equal(runs, 4 if rows.size == 96 else 2)


def test_a_memory_layout_makes_no_difference() -> None:
    plain, other = network_of(5), network_of(5).to(memory_format=torch.channels_last)
    for network in (plain, other):
        zeroing = WeightZeroing(network, 0.5, "4:8")
        zeroing.step(0.3)
        zeroing.step(1.0)
    assert all(torch.equal(first, second) for first, second in zip(weights_of(plain), weights_of(other), strict=True))


def test_no_fraction_leaves_all_weights_under_a_pattern() -> None:
    network = network_of(0)
    zero_weights(network, 0.0, "2:4")
    assert zero_fraction(network) == 0.0


def test_every_pattern_has_its_numbers_and_only_its_own_fraction() -> None:
    assert {"free", *PATTERNS} == set(get_args(ZeroPattern))
    for pattern, (kept, length) in PATTERNS.items():
        assert pattern == f"{kept}:{length}"
        check_fraction(1 - kept / length, pattern)
        with pytest.raises(ValueError, match=f"the pattern {pattern} zeroes 50% of the weights, got 0.7"):
            WeightZeroing(nn.Linear(20, 20), 0.7, pattern)
