"""Keys of the cache: they change with what is read, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from karui.spaces.build_settings import BuildSettings
from karui.spaces.candidate import Candidate
from karui.spaces.quantization.settings import QuantizationSettings
from karui.spaces.stage_keys import StageKeys
from karui.spaces.supernet.axes import SharingAxes
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
