"""A made-up world for the benchmarks of the search: every candidate's size, latency and accuracy in closed form.

The space is that of the bundled study ``fashion`` (bits, their allocation, channels, zeros, students, cells), with
cells of three nodes instead of four, so that it can be enumerated. The model of a candidate is as plain as it can be
while it keeps what was measured on real files:

- size: every layer's weights at their bits, or a mask and the weights that are not zero where that is less; a little
  for each layer, and more for one that is unpacked;
- latency: every layer's multiplications at a rate that falls with few channels, and a little for each layer; 8-bit
  activations gain up to 3.5x, nothing below about ten channels, and less than nothing below that; neither bits of the
  weights nor zeros gain anything;
- accuracy: the baseline's 93 %, less what the architecture, the channels, the zeros and the bits cost. They interact:
  few bits cost more where many weights are zero, where few weights are left, and where convolutions are depthwise.
  Each trained network is a little better or worse than its kind (0.15 points), as training makes it.

Noise as it was measured: latency 2 % (a normal factor), accuracy binomial over 5,000 validation images. A candidate
measured again under the same seed gives the same numbers, as a cached outcome does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from karui.evaluators.measurement import Measurement
from karui.search.objectives import OBJECTIVES, Objective, with_bounds
from karui.search.record import Outcome
from karui.search.statistics.front import hypervolume
from karui.search.stopping.pruning_rules import PruningRules
from karui.spaces.artifact import StageRecord
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.axes.students.axis import StudentsAxis
from karui.spaces.axes.students.choice import Student
from karui.spaces.candidate import FLOAT_BITS, Baseline, Candidate, network_of
from karui.spaces.space import SearchSpace, problem_of

SPACE = SearchSpace(
    students=StudentsAxis(
        families=("shallower", "mobilenet_v2", "shufflenet_v2"), widths=(0.25, 0.5, 0.75), depths=(0.34, 0.67, 1.0)
    ),
    cells=CellsAxis(nodes=3),
    sparsity=SparsityAxis(zeroing=("gradual", "one_shot")),
    bits=BitsAxis(allocations=("uniform", "budget")),
)
NAMES = tuple(objective.name for objective in OBJECTIVES)
BOUNDED: tuple[Objective, ...] = with_bounds({"accuracy": 0.85})
"""The objectives with the bound of the study ``fashion``."""

VALIDATION_IMAGES = 5000
LATENCY_NOISE = 0.02
BEST_ACCURACY = 0.93
CHANCE_ACCURACY = 0.1
TRAINING_LUCK = 0.0015
SIDES = (28, 14, 7)
FAMILIES = {"mobilenet_v2": (1.1e6, 9e6, 40, 48), "shufflenet_v2": (0.9e6, 6e6, 32, 36)}
"""Weights, multiplications, channels of a typical layer, and layers, at full width."""

FAMILY_LOSS = {"mobilenet_v2": 0.004, "shufflenet_v2": 0.008}
EDGE_GAIN = {"conv3x3": 1.0, "separable3x3": 0.75, "conv1x1": 0.45, "skip": 0.2, "avgpool3x3": 0.15, "none": 0.0}
BITS_LOSS = {2: 0.03, 3: 0.008, 4: 0.002, 7: 0.0003, 8: 0.0002, FLOAT_BITS: 0.0}
BUDGET_SHARE = {2: 0.6, 3: 0.5, 4: 0.7}
"""What is left of the loss of few bits where they are spread as a budget."""


@dataclass(frozen=True)
class Layers:
    """Equal layers: how many, and weights, multiplications and channels of each."""

    count: int
    weights: float
    multiplications: float
    channels: float


@cache
def layers_of(network: Candidate) -> tuple[Layers, ...]:
    """Return the layers of a candidate's network."""
    architecture = network.architecture
    if isinstance(architecture, Baseline):
        return _residual(1.0 - network.removed_channels, 1.0)
    if isinstance(architecture, CellNetwork):
        return tuple(_cells(architecture))
    if isinstance(architecture, Student):
        if architecture.family not in FAMILIES:
            return _residual(architecture.width, architecture.depth)
        weights, multiplications, channels, count = FAMILIES[architecture.family]
        scale = architecture.width**2 / count
        return (Layers(count, weights * scale, multiplications * scale, channels * architecture.width),)
    raise ValueError(f"{architecture} is not of this world")


