"""The contract of a format: its file computes what the network does, packed as unpacked, rounded within a bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from karui.errors import CandidateFailure, KaruiError
from karui.evaluators.runtimes.runtime import ONNXRUNTIME, check_reads
from karui.evaluators.runtimes.runtime_registry import RUNTIMES
from karui.spaces.formats.format import FORMATS, Format, find_format
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.joint_zeroing import Zeroing
from karui.spaces.rounding.settings import QuantizationSettings

NEAREST = QuantizationSettings(rounding="nearest", bias_correction="off", activation_ranges="minmax")


@pytest.fixture(params=FORMATS.names)
def kind(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.randn(24, 12, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5)).eval()


@pytest.fixture
def exported(kind: Format, network: nn.Sequential, inputs: torch.Tensor, tmp_path: Path) -> Path:
    path = tmp_path / f"float{kind.suffix}"
    kind.export(network, inputs[:4], path)
    return path


def answers_of(network: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(network(inputs).numpy())


def rounded(kind: Format, source: Path, inputs: torch.Tensor, choice: BitChoice, **more: object) -> Path:
    path = source.with_name(f"rounded{kind.suffix}")
    kind.round(source, path, choice, calibration=inputs.numpy(), settings=NEAREST, **more)  # type: ignore[arg-type]
    return path


def packed(kind: Format, source: Path) -> Path:
    path = source.with_name(f"packed{kind.suffix}")
    kind.pack(source, path)
    return path


def test_it_has_the_name_that_it_is_registered_by(kind: Format) -> None:
    assert find_format(kind.name) is kind
    assert kind.suffix.startswith(".")


def test_the_file_computes_what_the_network_does(
    kind: Format, network: nn.Sequential, inputs: torch.Tensor, exported: Path
) -> None:
    for batch_size in (1, 5, 24):
        np.testing.assert_allclose(
            kind.answers(exported, inputs.numpy(), batch_size), answers_of(network, inputs), atol=1e-5
        )


def test_a_file_that_would_answer_otherwise_is_refused(kind: Format, inputs: torch.Tensor, tmp_path: Path) -> None:
    class Drawn(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + torch.rand(1)

    with pytest.raises(CandidateFailure):
        kind.export(Drawn(), inputs[:4], tmp_path / f"drawn{kind.suffix}")
    assert not list(tmp_path.iterdir()), "written whole or not at all"


@pytest.mark.parametrize("bits", [3, 8])
def test_packing_changes_no_answer(kind: Format, inputs: torch.Tensor, exported: Path, bits: int) -> None:
    """Bit for bit, and no larger than before; of few bits, smaller than float32 by about their share."""
    plain = rounded(kind, exported, inputs, BitChoice(bits))
    small = packed(kind, plain)
    assert np.array_equal(kind.answers(small, inputs.numpy(), 8), kind.answers(plain, inputs.numpy(), 8))
    weights = 4 * (12 * 40 + 40 * 40 + 40 * 5)
    assert small.stat().st_size <= plain.stat().st_size
    assert exported.stat().st_size - small.stat().st_size > weights * (1 - (bits + 1) / 32) - 3_000


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_a_rounded_layer_is_within_half_a_step_of_each_weight(
    kind: Format, inputs: torch.Tensor, tmp_path: Path, bits: int
) -> None:
    """No weight is off by more than the largest over the number of steps: least squared error may clip, not scatter.

    A network of one layer without a bias, fed with unit vectors, answers with its very weights.
    """
    torch.manual_seed(5)
    layer = nn.Linear(12, 7, bias=False).eval()
    source = tmp_path / f"float{kind.suffix}"
    kind.export(layer, inputs[:4], source)
    path = rounded(kind, source, inputs, BitChoice(bits))
    found = kind.answers(path, np.eye(12, dtype=np.float32), 12).T
    weight = layer.weight.detach().numpy()
    values = [np.unique(row) for row in found]
    kept_bits = 8  # the first layer is the last one too
    assert all(len(row) <= 2**kept_bits for row in values)
    most = np.abs(weight).max(axis=1, keepdims=True)
    assert (np.abs(found - weight) <= 1.01 * most / (2 ** (kept_bits - 1) - 1)).all()


def test_rounding_errs_less_with_every_bit(
    kind: Format, network: nn.Sequential, inputs: torch.Tensor, exported: Path
) -> None:
    """A bit halves the step and so the error: four bits more leave about a sixteenth, surely less than a quarter."""
    right = answers_of(network, inputs)
    errors = []
    for bits in (4, 8):
        found = kind.answers(rounded(kind, exported, inputs, BitChoice(bits)), inputs.numpy(), 8)
        errors.append(float(np.square(found - right).mean() ** 0.5))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.02 * right.std()


def test_integer_activations_stay_within_their_noise(
    kind: Format, network: nn.Sequential, inputs: torch.Tensor, exported: Path
) -> None:
    right = answers_of(network, inputs)
    found = kind.answers(rounded(kind, exported, inputs, BitChoice(7, 8)), inputs.numpy(), 8)
    assert np.square(found - right).mean() ** 0.5 < 0.05 * right.std()


def test_half_precision_keeps_eleven_bits(
    kind: Format, network: nn.Sequential, inputs: torch.Tensor, exported: Path
) -> None:
    path = exported.with_name(f"half{kind.suffix}")
    kind.store_in_half(exported, path)
    halved = {name: tensor.half().float() for name, tensor in network.state_dict().items() if tensor.numel() >= 64}
    with torch.no_grad():
        right = torch.func.functional_call(network, {**network.state_dict(), **halved}, (inputs,)).numpy()
    np.testing.assert_allclose(kind.answers(path, inputs.numpy(), 8), right, atol=1e-5)


def test_zeroed_weights_are_zero(kind: Format, inputs: torch.Tensor, tmp_path: Path) -> None:
    """Rounding to nearest zeroes the smallest: told by unit vectors again."""
    torch.manual_seed(6)
    layer = nn.Linear(12, 10, bias=False).eval()
    source, path = (tmp_path / f"{name}{kind.suffix}" for name in ("float", "zeroed"))
    kind.export(layer, inputs[:4], source)
    kind.zero(source, path, Zeroing(0.5, "2:4"), calibration=inputs.numpy(), settings=NEAREST)
    found = kind.answers(path, np.eye(12, dtype=np.float32), 12).T
    runs = layer.weight.detach().numpy().reshape(10, 3, 4)
    kept = np.argsort(np.argsort(-np.abs(runs), axis=2), axis=2) < 2
    np.testing.assert_allclose(found, (runs * kept).reshape(10, 12), atol=1e-6)


def test_coverage_counts_the_layers(kind: Format, exported: Path) -> None:
    assert kind.coverage(exported, 32).quantized_layers == kind.coverage(exported, 32).all_layers == 3


def test_an_even_budget_gives_no_weight_more_than_another(kind: Format, inputs: torch.Tensor, exported: Path) -> None:
    table = kind.even_table(exported, inputs.numpy(), NEAREST)
    assert sorted(table.sizes) == [5 * 40, 12 * 40, 40 * 40]
    shares = np.array(table.loss_increases) / np.array(table.sizes)[:, None]
    assert (np.ptp(shares, axis=0) == 0).all()
    assert (np.diff(shares[0]) < 0).all()


def test_a_format_that_there_is_not_is_refused_by_naming_those_that_there_are() -> None:
    with pytest.raises(KaruiError, match=r"(?s)no such format.*expected: one of onnx.*got: papyrus"):
        find_format("papyrus")


def test_a_runtime_that_does_not_read_a_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_reads("onnxruntime", "onnx")
    monkeypatch.setitem(RUNTIMES.all, "openvino", replace(ONNXRUNTIME, formats=("papyrus",)))
    with pytest.raises(KaruiError, match=r"(?s)one that reads onnx: onnxruntime\n.*got: openvino, which"):
        check_reads("openvino", "onnx")
    with pytest.raises(KaruiError, match="none is installed"):
        check_reads("onnxruntime", "clay")
