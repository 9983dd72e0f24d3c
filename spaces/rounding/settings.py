"""How a study quantizes: what is the same for all of its candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..section import Section

Rounding = Literal["nearest", "feedback"]
Granularity = Literal["channel", "tensor"]
OperatorKind = Literal[
    "convolution", "pointwise", "thin", "depthwise", "linear", "attention", "elementwise", "functions", "pooling",
    "moves",
]  # fmt: skip
"""``thin`` are convolutions of few channels, ``pointwise`` others of 1 x 1; ``linear`` are products with a weight,
``attention`` products of two computed tensors, ``moves`` what only moves values."""

ActivationRule = Literal["minmax", "percentile", "mse", "entropy"]
ActivationRanges = Literal["auto", ActivationRule]
OnOff = Literal["on", "off"]


class QuantizationSettings(Section):
    """How weights and activations are rounded, whatever their bits.

    Args:
        rounding: ``nearest``, or ``feedback`` to round each layer so that its outputs on the calibration inputs change
            least: the weights that are still to be rounded make good the errors of those before them (OBQ and GPTQ).
        bias_correction: With ``feedback``, add to the biases what rounding takes from the layers' mean outputs, and
            move the statistics of normalization that could not be folded as their inputs move.
        granularity: One scale per output ``channel`` of a weight, or one per ``tensor``.
        activation_ranges: How the ranges of 8-bit activations follow from the calibration inputs: their extremes, the
            99.99th percentile, least squared error, or least entropy lost; ``auto`` for whichever of these changes the
            outputs of the rounded network least, file by file.
        calibration_samples: Inputs from which ranges of activations are taken, and which error feedback sees.
        sensitivity_samples: Of these, on how many outputs are compared: for a layer's sensitivity to few bits, and for
            ``auto`` ranges.
        float_operators: Kinds of operators that stay float32 beside 8-bit activations, their weights of few bits all
            the same; ``auto`` for those that a study's preflight finds to be faster so on its target.
    """

    rounding: Rounding = "feedback"
    bias_correction: OnOff = "on"
    granularity: Granularity = "channel"
    activation_ranges: ActivationRanges = "auto"
    calibration_samples: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    sensitivity_samples: Annotated[int, Field(ge=1, le=10_000_000)] = 64
    float_operators: tuple[OperatorKind, ...] | Literal["auto"] = "auto"

    @property
    def float_kinds(self) -> tuple[OperatorKind, ...]:
        """The kinds of operators that stay float32: none where that is ``auto`` and no preflight has told."""
        return () if self.float_operators == "auto" else self.float_operators
