"""One network of the zoo: its inputs, its own answers, and the file that all of its treatments share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from karui.spaces.formats.onnx.export import export_onnx

from .registry import Animal

EXAMPLE, CALIBRATION, HELD_OUT = 8, 48, 32


class Wrong(AssertionError):
    """Something was made, said to be right, and is not."""


@dataclass
class Case:
    """One network, its inputs, its own answers, and the files made of it so far."""

    animal: Animal
    folder: Path
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self.network = self.animal.network()
        self.example = self.animal.batch(EXAMPLE, seed=1)
        self.calibration = self.animal.batch(CALIBRATION, seed=2)
        self.held_out = self.animal.batch(HELD_OUT, seed=3)
        # what lies outside of the ranges of calibration is cut off by any file: here only rounding is looked at
        self.calibration = torch.cat([self.calibration, self.held_out])

    @cached_property
    def answers(self) -> np.ndarray:
        """The network's own answers on inputs that nothing was made by."""
        return answers_of(self.network, self.held_out)

    @cached_property
    def exported(self) -> Path:
        """The float32 file."""
        path = self.folder / "float32.onnx"
        export_onnx(self.network, self.example, path)
        return path


def run(path: Path, inputs: Tensor) -> np.ndarray:
    """Return what a file answers in the stock runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fed = {session.get_inputs()[0].name: inputs.numpy()} if session.get_inputs() else {}
    answer: np.ndarray = session.run(None, fed)[0]
    return answer


def answers_of(network: nn.Module, inputs: Tensor) -> np.ndarray:
    """Return what a network answers; the inputs stay as they are."""
    with torch.no_grad():
        answer: np.ndarray = network(inputs.clone()).numpy()
    return answer
