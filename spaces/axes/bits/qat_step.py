"""The step of a recipe that goes on training with rounded weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...formats.format import PARITY_SAMPLES
from ...rounding.learned import LearnedGrids
from ...step import LaterTraining, Step
from ...training.qat.qat_training import train_aware
from ...training.qat.rounded_network import AwareStart
from .steps import bit_choice

NETWORK, GRIDS = "network.onnx", "network.npz"
"""The files that it leaves."""


def train_on(step: Step, training: LaterTraining, folder: Path) -> None:
    """Train with rounded weights; leave the float32 file of the network and its grids in a folder."""
    choice, work = bit_choice(step.settings), training.work
    network, inputs = training.network(), work.calibration
    # of the network before this training; beside 8-bit activations, with its int8 layers alone
    table = training.weights.with_name(f"aware-a{choice.activation_bits}.sensitivity.json")
    bits = work.format.bits_of_modules(network, choice, inputs, work.quantization, table)

    def start(folded: nn.Module) -> AwareStart:
        return work.format.aware_start(folded, bits, choice.activation_bits, inputs, work.quantization)

    result = train_aware(
        network,
        work.task,
        training.settings,
        teacher=training.teacher,
        start=start,
        calibration=inputs,
        on_epoch=training.on_epoch,
        between_steps=training.between_steps,
    )
    work.format.export(result.network, inputs[:PARITY_SAMPLES], folder / NETWORK)
    work.format.learned_grids(result, folder / NETWORK).save(folder / GRIDS)


def read_grids(folder: Path) -> LearnedGrids:
    """Return the grids that were left in a folder."""
    return LearnedGrids.load(folder / GRIDS)