def _residual(width: float, depth: float) -> tuple[Layers, ...]:
    found = []
    for side, full in zip(SIDES, (16, 32, 64), strict=True):
        channels = max(4, 4 * round(full * width / 4))
        found.append(Layers(2 * max(1, round(3 * depth)), 9.0 * channels**2, 9.0 * (channels * side) ** 2, channels))
    return tuple(found)


def _cells(architecture: CellNetwork) -> Iterator[Layers]:
    for stage, side in enumerate(SIDES):
        channels = architecture.channels * 2**stage
        if stage:
            yield Layers(1, 4.5 * channels**2, 4.5 * (channels * side) ** 2, channels)
        for _, _, operation in architecture.genotype.edges:
            weights = {
                "conv3x3": 9.0 * channels**2, "conv1x1": 1.0 * channels**2, "separable3x3": channels**2 + 9.0 * channels
            }.get(operation, 0.0)  # fmt: skip
            multiplications = weights * side**2 if weights else 9.0 * channels * side**2 * (operation == "avgpool3x3")
            if multiplications:
                yield Layers(architecture.cells_per_stage, weights, multiplications, channels)


def size_bytes(candidate: Candidate, layers: tuple[Layers, ...]) -> float:
    """Return the bytes of a candidate's file."""
    bits = candidate.weight_bits
    dense = bits / 8
    if candidate.zeroed_weights:
        dense = min(dense, 1 / 8 + (1 - candidate.zeroed_weights) * bits / 8)
    unpacked = dense < (4.0 if bits == FLOAT_BITS else 1.0)
    return 4000.0 + math.fsum(each.count * (250 + 400 * unpacked + each.weights * dense) for each in layers)


def latency_ms(candidate: Candidate, layers: tuple[Layers, ...]) -> float:
    """Return the milliseconds of one inference."""
    total = 0.01
    for each in layers:
        rate = 8e6 * each.channels / (each.channels + 8)  # multiplications a millisecond
        gain, fixed = 1.0, 0.004
        if candidate.activation_bits != FLOAT_BITS:
            gain, fixed = 3.5 * each.channels / (each.channels + 24), 0.006
        total += each.count * (fixed + each.multiplications / rate / gain)
    return total


def accuracy(candidate: Candidate, layers: tuple[Layers, ...]) -> float:
    """Return the accuracy that endless validation images would show."""
    weights = math.fsum(each.count * each.weights for each in layers)
    depthwise = _is_depthwise(candidate)
    fragile = (1e5 / max(weights, 1e3)) ** 0.25 * (1.6 if depthwise else 1.0)
    zeros = candidate.zeroed_weights
    zeros_loss = 0.012 * zeros**3 * fragile * (2.5 if candidate.zeroing == "one_shot" else 1.0)
    bits_loss = BITS_LOSS[int(candidate.weight_bits)] * fragile * (1 + zeros)
    if candidate.bit_allocation == "budget":
        bits_loss *= BUDGET_SHARE.get(int(candidate.weight_bits), 1.0)
    if candidate.activation_bits != FLOAT_BITS:
        bits_loss += 0.004 if depthwise else 0.001
    loss = _architecture_loss(candidate, weights) + zeros_loss + bits_loss + 10 * zeros_loss * bits_loss
    loss -= TRAINING_LUCK * _luck(network_of(candidate))
    room = BEST_ACCURACY - CHANCE_ACCURACY
    return CHANCE_ACCURACY + room * math.exp(-max(loss, -0.01) / room)


