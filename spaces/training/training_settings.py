"""How a network is trained: the settings that one training is known by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from .precision import Precision


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; on the CPU of one machine, with as many threads, equal settings give equal weights.

    Args:
        epochs: Passes over the training data; 0 for none.
        batch_size: Samples per step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled weight decay (Loshchilov & Hutter, ICLR 2019).
        temperature: Softening of both distributions in distillation.
        distillation_weight: Share of distillation in the loss, in [0, 1]; the rest is the task's own.
        device: A torch device such as ``cuda:1``; where None, the first of CUDA, MPS and CPU that is there.
        seed: Seed of what the network draws, such as dropout.
        data_seed: Seed of the order of the samples and of augmentation; ``seed`` where None. Networks that share it
            see the same batches, so that a :class:`~karui.spaces.training.teacher.Teacher` runs once for all of them.
        ema_decay: Decay per step of the moving average of the weights, in [0, 1): the average is validated beside the
            weights themselves, and the better of the two is kept; 0 for no average.
        hint_weight: Weight of attention transfer, added to the loss (see
            :mod:`~karui.spaces.training.attention_transfer`); 0 for none. It has no effect without a teacher, or where
            the two networks share no resolution of their features.
        precision: What the network computes in while it trains; it is validated in float32.

    Raises:
        ValueError: On a value without meaning.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 8e-3
    weight_decay: float = 1e-4
    temperature: float = 4.0
    distillation_weight: float = 0.7
    device: str | None = None
    seed: int = 0
    data_seed: int | None = None
    ema_decay: float = 0.0
    hint_weight: float = 0.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        rules = (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("learning_rate", 0.0 < self.learning_rate < math.inf, "a finite number above 0"),
            ("weight_decay", 0.0 <= self.weight_decay < math.inf, "a finite number, 0 or more"),
            ("temperature", 0.0 < self.temperature < math.inf, "a finite number above 0"),
            ("distillation_weight", 0.0 <= self.distillation_weight <= 1.0, "a number from 0 to 1"),
            ("ema_decay", 0.0 <= self.ema_decay < 1.0, "a number from 0 to below 1"),
            ("precision", self.precision in get_args(Precision), " or ".join(get_args(Precision))),
            ("hint_weight", 0.0 <= self.hint_weight < math.inf, "a finite number, 0 or more"),
        )
        for name, holds, expected in rules:
            if not holds:
                raise ValueError(f"TrainingSettings.{name}: expected {expected}, got {getattr(self, name)!r}")

    @property
    def order_seed(self) -> int:
        """The seed of the order of the samples and of augmentation."""
        return self.seed if self.data_seed is None else self.data_seed
