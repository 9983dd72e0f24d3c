"""What 8 bits do not hold, found by computing it: operators and tensors that stay float32."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import onnx

from .insertion import PRODUCTS, Spared
from .operator_kinds import LAYER_KINDS, kinds_of_nodes
from .rounded_file_check import LEAST_WHOLE_DB, spare_for_outputs, worst_output
from .rounding_noise import Noise, noise_by_channel, noise_of
from .segments import Segments, on_grid, origin_of, piece_before, run_piece, segments_of, with_origins

LEAST_DB = 18.0
"""Least signal to noise of what one operator gives, all it reads being that of the float32 network, rounded.

Of the bounds tried the least that mends a mask of -100 and an exponential; a trained ResNet-20 is left alone by it, and
by higher ones too, which spare ten times as much of a MobileNetV2 (benchmarks/results/sparing.md). Of 921 tensors of
six networks with random weights the worst had 24.5 dB; scores beside boxes in pixels have -32 dB, the logarithm of what
comes near zero 15."""

LEAST_OUTPUT_DB = 22.0
"""The same for each channel of the network's outputs: behind these nothing averages errors out."""

_MOST_ROUNDS = 16

COARSE = "steps of 8 bits are too coarse for what they read or give"
KERNEL = "the runtime's int8 kernel, or its rounding of a constant, is wrong"
OUTPUTS = "the network's outputs lose too much by their rounding"
BETWEEN = "the network's outputs lose too much where more than the layers with weights computes in int8"

_WORTH_DB = 3.0
"""What the outputs must gain at least where all between the layers becomes float32: half of the error."""

Insert = Callable[[Spared], onnx.ModelProto]
"""Returns the QDQ model in which so much stays float32."""


@dataclass(frozen=True)
class SparedFile:
    """A QDQ model that computes what its float32 network does, as far as 8 bits can.

    Args:
        model: The model.
        spared: What stays float32.
        reasons: Why, by the name of the tensor or the operator.
        worst_output_db: Signal to noise of the worst channel of the network's outputs, in dB.
    """

    model: onnx.ModelProto
    spared: Spared
    reasons: Mapping[str, str]
    worst_output_db: float


@dataclass
class _Search:
    """The search for what has to stay float32.

    Args:
        network: The float32 network with its rounded weights.
        tensors: What its tensors hold on some inputs.
        trained: Tensors whose grids training has found; it has seen what they lose.
        reasons: Found so far.
    """

    network: onnx.ModelProto
    tensors: Mapping[str, np.ndarray]
    trained: Set[str]
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._outputs = {value.name for value in self.network.graph.output}

    def run(self, insert: Insert, spared: Spared) -> SparedFile:
        """Round the network, sparing more and more until it computes right or nothing helps."""
        for _round in range(_MOST_ROUNDS):
            model = insert(spared)
            segments = segments_of(model)
            more = self.operators(segments) if segments.grids else Spared()
            if more | spared == spared and segments.grids:
                more = self.whole(model, segments)
            if more | spared == spared:
                break
            spared |= more
        return SparedFile(model, spared, self.reasons, worst_output(model, self.tensors).worst_db)

    def operators(self, segments: Segments) -> Spared:
        """Return what has to be spared for single operators to give what they should."""
        more = Spared()
        for name, answer in segments.run(self.tensors).items():
            if self._noise(name, answer) < self._least(name):
                found, reason = self._cause(segments, name, more)
                self.reasons |= dict.fromkeys((*found.tensors, *found.nodes), reason)
                more |= found
        return more

    def whole(self, model: onnx.ModelProto, segments: Segments) -> Spared:
        """Return what has to be spared for the network's outputs."""
        own = {name: grid for name, grid in segments.grids.items() if name not in self.trained}
        origins = {name: origin_of(self.network, name, segments.grids) for name in own}
        tensors = spare_for_outputs(self.network, model, {name: own[name] for name in own if origins[name] == name},
                                    self.tensors)  # fmt: skip
        found = Spared(tensors=tensors | {name for name in own if origins[name] in tensors})
        self.reasons |= dict.fromkeys(found.tensors, OUTPUTS)
        return found

    def _least(self, name: str) -> float:
        return LEAST_OUTPUT_DB if name in self._outputs else LEAST_DB

    def _noise(self, name: str, answer: np.ndarray) -> float:
        measure: Callable[[np.ndarray, np.ndarray], Noise]
        measure = noise_by_channel if name in self._outputs else noise_of
        return measure(self.tensors[name], answer).worst_db

    def _cause(self, segments: Segments, name: str, known: Spared) -> tuple[Spared, str]:
        """Return what to spare so that a tensor comes out right, nothing where that is seen better afterwards."""
        grid, least = segments.grids.get(name), self._least(name)
        coarse = grid is not None and self._noise(name, on_grid(self.tensors[name], grid)) < least
        if coarse and name not in self.trained:
            found = with_origins(self.network, name)
            return (Spared() if found & known.tensors else Spared(found)), COARSE
        piece = piece_before(self.network, name, segments.grids)
        if not piece.nodes or known.tensors.intersection((*piece.inputs, name)):
            return Spared(), COARSE
        rounded = {each: on_grid(self.tensors[each], segments.grids[each]) for each in piece.inputs
                   if each in segments.grids}  # fmt: skip
        together = run_piece(self.network, piece, {**self.tensors, **rounded})
        if self._noise(name, together if grid is None else on_grid(together, grid)) >= least:
            return Spared(nodes=frozenset(piece.nodes)), KERNEL
        alone = {each: run_piece(self.network, piece, {**self.tensors, each: rounded[each]}) for each in rounded}
        ratios = {each: self._noise(name, answer) for each, answer in alone.items() if each not in self.trained}
        worst = min(ratios.values(), default=0.0)
        blamed = [with_origins(self.network, each) for each, ratio in ratios.items() if ratio < least or ratio == worst]
        return Spared(frozenset().union(*blamed)), COARSE


