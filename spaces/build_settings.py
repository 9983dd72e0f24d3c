"""How candidates are made: what is the same for all of a study's candidates."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .axis import AxisModel
from .quantization.axis import Rounding

Count = Annotated[int, Field(ge=1)]


class BuildSettings(AxisModel):
    """Training and calibration that every candidate of a study gets.

    Args:
        epochs: Epochs of recovery for networks that start from the baseline's weights.
        epochs_from_scratch: Epochs for networks that start from random weights.
        learning_rate: Peak of the one-cycle schedule.
        batch_size: Samples per training step.
        temperature: Softens the logits of teacher and student (Hinton et al. 2015).
        distillation_weight: Share of the distillation loss in [0, 1]; the rest is the task's own loss.
        channel_multiple: Channel counts that are left are rounded to a multiple of this, since kernels are fast at
            counts that fill their vectors.
        calibration_samples: Inputs from which ranges of activations are taken, and which error feedback sees.
        rounding: How weights are rounded to their bits: ``nearest``, or ``feedback`` to let the weights that are still
            to be rounded make good the errors of those before them (OBQ and GPTQ).
        device: Where training runs, such as ``cuda:1``; the accelerator that torch finds where left out.
    """

    epochs: Count = 4
    epochs_from_scratch: Count = 12
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    batch_size: Count = 64
    temperature: Annotated[float, Field(gt=0)] = 4.0
    distillation_weight: Annotated[float, Field(ge=0, le=1)] = 0.7
    channel_multiple: Count = 8
    calibration_samples: Count = 256
    rounding: Rounding = "feedback"
    device: str | None = None
