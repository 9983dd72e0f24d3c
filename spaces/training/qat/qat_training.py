"""Training that goes on with rounded weights, from what rounding after training gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....errors import CandidateFailure
from ...bit_names import FEWEST_BITS, FLOAT_BITS, MOST_BITS, MOST_BITS_BESIDE_INT8
from ...formats.onnx.export import PARITY_SAMPLES
from ...rounding.layers import Layer
from ...rounding.learned import ActivationGrid, LearnedGrids
from ...rounding.rounded_weights import RoundedWeight
from ...rounding.settings import QuantizationSettings
from ...task import Task
from ..recovery import TrainingReport, train
from ..teacher import Teacher
from ..training_settings import TrainingSettings
from ..training_steps import do_nothing
from ..zeroing import weight_tensors
from .folding import fold_batch_norm
from .matching import STAGE, Exported, along, export_folded, read_layers, readers_of
from .rounded_network import AwareNetwork
from .start import input_groups, round_after_training

LEARNING_RATE_FACTOR = 0.075
"""Peak of the learning rate as a share of that of recovery, 0.0006 at its default. A third of that left a small network
of two bits where it was for two epochs; three times as much undid in its first half what the second could not win
back."""

Allocate = Callable[[onnx.ModelProto, list[Layer]], Mapping[str, int]]
"""Returns the bits of each weight by initializer name, from a float32 model and its layers."""


@dataclass(frozen=True)
class AwareResult:
    """A network trained on rounded weights.

    Args:
        network: On the CPU, in evaluation mode, batch normalization folded; its weights are, bit for bit, integers
            times scales. Activations are not rounded in it.
        weights: The integers and scales by module name, the outputs along the first axis.
        activations: The grids of what the modules read, by module name; none where activations stay float32.
        report: How the training went; epoch 0 is the network rounded after training.
    """

    network: nn.Module
    weights: Mapping[str, RoundedWeight]
    activations: Mapping[str, ActivationGrid]
    report: TrainingReport


def train_aware(
    network: nn.Module,
    task: Task,
    settings: TrainingSettings,
    *,
    teacher: nn.Module | Teacher,
    bits: Mapping[str, int],
    activation_bits: int,
    calibration: Tensor,
    quantization: QuantizationSettings | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    between_steps: Callable[[], None] = do_nothing,
) -> AwareResult:
    """Train a network on rounded weights, with learned steps, and keep the best by the task's metric of it.

    It starts from what rounding after training gives, and never ends worse on the validation data. Steps of weights
    and of activations are learned as in LSQ (Esser et al., ICLR 2020). Weights of zero stay zero. Batch normalization
    is folded first, so that the weights that train are those that the file will hold. Layers that the file does not
    hold as the network does, such as transposed convolutions or weights computed from others, stay float32 here.

    Args:
        network: Left as it is.
        task: Data, loss and metric.
        settings: As for :func:`~karui.spaces.training.recovery.train`; the learning rate is lowered by
            ``LEARNING_RATE_FACTOR``, and the precision is float32.
        teacher: As for :func:`~karui.spaces.training.recovery.train`.
        bits: Bits of the weights by module name, 2 to 8, as :func:`bits_by_module` gives them; others stay float32.
        activation_bits: 8 to round what the layers read as well, 32 to leave it.
        calibration: Inputs by which weights are rounded first and ranges of activations found, shape
            (n, *input_shape).
        quantization: How weights are rounded before the training.
        on_epoch: As for :func:`~karui.spaces.training.recovery.train`.
        between_steps: Likewise.

    Raises:
        CandidateFailure: Where the network cannot be exported, none of its layers can be rounded, or loss or metric
            are not finite.
        ValueError: Where the bits have no meaning.
    """
    _check_bits(bits, activation_bits)
    calibration = calibration.detach().cpu()
    folded = fold_batch_norm(network, calibration[:PARITY_SAMPLES])
    if not any(parameter.requires_grad for parameter in folded.parameters()):
        for parameter in folded.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    exported = export_folded(folded, calibration, activation_bits)
    quantization, inputs = quantization or QuantizationSettings(), calibration.numpy()
    start = round_after_training(folded, exported, bits, inputs, quantization)
    if not start:
        raise CandidateFailure(STAGE, f"{type(network).__name__} has no layer that training can round")
    aware = AwareNetwork(folded)
    aware.round_weights(start)
    if activation_bits != FLOAT_BITS:
        aware.round_inputs(input_groups(exported, start, inputs, quantization.activation_ranges), calibration)
    held = [_hold_zeros(weight) for weight in weight_tensors(folded) if weight.requires_grad]
    report = _train(aware, task, settings, teacher, on_epoch, between_steps)
    for handle in held:
        handle.remove()
    weights, activations = aware.bake()
    return AwareResult(folded.eval(), weights, activations, report)


def bits_by_module(network: nn.Module, example: Tensor, allocate: Allocate, *, activation_bits: int) -> dict[str, int]:
    """Return bits by module name, chosen as quantization chooses them: on the layers of the exported network.

    Args:
        network: Left as it is.
        example: A batch of inputs, shape (n, *input_shape).
        allocate: How, such as ``lambda _, layers: uniform_bits(layers, 2, most_bits=8)``.
        activation_bits: 8 or 32; beside 8, layers that have no int8 kernel have no bits either.

    Raises:
        CandidateFailure: Where the network cannot be exported.
    """
    exported = export_folded(fold_batch_norm(network, example[:PARITY_SAMPLES]), example, activation_bits)
    bits = allocate(exported.model, exported.layers) if exported.layers else {}
    return {name: max(bits[layer.weight_name] for layer in readers) for name, readers in exported.readers.items()}


def learned_grids(result: AwareResult, path: Path) -> LearnedGrids:
    """Return what training found, in the terms of the float32 file that the trained network was exported to.

    Args:
        result: What training gave.
        path: The file that :func:`~karui.spaces.formats.onnx.export.export_onnx` made of ``result.network``.

    Raises:
        CandidateFailure: Where the file does not hold the weights as they were trained.
    """
    model, layers = read_layers(path)
    values = {name: weight.values for name, weight in result.weights.items()}
    exported = Exported(model, layers, readers_of(values, model, layers))
    missing = sorted(set(result.weights) - set(exported.readers))
    if missing:
        raise CandidateFailure(STAGE, f"{path.name} does not hold the weights of {', '.join(missing)} as trained")
    weights = {
        layer.weight_name: along(result.weights[name], layer)
        for name, readers in exported.readers.items()
        for layer in readers
    }
    activations = {
        tensor: grid for name, grid in result.activations.items() for tensor in sorted(exported.tensors_read(name))
    }
    return LearnedGrids(weights=weights, activations=activations)


def _hold_zeros(weight: Tensor) -> RemovableHandle:
    """Let what is zero of a weight that is not rounded stay so: rounded ones see to it themselves."""
    alive = weight.detach() != 0
    handle: RemovableHandle = weight.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: gradient * alive.to(gradient.device)
    )
    return handle


def _check_bits(bits: Mapping[str, int], activation_bits: int) -> None:
    if activation_bits not in (MOST_BITS, FLOAT_BITS):
        raise ValueError(f"activation_bits must be 8 or 32, got {activation_bits}")
    most = MOST_BITS if activation_bits == FLOAT_BITS else MOST_BITS_BESIDE_INT8
    for name, wanted in bits.items():
        if not FEWEST_BITS <= wanted <= most:
            raise ValueError(
                f"bits of {name} must be within {FEWEST_BITS}..{most} beside activations of {activation_bits} bits, "
                f"got {wanted}"
            )


def _train(
    aware: AwareNetwork,
    task: Task,
    settings: TrainingSettings,
    teacher: nn.Module | Teacher,
    on_epoch: Callable[[int, float], None] | None,
    between_steps: Callable[[], None],
) -> TrainingReport:
    # rounded once more to bfloat16, weights would not be those of the file
    slower = replace(settings, learning_rate=settings.learning_rate * LEARNING_RATE_FACTOR, precision="float32")
    try:
        return train(aware, task, slower, teacher=teacher, on_epoch=on_epoch, between_steps=between_steps)
    except CandidateFailure as failure:
        raise CandidateFailure(STAGE, failure.reason) from failure