def spare(
    network: onnx.ModelProto,
    insert: Insert,
    start: Spared,
    tensors: Mapping[str, np.ndarray],
    *,
    trained: Set[str] = frozenset(),
) -> SparedFile:
    """Round a network as far as it computes right, one operator at a time and as a whole.

    First every operator is run alone, as the runtime fuses it, on the float32 network's own tensors: so an error is
    that of this operator, of its grid or of those of what it reads. Once all are right, the whole file is run, and
    where its outputs lose too much, the tensors whose rounding costs them most lose their grids. Where that does not
    help, since the error is everywhere, only what layers with weights read is rounded, if that helps.

    Args:
        network: The float32 network with its rounded weights, its nodes named.
        insert: Rounds the network's tensors.
        start: What stays float32 in any case.
        tensors: What the network's tensors hold on some inputs: its inputs, its outputs, and all that may be rounded.
        trained: Tensors whose grids training has found.
    """
    search = _Search(network, tensors, trained)
    file = search.run(insert, start)
    if file.worst_output_db >= LEAST_WHOLE_DB:
        return file
    search = _Search(network, tensors, trained)
    between = between_layers(network, tensors)
    search.reasons |= dict.fromkeys((*between.nodes, *between.tensors), BETWEEN)
    alone = search.run(insert, start | between)
    return alone if alone.worst_output_db >= file.worst_output_db + _WORTH_DB else file


def between_layers(network: onnx.ModelProto, tensors: Container[str]) -> Spared:
    """Return all that may be spared but for the layers with weights: these still read 8 bits.

    A matrix product gives float32 then, where no other layer reads what it gives.

    Args:
        network: The float32 network, its nodes named.
        tensors: Names of those that may be rounded.
    """
    kinds = kinds_of_nodes(network)
    layers = {name for name, kind in kinds.items() if kind in LAYER_KINDS}
    others = {node.name for node in network.graph.node if node.output[0] in tensors and node.name in kinds}
    read = {name for node in network.graph.node if node.name in layers for name in node.input}
    given = [node.output[0] for node in network.graph.node if node.name in layers and node.op_type in PRODUCTS]
    return Spared(frozenset(given) - read, frozenset(others - layers))
