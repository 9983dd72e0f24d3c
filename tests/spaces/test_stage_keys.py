"""Keys of the cache: they change with what is read, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import CellGenotype
from karui.spaces.axes.supernet.shared_axes import SharingAxes
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.network_factory import NetworkFactory
from karui.spaces.building.stage_cache import StageCache
from karui.spaces.building.stage_keys import StageKeys, network_digest, shares_parameters
from karui.spaces.candidate import Candidate
from karui.spaces.rounding.settings import QuantizationSettings
from karui.spaces.task import Task

SETTINGS = BuildSettings()


def keys_of(task: Task, settings: BuildSettings = SETTINGS) -> StageKeys:
    return StageKeys(task, settings, QuantizationSettings(), SharingAxes(), 0, "")


def test_only_zeros_of_a_model_with_attention_are_kept_elsewhere_than_before(
    tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = TensorDataset(torch.randn(8, 5, 4), torch.zeros(8, dtype=torch.long))
    attending = Task(nn.TransformerEncoderLayer(4, 1, 8, batch_first=True), samples, samples, samples)
    zeroed = Candidate(zeroed_weights=0.5)
    at_once, narrower = replace(zeroed, zeroing="one_shot"), Candidate(removed_channels=0.5)
    for task, expected in ((tiny_task, [True] * 3), (attending, [False, True, True])):
        now = [keys_of(task).network(candidate) for candidate in (zeroed, at_once, narrower)]
        before = keys_of(task)
        monkeypatch.setattr(before, "_attends", False)
        assert [
            key == before.network(one) for key, one in zip(now, (zeroed, at_once, narrower), strict=True)
        ] == expected


class Tied(nn.Module):
    """(n, 4): two layers of one weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight if tied else nn.Parameter(self.first.weight.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(self.first(inputs))
        return outputs


def test_networks_of_shared_parameters_are_kept_apart_from_those_of_equal_ones() -> None:
    samples = TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    tied, equal = (keys_of(Task(Tied(each), samples, samples, samples)) for each in (True, False))
    assert shares_parameters(Tied(True))
    assert not shares_parameters(Tied(False))
    narrower = Candidate(removed_channels=0.5)
    assert tied.network(narrower) != equal.network(narrower)


CHANGED: dict[str, tuple[object, bool]] = {
    "epochs": (3, False),
    "epochs_from_scratch": (5, False),
    "epochs_inherited": (0, False),
    "epochs_aware": (2, False),
    "epochs_supernet": (2, True),
    "final_factor": (4, False),
    "learning_rate": (1e-4, False),
    "learning_rate_baseline": (1e-4, False),
    "learning_rate_supernet": (1e-4, True),
    "batch_size": (48, True),
    "temperature": (2.0, True),
    "distillation_weight": (0.3, True),
    "ema_decay": (0.9, False),
    "hint_weight": (1.0, False),
    "channel_multiple": (4, False),
    "precision": ("bfloat16", True),
    "device": ("cpu", False),
}
"""Another value for each setting, and whether a supernet comes out otherwise for it."""

CELLS = CellsAxis(
    nodes=2, operations=("skip", "conv1x1", "conv3x3"), channels=(4,), cells_per_stage=(1,), weights="supernet"
)
CELL = CellNetwork(CellGenotype(2, ((0, 1, "conv3x3"),)), 4, 1)


@pytest.mark.parametrize("name", CHANGED)
def test_the_key_of_a_supernet_changes_with_what_its_training_reads_and_nothing_else(
    tiny_task: Task, tmp_path: Path, name: str
) -> None:
    plain = BuildSettings(epochs_supernet=1, device=None if name == "device" else "cpu")
    value, is_read = CHANGED[name]
    changed = BuildSettings.model_validate({**plain.model_dump(), name: value})
    assert changed != plain
    keys, weights = [], []
    for place, settings in (("plain", plain), ("changed", changed)):
        keys.append(keys_of(tiny_task, settings).supernet(CELLS))
        network_factory = NetworkFactory(
            tiny_task, settings, StageCache(tmp_path / place),
            sharing=SharingAxes((CELLS,)), supernet_key=lambda _: "supernet-0", seed=0,
        )  # fmt: skip
        weights.append(network_digest(network_factory.start(Candidate(CELL))))
    assert (weights[0] != weights[1]) == is_read
    assert (keys[0] != keys[1]) == is_read


def test_every_setting_is_asked_about() -> None:
    assert CHANGED.keys() == BuildSettings.model_fields.keys()
