"""One float32 ONNX file in, one with weights of few bits out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from .....errors import CandidateFailure
from ....bit_names import MOST_BITS
from ....notes import Note, untold
from ....rounding.bit_choice import BitChoice
from ....rounding.joint_zeroing import Zeroing
from ....rounding.layers import Layer
from ....rounding.learned import LearnedGrids
from ....rounding.settings import QuantizationSettings
from ...format import QuantizationCoverage
from ..onnx_file import Arrays, copy_of, feeds_for, open_session, read_model, write_model
from .apart import bits_apart, round_apart, store_apart, weights_apart
from .bias_correction import correct_biases
from .graph_rounding import replace_weights, round_layers, spread_over_layers, zero_layers
from .lost_weights import leave_lost, lost_weights
from .preparation import RUNTIME_ERRORS, STAGE, check_calibration, prepare, prepare_layers
from .range_choice import outputs_of
from .static import has_int8_kernel, quantize_weights_and_activations
from .unfolded_normalization import copy_if_normalized, correct_normalization
from .weight_layers import LAYER_OPERATORS, OTHER_OPERATORS, find_layers
from .weight_only import quantize_weights

_PROBES = 2
_MOST_NAMED = 4


def quantize(
    source: Path,
    destination: Path,
    choice: BitChoice,
    *,
    calibration: Arrays,
    settings: QuantizationSettings | None = None,
    learned: LearnedGrids | None = None,
    sensitivity: Path | None = None,
    zeroing: Zeroing | None = None,
    note: Note = untold,
    checked: bool = True,
) -> QuantizationCoverage:
    """Quantize a float32 ONNX file; weights of zero stay zero.

    Args:
        source: Float32 file with one input, its batch axis free.
        destination: Where the result goes; it is written whole or not at all.
        choice: The bits.
        calibration: Inputs from which the ranges of activations are taken, float32, shape (n, *input_shape), n >= 1.
        settings: How weights and activations are rounded.
        learned: Grids that training has found; these weights and activations take them as they are.
        sensitivity: Where the table that a budget of bits is spread by is kept for the next time; one table serves all
            budgets of a float32 file. None to keep it nowhere.
        zeroing: Weights to zero in the same pass, the others making good for them.
        note: Is told what was left float32, and why.
        checked: Whether, beside 8-bit activations, every operator is compared with float32 and left so where it is
            wrong; untrained proxies that are only timed go without, which may take ten times as long as all else.

    Raises:
        CandidateFailure: Where onnx or onnxruntime rejects the graph, nothing can be quantized, or the result
            computes a non-finite value.
        ValueError: Where the calibration inputs have no meaning.
    """
    settings = settings or QuantizationSettings()
    check_calibration(calibration)
    model = read_model(source, STAGE)
    layers = prepare(model)
    learned = (learned or LearnedGrids()).of_weights({tensor.name for tensor in model.graph.initializer})
    inputs = calibration
    with_activations = choice.activation_bits == MOST_BITS
    reached = _covered(model, layers, choice.activation_bits)
    if zeroing is not None and not layers:
        raise CandidateFailure(STAGE, "weights can be zeroed in none of the layers: all are of other kinds")
    reach = _coverage(model, layers, reached, choice.activation_bits)
    try:
        given = set(learned.weights)
        bits = spread_over_layers(model, layers, reached, choice, inputs, settings, sensitivity, given)
        before = copy_if_normalized(model, settings)
        apart = round_apart(model, layers, bits_apart(choice), choice.most_bits, settings)
        model = _quantize(
            model, before, reached, bits, inputs, settings, learned, zeroing, with_activations, note, checked
        )
        store_apart(model, apart)
        _check_result(model, inputs[:_PROBES])
    except RUNTIME_ERRORS as error:
        raise CandidateFailure(STAGE, f"{type(error).__name__}: {error}") from error
    write_model(model, destination, STAGE)
    others = reach.quantized_layers - len(reached)
    return replace(reach, quantized_layers=others + len(layers) - len(find_layers(model)))


def quantization_coverage(source: Path, activation_bits: int) -> QuantizationCoverage:
    """Return which layers of a float32 ONNX file would be quantized, and which not and why.

    Args:
        source: As for :func:`quantize`.
        activation_bits: 8 or 32; beside 8, layers need an int8 kernel.

    Raises:
        CandidateFailure: Where nothing can be quantized.
    """
    model = read_model(source, STAGE)
    layers = prepare(model)
    reached = _covered(model, layers, activation_bits)
    return _coverage(model, layers, reached, activation_bits)


def zero_weights(
    source: Path,
    destination: Path,
    zeroing: Zeroing,
    *,
    calibration: Arrays,
    settings: QuantizationSettings | None = None,
) -> None:
    """Zero weights of a float32 ONNX file that stays float32, the other weights making good for them.

    Args:
        source: As for :func:`quantize`, and so are ``destination`` and ``calibration``.
        destination: Where the result goes.
        zeroing: How many weights, and where.
        calibration: float32, shape (n, *input_shape).
        settings: Whether anything is made good, and biases corrected.

    Raises:
        CandidateFailure: As :func:`quantize` does.
        ValueError: Where the calibration inputs have no meaning.
    """
    settings = settings or QuantizationSettings()
    check_calibration(calibration)
    model = read_model(source, STAGE)
    layers = prepare_layers(model, source.name)
    inputs = calibration
    try:
        before = copy_if_normalized(model, settings)
        shifts = zero_layers(model, layers, zeroing=zeroing, settings=settings, calibration=inputs)
        if settings.bias_correction == "on":
            correct_biases(model, shifts)
        if before is not None:
            correct_normalization(model, model, before, inputs)
        _check_result(model, inputs[:_PROBES])
    except RUNTIME_ERRORS as error:
        raise CandidateFailure(STAGE, f"{type(error).__name__}: {error}") from error
    write_model(model, destination, STAGE)


def _quantize(
    model: onnx.ModelProto,
    before: onnx.ModelProto | None,
    layers: list[Layer],
    bits: dict[str, int],
    inputs: Arrays,
    settings: QuantizationSettings,
    learned: LearnedGrids,
    zeroing: Zeroing | None,
    with_activations: bool,
    note: Note,
    checked: bool,
) -> onnx.ModelProto:
    """Return the quantized model; the given one is changed, ``before`` is what it was where that is needed."""
    is_chosen = with_activations and settings.activation_ranges == "auto"
    wanted = outputs_of(model, inputs[: settings.sensitivity_samples]) if is_chosen else ()
    losses_db: dict[str, float] = {}
    weights, shifts = round_layers(
        model, layers, bits, settings=settings, calibration=inputs, given=learned.weights, zeroing=zeroing,
        told_loss=losses_db.__setitem__,
    )  # fmt: skip
    if zeroing is None and checked:
        layers = leave_lost(layers, lost_weights(losses_db, bits), weights, shifts, note)
    if settings.bias_correction == "on":
        correct_biases(model, shifts)
    if before is not None:
        after = copy_of(model)
        replace_weights(after, weights)
        correct_normalization(model, after, before, inputs)
    if with_activations:
        return quantize_weights_and_activations(
            model, weights, inputs, settings, learned.activations, wanted, note, checked=checked
        )
    quantize_weights(model, weights, layers)
    return model


def _covered(model: onnx.ModelProto, layers: list[Layer], activation_bits: int) -> list[Layer]:
    """Return the layers that are rounded.

    Raises:
        CandidateFailure: Where neither they nor weights of other operators can be, or where all of these compute in
            float32 although 8-bit activations are wanted.
    """
    apart = sorted({each.node_name for each in weights_apart(model)})
    if not layers and not apart:
        raise CandidateFailure(
            STAGE,
            "the network has no weight that can be rounded: a constant float32 one of a convolution, of a recurrent "
            "layer, or of a matrix product as its second factor",
        )
    if activation_bits != MOST_BITS:
        return layers
    reached = [layer for layer in layers if has_int8_kernel(model, layer)]
    if not reached:
        names = ", ".join([*(layer.node_name for layer in layers), *apart][:_MOST_NAMED])
        raise CandidateFailure(
            STAGE,
            f"none of the layers has an int8 kernel ({names}), so that 8-bit activations would change nothing: "
            f"their weights are rounded beside 32-bit ones",
        )
    return reached


def _coverage(
    model: onnx.ModelProto, layers: list[Layer], reached: list[Layer], activation_bits: int
) -> QuantizationCoverage:
    """Say how many of all layers are reached, and of each node that stays float32 why it does."""
    known, taken = {layer.node_name for layer in layers}, {layer.node_name for layer in reached}
    constants = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    apart = {each.node_name for each in weights_apart(model)}
    left, others = [], 0
    for node in model.graph.node:
        what = f"{node.op_type} {node.name}"
        if node.name in known - taken:
            left.append(f"{what}: a product with a stack of matrices has no int8 kernel")
        elif node.op_type in LAYER_OPERATORS and node.name not in known:
            is_first = node.input[0] in constants
            others += is_first
            left.append(f"{what}: the weight {'is its first factor' if is_first else 'is no constant float32 tensor'}")
        elif node.name in apart and activation_bits == MOST_BITS:
            left.append(f"{what}: its weights are rounded, but it has no int8 kernel")
        elif node.op_type in OTHER_OPERATORS and node.name not in apart and constants.intersection(node.input):
            others += 1
            left.append(f"{what}: weights of this operator stay float32")
        elif node.op_type == "PRelu" and activation_bits == MOST_BITS:
            left.append(f"{what}: it has no int8 kernel")
    return QuantizationCoverage(len(reached) + len(apart), len(layers) + len(apart) + others, tuple(left))


def _check_result(model: onnx.ModelProto, inputs: Arrays) -> None:
    session = open_session(model)
    for output in session.run(None, feeds_for(model, inputs)):
        if not np.isfinite(output).all():
            raise CandidateFailure(STAGE, "the quantized network's output holds a non-finite value (NaN or inf)")
