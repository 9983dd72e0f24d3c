"""Candidates have one key exactly where their files are the same, byte for byte."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from karui.spaces.artifact import file_digest
from karui.spaces.candidate import Candidate
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization import graph_rounding
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice


def candidates() -> list[Candidate]:
    """Return how the weights and activations of a network may be rounded, as far as a few bits show it."""
    found = []
    for activations in (8, 32):
        for bits, spread in product((2, 3, 4, 6.5, 7, 7.5, 8), ("uniform", "budget")):
            # A budget may come to what all alike have, by what is measured: here that of 7 bits beside float.
            by_chance = (bits, spread, activations) == (7, "budget", 32)
            if not by_chance and (spread == "budget" or bits == int(bits)):
                found.append(Candidate(weight_bits=bits, activation_bits=activations, bit_allocation=spread))  # type: ignore[arg-type]
        found += [
            Candidate(weight_bits=max(groups), activation_bits=activations, bit_allocation="groups", group_bits=groups)
            for groups in product((3, 7, 8), repeat=2)
        ]
    return found


def test_equal_files_and_equal_keys_are_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 4),
    ).eval()  # fmt: skip
    inputs = torch.randn(24, 3, 10, 10)
    source, rounded, packed = (tmp_path / f"{name}.onnx" for name in ("float", "rounded", "packed"))
    export_onnx(network, inputs[:4], source)
    keys, files = defaultdict(set), defaultdict(set)
    for candidate in candidates():
        # As it is asked for, not as its canonical form would have it.
        quantize(source, rounded, bits_of(candidate), calibration=inputs.numpy(), sensitivity=tmp_path / "table.json")
        pack(rounded, packed)
        digest = file_digest(packed)
        keys[digest].add(candidate.key)
        files[candidate.key].add(digest)
    assert {key: len(found) for key, found in files.items() if len(found) > 1} == {}
    assert {digest: len(found) for digest, found in keys.items() if len(found) > 1} == {}


def bits_of(candidate: Candidate) -> BitChoice:
    return BitChoice(candidate.weight_bits, candidate.activation_bits, candidate.bit_allocation, candidate.group_bits)


def test_nothing_is_measured_where_every_weight_has_all_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("no table is wanted")

    monkeypatch.setattr(graph_rounding, "kept_table", never)
    network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    inputs = torch.randn(8, 6)
    export_onnx(network, inputs, tmp_path / "float.onnx")
    made = []
    for spread in ("budget", "uniform"):
        choice = bits_of(Candidate(weight_bits=7, activation_bits=8, bit_allocation=spread))
        quantize(tmp_path / "float.onnx", tmp_path / spread, choice, calibration=inputs.numpy())
        made.append(file_digest(tmp_path / spread))
    assert made[0] == made[1]
