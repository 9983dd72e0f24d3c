"""The words by which a study says how many bits there are; without numpy, so that reading a study stays quick."""

from __future__ import annotations

from typing import Literal

FLOAT_BITS = 32
"""The bit-width that stands for "left in float32"."""

HALF_BITS = 16
"""The bit-width that stands for weights stored as float16, which compute as float32."""

FLOATING_BITS = (HALF_BITS, FLOAT_BITS)
"""Bit-widths of weights that stay floating: nothing is rounded to integers."""

FEWEST_BITS = 2
MOST_BITS = 8
"""Bits of weights that are integers."""

MOST_BITS_BESIDE_INT8 = 7
"""Most bits of a weight beside 8-bit activations, so that every processor computes the same.

Without VNNI instructions, x86 adds two products of uint8 and int8 in 16 bits, saturating: 255 * (64 + 64) fits,
255 * (127 + 127) does not. Weights of 8 bits made a small network's outputs wrong by 20 %, those of 7 bits by 3 %
and exactly as the float computation of the same graph."""

BitAllocation = Literal["uniform", "budget", "groups"]
"""How bits are spread over the layers; see :class:`~karui.spaces.axes.bits.axis.BitsAxis`."""

BitTraining = Literal["post", "aware"]
"""Whether weights are rounded after training, or training goes on with rounded weights."""
