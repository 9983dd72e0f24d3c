"""Training that goes on with rounded weights, from what rounding after training gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....errors import CandidateFailure
from ...rounding.learned import ActivationGrid
from ...rounding.rounded_weights import RoundedWeight
from ...task import Task
from ..recovery import TrainingReport, train
from ..teacher import Teacher
from ..training_settings import TrainingSettings
from ..training_steps import do_nothing
from ..zeroing import weight_tensors
from .folding import FOLDING_SAMPLES, fold_batch_norm
from .rounded_network import STAGE, AwareNetwork, AwareStart, QuantizedModule, module_of

LEARNING_RATE_FACTOR = 0.075
"""Peak of the learning rate as a share of that of recovery, 0.0006 at its default. A third of that left a small network
of two bits where it was for two epochs; three times as much undid in its first half what the second could not win
back."""


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
    start: Callable[[nn.Module], AwareStart],
    calibration: Tensor,
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
        start: Returns, of the network with its normalization folded, where its training begins.
        calibration: Inputs by which ranges of activations are found, shape (n, *input_shape).
        on_epoch: As for :func:`~karui.spaces.training.recovery.train`.
        between_steps: Likewise.

    Raises:
        CandidateFailure: Where none of its layers can be rounded, or loss or metric are not finite.
    """
    calibration = calibration.detach().cpu()
    folded = fold_batch_norm(network, calibration[:FOLDING_SAMPLES])
    if not any(parameter.requires_grad for parameter in folded.parameters()):
        for parameter in folded.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    begin = start(folded)
    if not begin.weights:
        raise CandidateFailure(STAGE, f"{type(network).__name__} has no layer that training can round")
    for name, shift in begin.shifts.items():
        _shift_bias(module_of(folded, name), shift)
    aware = AwareNetwork(folded)
    aware.round_weights(begin.weights)
    if begin.inputs:
        aware.round_inputs(begin.inputs, calibration)
    held = [_hold_zeros(weight) for weight in weight_tensors(folded) if weight.requires_grad]
    report = _train(aware, task, settings, teacher, on_epoch, between_steps)
    for handle in held:
        handle.remove()
    weights, activations = aware.bake()
    return AwareResult(folded.eval(), weights, activations, report)


def _hold_zeros(weight: Tensor) -> RemovableHandle:
    """Let what is zero of a weight that is not rounded stay so: rounded ones see to it themselves."""
    alive = weight.detach() != 0
    handle: RemovableHandle = weight.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: gradient * alive.to(gradient.device)
    )
    return handle


def _shift_bias(module: QuantizedModule, shift: np.ndarray) -> None:
    """Add to a bias, where there is one, what rounding takes from the mean output."""
    if isinstance(module.bias, nn.Parameter):
        with torch.no_grad():
            module.bias.add_(torch.from_numpy(shift).to(module.bias.dtype))


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
