"""How candidates are made: what is the same for all of a study's candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..section import Section, Text, count_or_auto
from ..training.precision import Precision

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Epochs = Annotated[int, Field(ge=0, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, le=1_000)]

USUAL_MULTIPLE = 8
"""Channels in a vector of 256 bits in float32, and the block of channels of onnxruntime's kernels there."""


class BuildSettings(Section):
    """Training that every candidate of a study gets.

    Args:
        epochs: Epochs of recovery for networks that start from the baseline's weights.
        epochs_from_scratch: Epochs for networks that start from random weights, and for students of other families
            even where they start from parts of a baseline that is of the same.
        epochs_inherited: Epochs for networks that take their weights from a supernet; as many as ``epochs`` where left
            out. 0 for none: weights stay as they are, and only the statistics of batch normalization are estimated
            anew, so that such a network takes seconds. At the end of a search it is trained all the same, for
            ``epochs`` times the final factor.
        epochs_aware: Epochs of training with rounded weights, where candidates ask for it.
        epochs_supernet: Epochs in which one supernet is trained for all networks of the axis [cells] or [stages], once
            for each axis; they then take their weights from there and recover like those that start from the baseline.
            0 for none: each of these networks then starts from random weights.
        final_factor: So many times these epochs (those of the supernet aside) each network of the front is trained anew
            at the end of a search, from the same start, so that its schedule is whole; 1 for nothing at the end.
        learning_rate: Peak of the one-cycle schedule. Few epochs want a high one: on Fashion-MNIST and on digits, 8e-3
            gave small networks up to 13 points more than 2e-3 in as many epochs.
        learning_rate_baseline: The same for the baseline, where the task asks for its training.
        learning_rate_supernet: The same for the supernet, whose networks share their weights.
        batch_size: Samples per training step.
        temperature: Softens the logits of teacher and student (Hinton et al. 2015).
        distillation_weight: Share of the distillation loss in [0, 1]; the rest is the task's own loss.
        ema_decay: Decay per step of a moving average of the weights; the better of the two is kept; 0 for none.
        hint_weight: Weight of attention transfer from the baseline's features; 0 for none.
        channel_multiple: Channel counts that are left are rounded to a multiple of this, since kernels are fast at
            counts that fill their vectors; ``auto`` for what a study's preflight finds that its targets like.
        precision: What candidates and their teacher compute in while they train: ``bfloat16`` where the processor or
            the accelerator has instructions for it (AVX512-BF16, AMX, a GPU) and training is faster so; elsewhere it is
            slower. Candidates are validated, exported and trained with rounded weights in float32.
        device: Where training runs, such as ``cuda:1``; the accelerator that torch finds where left out.
    """

    epochs: Count = 4
    epochs_from_scratch: Count = 12
    epochs_inherited: Epochs | None = None
    epochs_aware: Count = 4
    epochs_supernet: Epochs = 24
    final_factor: Annotated[int, Field(ge=1, le=1_000)] = 1
    learning_rate: Rate = 8e-3
    learning_rate_baseline: Rate = 2e-3
    learning_rate_supernet: Rate = 1e-2
    batch_size: Count = 64
    temperature: Annotated[float, Field(gt=0, le=1e6)] = 4.0
    distillation_weight: Annotated[float, Field(ge=0, le=1)] = 0.7
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hint_weight: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    channel_multiple: Annotated[Count | Literal["auto"], count_or_auto(1, 4096)] = USUAL_MULTIPLE
    precision: Precision = "float32"
    device: Text | None = None

    @property
    def multiple(self) -> int:
        """Of what number channels are a multiple: the usual one where that is ``auto`` and no preflight has told."""
        return USUAL_MULTIPLE if self.channel_multiple == "auto" else self.channel_multiple

    def inherited(self, factor: int = 1) -> int:
        """Return the epochs of a network that takes its weights from a supernet, for so many times the epochs."""
        if self.epochs_inherited is None or (self.epochs_inherited == 0 and factor > 1):
            return self.epochs * factor
        return self.epochs_inherited * factor
