"""The untrained proxy of a candidate: a file as large and as fast as its own will be, made before any training.

Size and latency hardly depend on what the weights are, only on how many there are, in how many bits, with how many
zeros. So the network is taken as it starts, what would be zeroed gradually is zeroed at once, and weights are rounded
to nearest. What the untrained proxy answers means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ..axes.axis import all_axes
from ..candidate import BuildStage
from ..formats.format import PARITY_SAMPLES
from ..step import UNTRAINED_SAMPLES, FileWork, Step
from ..training.zeroing import zero_weights

CALIBRATION_SAMPLES = UNTRAINED_SAMPLES
"""Inputs that give an untrained proxy's activations some range."""

DISTURBANCE = 0.01
"""Largest number added to what is constant in an untrained network."""


def write_untrained_proxy(
    path: Path, steps: Sequence[Step], work: FileWork, *, kept: Path | None, start: Callable[[], nn.Module]
) -> None:
    """Make the untrained proxy of a candidate.

    Args:
        path: Where it goes.
        steps: Those that make the candidate's file.
        work: With what; it says that the file is untrained, and other files go into its folder.
        kept: Float32 file of the candidate's trained network, where there is one.
        start: Returns the network that the candidate starts from; called where there is none.

    Raises:
        CandidateFailure: Where the network cannot be exported, quantized or packed.
    """
    source = kept
    if source is None:
        source = work.folder / "untrained_proxy.float32.onnx"
        network = start()
        _disturb_constants(network)
        for step in steps:
            if step.stage == BuildStage.TRAINING:
                zeros = step.settings
                zero_weights(network, zeros.get("zeroed_weights", 0.0), zeros.get("zero_pattern", "free"))
        work.format.export(network, work.calibration[:PARITY_SAMPLES], source)
    for number, step in enumerate(steps):
        if step.stage == BuildStage.ROUNDING:
            changed = work.folder / f"untrained_proxy.{number}.onnx"
            all_axes()[step.axis].change_file(source, changed, step, work)
            source = changed
    work.format.pack(source, path)


def _disturb_constants(network: nn.Module) -> None:
    """Let no two elements of a tensor be equal only because nothing was learnt yet.

    Normalization begins with ones and zeros, which packing stores once for all layers: files of an untrained
    MobileNetV3 were 13 % too small.
    """
    chance = torch.Generator().manual_seed(0)
    for tensor in (*network.parameters(), *network.buffers()):
        values = tensor.detach()
        if values.is_floating_point() and values.numel() > 1 and bool((values == values.flatten()[0]).all()):
            # upwards, since variances are among them
            values += DISTURBANCE * torch.rand(values.shape, generator=chance, dtype=values.dtype)
