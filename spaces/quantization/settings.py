"""How a study quantizes: what is the same for all of its candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..axis import AxisModel

Rounding = Literal["nearest", "feedback"]
Granularity = Literal["channel", "tensor"]
ActivationRanges = Literal["minmax", "percentile", "entropy", "mse"]
OnOff = Literal["on", "off"]


class QuantizationSettings(AxisModel):
    """How weights and activations are rounded, whatever their bits.

    Args:
        rounding: ``nearest``, or ``feedback`` to round each layer so that its outputs on the calibration inputs change
            least: the weights that are still to be rounded make good the errors of those before them (OBQ and GPTQ).
        bias_correction: With ``feedback``, add to the biases what rounding takes from the layers' mean outputs, and
            move the statistics of normalization that could not be folded as their inputs move.
        granularity: One scale per output ``channel`` of a weight, or one per ``tensor``.
        activation_ranges: How the ranges of 8-bit activations follow from the calibration inputs: their extremes, the
            99.99th percentile, least entropy lost, or least squared error.
        calibration_samples: Inputs from which ranges of activations are taken, and which error feedback sees.
        sensitivity_samples: Of these, how many a layer's sensitivity to few bits is measured on.
    """

    rounding: Rounding = "feedback"
    bias_correction: OnOff = "on"
    granularity: Granularity = "channel"
    activation_ranges: ActivationRanges = "minmax"
    calibration_samples: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    sensitivity_samples: Annotated[int, Field(ge=1, le=10_000_000)] = 64
