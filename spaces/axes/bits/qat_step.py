"""The step of a recipe that goes on training with rounded weights."""

from __future__ import annotations

from pathlib import Path

from ...formats.onnx.export import PARITY_SAMPLES, export_onnx
from ...formats.onnx.quantization.graph_rounding import spread_over_layers
from ...rounding.learned import LearnedGrids
from ...step import LaterTraining, Step
from ...training.qat.qat_training import bits_by_module, learned_grids, train_aware
from .steps import bit_choice

NETWORK, GRIDS = "network.onnx", "network.npz"
"""The files that it leaves."""


def train_on(step: Step, training: LaterTraining, folder: Path) -> None:
    """Train with rounded weights; leave the float32 file of the network and its grids in a folder."""
    choice, work = bit_choice(step.settings), training.work
    network, inputs = training.network(), work.calibration
    # of the network before this training; beside 8-bit activations, with its int8 layers alone
    table = training.weights.with_name(f"aware-a{choice.activation_bits}.sensitivity.json")
    bits = bits_by_module(
        network,
        inputs,
        lambda model, layers: spread_over_layers(
            model, layers, layers, choice, inputs.numpy(), work.quantization, table
        ),
        activation_bits=choice.activation_bits,
    )
    result = train_aware(
        network,
        work.task,
        training.settings,
        teacher=training.teacher,
        bits=bits,
        activation_bits=choice.activation_bits,
        calibration=inputs,
        quantization=work.quantization,
        on_epoch=training.on_epoch,
        between_steps=training.between_steps,
    )
    export_onnx(result.network, inputs[:PARITY_SAMPLES], folder / NETWORK)
    learned_grids(result, folder / NETWORK).save(folder / GRIDS)


def read_grids(folder: Path) -> LearnedGrids:
    """Return the grids that were left in a folder."""
    return LearnedGrids.load(folder / GRIDS)
