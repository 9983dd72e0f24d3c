"""Grids that are learned while a network trains on them: learned step size quantization, as modules of torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...rounding.learned import LARGEST_UINT8, ActivationGrid
from ...rounding.scales import grid_limits


class _RoundToGrid(torch.autograd.Function):
    """Round values to multiples of a step within limits.

    Backwards as in LSQ (Esser et al., "Learned step size quantization", ICLR 2020, equations 3 and 5): rounding passes
    gradients on, clipping stops them, and the step is told how far rounding moved each value.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: Tensor, lowest: int, highest: int) -> Tensor:
        ctx.save_for_backward(values, steps)
        ctx.limits = lowest, highest
        return _integers(values, steps, lowest, highest) * steps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, steps = ctx.saved_tensors
        lowest, highest = ctx.limits
        scaled = values / steps
        inside = (scaled >= lowest) & (scaled <= highest)
        rounded = _integers(values, steps, lowest, highest)
        slopes = torch.where(inside, rounded - scaled, rounded)
        # section 2.2: so scaled, the step's updates are as large for its size as those of the weights for theirs
        share = 1.0 / math.sqrt(max(1, values.numel() // steps.numel()) * max(1, highest))
        return gradient * inside, (gradient * slopes).sum_to_size(steps.shape) * share, None, None


def _integers(values: Tensor, steps: Tensor, lowest: int, highest: int) -> Tensor:
    return (values / steps).round_().clamp_(lowest, highest)


class _LearnedSteps(nn.Module):
    """Steps of a grid, learned as the logarithm of their change, so that they stay above 0 at any learning rate.

    An optimizer like Adam moves every number by about the learning rate, whatever its size, and steps are small
    (Jain et al., "Trained quantization thresholds", MLSys 2020, appendix B).
    """

    start: Tensor

    def __init__(self, start: Tensor, *, most: float = math.inf) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.log_change = nn.Parameter(torch.zeros_like(start))
        self._most = most

    @property
    def steps(self) -> Tensor:
        """The steps, none larger than the most that it may be."""
        steps = self.start * self.log_change.exp()
        return steps if math.isinf(self._most) else steps.clamp(max=self._most)


class WeightGrid(_LearnedSteps):
    """The signed grid of one weight, to be registered as its parametrization; weights of zero stay zero.

    Args:
        weight: What it begins with.
        factors: The steps it begins with, in a shape that broadcasts against the weight.
        bits: 2 to 8.
    """

    alive: Tensor

    def __init__(self, weight: Tensor, factors: Tensor, bits: int) -> None:
        super().__init__(factors)
        self.limits = grid_limits(bits)
        self.register_buffer("alive", weight != 0)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight rounded to the grid."""
        rounded: Tensor = _RoundToGrid.apply(weight * self.alive, self.steps, *self.limits)
        return rounded

    def integers(self, weight: Tensor) -> Tensor:
        """Return what the rounded weight consists of, int8."""
        return _integers(weight * self.alive, self.steps, *self.limits).to(torch.int8)


class InputGrid(_LearnedSteps):
    """The unsigned 8-bit grid of what layers read. Its step is learned, its zero stays where calibration put it.

    Args:
        lowest: Where the grid begins, such as the smallest value seen in calibration.
        highest: Where it ends.
        limits: What it never reaches beyond: where a Clip makes the inputs, its file has no other trace of its limits
            than the ends of this grid.
    """

    def __init__(self, lowest: float, highest: float, limits: tuple[float, float] = (-math.inf, math.inf)) -> None:
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        step = max((highest - lowest) / LARGEST_UINT8, torch.finfo(torch.float32).tiny)
        zero_point = round(-lowest / step)
        above, below = LARGEST_UINT8 - zero_point, zero_point
        most = min(
            limits[1] / above if above else math.inf,
            -limits[0] / below if below else math.inf,
        )
        super().__init__(torch.tensor(step), most=max(most, step))
        self._most_change = math.log(self._most / step)
        self.zero_point = zero_point

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs rounded to the grid."""
        self._stay_within()
        limits = -self.zero_point, LARGEST_UINT8 - self.zero_point
        rounded: Tensor = _RoundToGrid.apply(inputs, self.steps, *limits)
        return rounded

    def _stay_within(self) -> None:
        """Bring the change back to what the limits allow; beyond, it would have no gradient that led it back."""
        with torch.no_grad():
            self.log_change.clamp_(max=self._most_change)

    @property
    def grid(self) -> ActivationGrid:
        """The grid as data."""
        return ActivationGrid(scale=float(self.steps.detach()), zero_point=self.zero_point)
