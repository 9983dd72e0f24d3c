"""Computed weights made plain, against what the network computes and closed forms of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization.quantize import quantization_coverage
from karui.spaces.networks.parametrizations import fold_parametrizations, is_parametrized


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2.0 * weight


def twice_parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "bias", Doubled())
    parametrizations.weight_norm(layer)
    return layer


def pruned_twice(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    prune.random_unstructured(layer, "bias", 0.5)  # type: ignore[no-untyped-call]
    return layer


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "several": twice_parametrized,
    "older weight_norm": nn.utils.weight_norm,
    "older spectral_norm": nn.utils.spectral_norm,
    "pruned": pruned_twice,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_folded_network_computes_the_same_and_has_plain_weights(way: str) -> None:
    torch.manual_seed(0)
    layers = [
        WAYS[way](nn.Conv1d(6, 8, 3, padding=1)),
        nn.ReLU(),
        WAYS[way](nn.Conv1d(8, 8, 3)),
        WAYS[way](nn.Conv1d(8, 4, 1)),
    ]
    network = nn.Sequential(*layers).train()
    inputs = torch.randn(3, 6, 12)
    network(inputs).sum().backward()  # after which the older hooks keep a weight with its graph
    with torch.no_grad():  # and moves what the weights are computed from
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    before = copy.deepcopy(network.state_dict())
    folded = fold_parametrizations(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert is_parametrized(network)
    assert not is_parametrized(folded)
    assert all(module.training for module in folded.modules())
    assert sorted(folded.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight", "3.bias", "3.weight"]
    assert all(type(folded.get_submodule(str(number))) is nn.Conv1d for number in (0, 2, 3))
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in folded.parameters())
    torch.testing.assert_close(folded.eval()(inputs), network.eval()(inputs))
    fold_parametrizations(folded).load_state_dict(copy.deepcopy(folded).state_dict())


def test_weight_norm_is_the_length_times_the_direction() -> None:
    torch.manual_seed(0)
    layer = parametrizations.weight_norm(nn.Linear(5, 3))
    layer.parametrizations["weight"].original0.requires_grad_(False)
    length, direction = (tensor.detach() for tensor in layer.parametrizations["weight"].parameters())
    folded = fold_parametrizations(layer)
    expected = length * direction / direction.square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(folded.get_parameter("weight").detach(), expected)
    assert folded.get_parameter("weight").requires_grad
    layer.requires_grad_(False)
    assert not fold_parametrizations(layer).get_parameter("weight").requires_grad


def test_a_plain_network_is_copied() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    copied = fold_parametrizations(network)
    assert not set(copied.parameters()) & set(network.parameters())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in copied.state_dict().items())


def test_exported_weights_of_a_weight_norm_can_be_rounded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = parametrizations.weight_norm
    network = nn.Sequential(
        norm(nn.Conv1d(6, 16, 3)), nn.ReLU(), norm(nn.Conv1d(16, 16, 3)), nn.Flatten(), nn.Linear(128, 3)
    )
    export_onnx(network, torch.randn(2, 6, 12), tmp_path / "network.onnx")
    reach = quantization_coverage(tmp_path / "network.onnx", 32)
    assert (reach.quantized_layers, reach.all_layers) == (3, 3)
