"""A network whose weights, and what they are multiplied with, lie on grids that are learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...data.batches import Inputs, Outputs
from ...networks.running import outputs_of
from ...prediction import EVALUATION_BATCH, evaluation_mode
from ...rounding.learned import ActivationGrid
from ...rounding.rounded_weights import RoundedWeight
from .grids import InputGrid, WeightGrid

STAGE = "aware training"

QuantizedModule = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear

Ends = tuple[float, float]
"""The least and the greatest of some values."""

CELL_MARGIN = 0.1
"""How far inside its cell of the grid, in steps, a weight begins at least: nearer to the edge, a hair would move it."""


@dataclass(frozen=True)
class InputGroup:
    """Modules that read the same, and so have one grid for it.

    Args:
        names: Of the modules.
        ends: From where to where the grid reaches at first; the extremes that calibration shows where None.
        limits: What it never reaches beyond.
    """

    names: tuple[str, ...]
    ends: Ends | None = None
    limits: Ends = (-math.inf, math.inf)


@dataclass(frozen=True)
class AwareStart:
    """Where training with rounded weights begins: at what rounding after training gives, as a file will hold it.

    Args:
        weights: By name of a module, its integers and scales, the outputs along the first axis, and its bits.
        shifts: By name of a module, what rounding takes from its mean output, to be added to its bias, float64,
            shape (outputs,).
        inputs: Modules that have a grid for what they read; none where that stays float32.
    """

    weights: Mapping[str, tuple[RoundedWeight, int]]
    shifts: Mapping[str, np.ndarray] = field(default_factory=dict)
    inputs: tuple[InputGroup, ...] = ()


class AwareNetwork(nn.Module):
    """A network on learned grids; put on it for the while of a training.

    Args:
        network: Changed in place until :meth:`bake`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.input_grids = nn.ModuleList()
        self._weight_grids: dict[str, WeightGrid] = {}
        self._grid_of_input: dict[str, InputGrid] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def forward(self, inputs: Inputs) -> Outputs:
        """Return what the network gives for a batch of inputs."""
        return self.network(inputs)

    def round_weights(self, starts: Mapping[str, tuple[RoundedWeight, int]]) -> None:
        """Put weights on their grids, where they begin with the given integers and as near to their values as can be.

        Args:
            starts: By name of a module, its integers and scales, the outputs along the first axis, and its bits.
        """
        grids: dict[Tensor, WeightGrid] = {}
        for name, (start, bits) in starts.items():
            module = module_of(self.network, name)
            weight = module.weight
            if weight not in grids:
                grids[weight] = WeightGrid(weight.detach(), torch.from_numpy(start.factors.copy()), bits)
                grids[weight].log_change.requires_grad_(weight.requires_grad)
                with torch.no_grad():
                    weight.copy_(_inside_cells(weight, start, grids[weight].limits))
            self._weight_grids[name] = grids[weight]
            parametrize.register_parametrization(module, "weight", grids[weight])

    def round_inputs(self, groups: Iterable[InputGroup], calibration: Inputs) -> None:
        """Put what modules read on grids.

        Args:
            groups: The modules; those of one group have one grid.
            calibration: Inputs of the network, shape (n, *input_shape).
        """
        groups = list(groups)
        ranges = self._ranges([name for group in groups for name in group.names], calibration)
        for group in groups:
            seen = [ranges[name] for name in group.names if name in ranges]
            if not seen:
                continue
            lowest, highest = group.ends or around(seen)
            grid = InputGrid(lowest, highest, group.limits)
            self.input_grids.append(grid)
            for name in group.names:
                self._grid_of_input[name] = grid
                self._hooks.append(module_of(self.network, name).register_forward_pre_hook(_rounding(grid)))

    def bake(self) -> tuple[dict[str, RoundedWeight], dict[str, ActivationGrid]]:
        """Take the grids off, so that plain weights on the grid are left, and return what they were by module name."""
        for hook in self._hooks:
            hook.remove()
        rounded, parameters = {}, {}
        for name, grid in self._weight_grids.items():
            module = module_of(self.network, name)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            parameters[name] = module.weight
            rounded[name] = _rounded(module.weight.detach(), grid)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(rounded[name].values))
        return rounded, {name: grid.grid for name, grid in self._grid_of_input.items()}

    def _ranges(self, names: list[str], calibration: Inputs) -> dict[str, Ends]:
        ranges: dict[str, Ends] = {}

        def watch(name: str) -> None:
            def look(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                if arguments:
                    low, high = ranges.get(name, (0.0, 0.0))
                    ranges[name] = min(low, float(arguments[0].min())), max(high, float(arguments[0].max()))

            hooks.append(module_of(self.network, name).register_forward_pre_hook(look))

        hooks: list[torch.utils.hooks.RemovableHandle] = []
        for name in names:
            watch(name)
        with evaluation_mode(self.network):
            for start in range(0, len(calibration), EVALUATION_BATCH):
                outputs_of(self.network, calibration[start : start + EVALUATION_BATCH])
        for hook in hooks:
            hook.remove()
        return ranges


def around(several: Iterable[Ends]) -> Ends:
    """Return the ends of the narrowest range that holds all of the given ones, at least one."""
    lowest, highest = zip(*several, strict=True)
    return min(lowest), max(highest)


def quantizable_modules(network: nn.Module) -> dict[str, QuantizedModule]:
    """Return by name the layers that own their float32 weight, or share it with none but such.

    Layers are convolutions and linear layers. A weight that something else reads as well, such as an embedding, must
    not be rounded for it; one that is computed from others cannot be set.
    """
    owners: dict[nn.Parameter, list[nn.Module]] = {}
    for module in network.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(parameter, []).append(module)
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, QuantizedModule)
        and (weight := module._parameters.get("weight")) is not None
        and weight.dtype == torch.float32
        and all(isinstance(owner, QuantizedModule) and owner.weight is weight for owner in owners[weight])
    }


def module_of(network: nn.Module, name: str) -> QuantizedModule:
    """Return a convolution or linear layer by its name."""
    module = network.get_submodule(name)
    assert isinstance(module, QuantizedModule)
    return module


def _rounding(grid: InputGrid) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
    def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (grid(arguments[0]), *arguments[1:]) if arguments else None

    return hook


def _inside_cells(weight: Tensor, start: RoundedWeight, limits: tuple[int, int]) -> Tensor:
    """Return weights that round to the given integers; those behind the ends of the grid stay."""
    integers = torch.from_numpy(start.integers).to(torch.float32)
    reach = 0.5 - CELL_MARGIN
    lowest = torch.where(integers == limits[0], -torch.inf, integers - reach)
    highest = torch.where(integers == limits[1], torch.inf, integers + reach)
    factors = torch.from_numpy(start.factors.copy())
    return weight.clamp(lowest * factors, highest * factors)


def _rounded(weight: Tensor, grid: WeightGrid) -> RoundedWeight:
    with torch.no_grad():
        integers = np.ascontiguousarray(grid.integers(weight).numpy())
        scales = grid.steps.numpy().reshape(-1).copy()
    return RoundedWeight(integers, scales, 0 if len(scales) == len(weight) else None)