def _is_depthwise(candidate: Candidate) -> bool:
    architecture = candidate.architecture
    if isinstance(architecture, CellNetwork):
        return any(operation == "separable3x3" for *_, operation in architecture.genotype.edges)
    return isinstance(architecture, Student) and architecture.family in FAMILIES


def _architecture_loss(candidate: Candidate, weights: float) -> float:
    architecture = candidate.architecture
    if isinstance(architecture, Student):
        narrow, shallow = 1 - architecture.width, 1 - architecture.depth
        fixed = FAMILY_LOSS.get(architecture.family, 0.002)
        return fixed + 0.05 * narrow**2 + 0.03 * shallow + 0.03 * narrow * shallow
    if isinstance(architecture, CellNetwork):
        gain = math.fsum(EDGE_GAIN[operation] for *_, operation in architecture.genotype.edges)
        blind = not any(operation.endswith("conv3x3") or operation == "separable3x3"
                        for *_, operation in architecture.genotype.edges)  # fmt: skip
        few = (2e4 / max(weights, 1e3)) ** 0.5
        repeated = architecture.cells_per_stage**0.3
        return float(0.012 + 0.02 * math.exp(-gain) + 0.018 * few / repeated + 0.08 * blind)
    return 0.05 * candidate.removed_channels**2


@cache
def _luck(network: Candidate) -> float:
    return float(_randomness(f"network {network.key}").standard_normal()) if network != Candidate() else 0.0


def _randomness(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def true_values(candidate: Candidate) -> tuple[float, float, float]:
    """Return size, latency and accuracy without noise."""
    layers = layers_of(network_of(candidate))
    return size_bytes(candidate, layers), latency_ms(candidate, layers), accuracy(candidate, layers)


BASELINE = dict(zip(NAMES, true_values(Candidate()), strict=True))


@dataclass
class World:
    """Makes and measures candidates; gives the same numbers for the same seed.

    Args:
        seed: Seed of the noise.
    """

    seed: int
    found: list[tuple[float, float, float]] = field(default_factory=list)
    """The true values of the candidates evaluated, in their order."""
    trained: list[int] = field(default_factory=list)
    """How many networks had been trained after each."""
    _networks: set[Candidate] = field(default_factory=lambda: {Candidate()})

    def __call__(self, candidate: Candidate, gates: PruningRules | None = None, /) -> Outcome:
        """Return the noisy outcome of a candidate; its network is trained where it is new."""
        values = true_values(candidate)
        network = network_of(candidate)
        stages = () if network in self._networks else (StageRecord("recovery", 1.0, cached=False),)
        self._networks.add(network)
        self.found.append(values)
        self.trained.append(len(self._networks) - 1)
        chance = _randomness(f"{self.seed} {candidate.key}")
        noisy = (
            values[0],
            values[1] * (1 + LATENCY_NOISE * chance.standard_normal()),
            chance.binomial(VALIDATION_IMAGES, values[2]) / VALIDATION_IMAGES,
        )
        return Outcome(
            {item.name: Measurement(item.name, float(value), item.unit)
             for item, value in zip(OBJECTIVES, noisy, strict=True)},
            digest=candidate.key,
            stages=stages,
        )  # fmt: skip


def every_candidate() -> list[Candidate]:
    """Return every candidate of the space that can be made, each once."""
    found = {candidate.canonical(): None for _, candidate in SPACE.points()}
    return [candidate for candidate in found if problem_of(candidate) is None]


def hypervolume_of(points: NDArray[np.float64]) -> float:
    """Return the hypervolume of points of shape (n, 3) against the baseline."""
    return hypervolume(points, tuple(BASELINE.values()))


def share_of(points: NDArray[np.float64], whole: float) -> float:
    """Return the hypervolume of points of shape (n, 3) as a share of that of the whole front."""
    return hypervolume_of(points) / whole
