"""Format: how a network becomes a file of one kind, and what is done to that file; and the registry of formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import KaruiError
from ..artifact import USUAL_FORMAT
from ..notes import Note, untold
from ..registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..rounding.bit_choice import BitChoice
    from ..rounding.joint_zeroing import Zeroing
    from ..rounding.learned import LearnedGrids
    from ..rounding.sensitivity import SensitivityTable
    from ..rounding.settings import QuantizationSettings
    from ..training.qat.qat_training import AwareResult
    from ..training.qat.rounded_network import AwareStart

PARITY_SAMPLES = 8
"""Inputs that are enough to tell whether file and network compute the same."""


@dataclass(frozen=True)
class QuantizationCoverage:
    """How much of the network was quantized.

    Args:
        quantized_layers: Layers whose weight is now stored as integers.
        all_layers: Layers that hold a float32 weight: Conv, Gemm and MatMul, and operators of other kinds.
        left: Which nodes stay float32, and why, a text for each: layers that are not reached, products of two tensors
            that are both computed, and operators of other kinds that hold weights.
    """

    quantized_layers: int
    all_layers: int
    left: tuple[str, ...] = ()


class Format(Protocol):
    """One kind of file. What is written is written whole or not at all.

    What concerns weights alone (which grid, which integers, which zeros) is decided by :mod:`karui.spaces.rounding`,
    for all formats alike: a format tells it the weights and what they meet, and stores what comes back.
    """

    @property
    def name(self) -> str:
        """Its name, by which runtimes say what they read."""

    @property
    def suffix(self) -> str:
        """How names of its files end, such as ``.onnx``."""

    def export(self, network: nn.Module, example: Tensor, path: Path) -> None:
        """Write a network in float32, and check that the file computes what the network does.

        Args:
            network: Left as it is.
            example: A batch of inputs, shape (n, *input_shape), n >= 1.
            path: Where the file goes.

        Raises:
            CandidateFailure: Where it cannot be written, or its answers differ.
        """

    def round(
        self,
        source: Path,
        destination: Path,
        choice: BitChoice,
        *,
        calibration: NDArray[Any],
        settings: QuantizationSettings,
        learned: LearnedGrids | None = None,
        sensitivity: Path | None = None,
        zeroing: Zeroing | None = None,
        note: Note = untold,
        checked: bool = True,
    ) -> QuantizationCoverage:
        """Write a float32 file with integer weights; weights of zero stay zero.

        Args:
            source: An exported file.
            destination: Where the result goes.
            choice: The bits.
            calibration: Inputs on which rounding is decided, shape (n, *input_shape), n >= 1.
            settings: How weights and activations are rounded.
            learned: Grids that training has found, by the names of the file; they are taken as they are.
            sensitivity: Where the table that a budget is spread by is kept for the next time; None for nowhere.
            zeroing: Weights to zero in the same pass.
            note: Is told what was left float32, and why.
            checked: Whether what the runtime gets wrong in integers is looked for, and left float32.

        Raises:
            CandidateFailure: Where nothing can be rounded, or the result computes no numbers.
        """

    def zero(
        self, source: Path, destination: Path, zeroing: Zeroing, *, calibration: NDArray[Any],
        settings: QuantizationSettings,
    ) -> None:  # fmt: skip
        """Write a float32 file with some of its weights zeroed, the others making good for them.

        Args:
            source: An exported file.
            destination: Where the result goes.
            zeroing: How many weights, and where.
            calibration: As for :meth:`round`.
            settings: Whether anything is made good.

        Raises:
            CandidateFailure: As :meth:`round` does.
        """

    def store_in_half(self, source: Path, destination: Path) -> None:
        """Write a float32 file with its weights stored as float16, which computes in float32.

        Raises:
            CandidateFailure: Where values do not fit.
        """

    def pack(self, source: Path, destination: Path) -> None:
        """Write the smallest file that computes, bit for bit, what the source does.

        Raises:
            CandidateFailure: Where the source cannot be read.
        """

    def answers(self, path: Path, inputs: Any, batch_size: int) -> Any:
        """Open a file and return its outputs, shape (n, ...): for checks; what counts is measured by a runtime.

        A single array, or a :class:`~karui.spaces.data.named.Named` of several, both of inputs and outputs.

        Args:
            path: A file, packed or not.
            inputs: Shape (n, *input_shape).
            batch_size: How many inputs are run at once.
        """

    def coverage(self, source: Path, activation_bits: int) -> QuantizationCoverage:
        """Return which layers of an exported file would be rounded beside such activations, and which not and why.

        Raises:
            CandidateFailure: Where none would be.
        """

    def even_table(self, source: Path, calibration: NDArray[Any], settings: QuantizationSettings) -> SensitivityTable:
        """Return a table by which all weights of an exported file mind few bits alike, taken for the measured one."""

    def bits_of_modules(
        self,
        network: nn.Module,
        choice: BitChoice,
        calibration: Tensor,
        settings: QuantizationSettings,
        sensitivity: Path | None,
    ) -> dict[str, int]:
        """Return the bits of a network's modules by name, spread as they are over the layers of its file."""

    def aware_start(
        self,
        folded: nn.Module,
        bits: Mapping[str, int],
        activation_bits: int,
        calibration: Tensor,
        settings: QuantizationSettings,
    ) -> AwareStart:
        """Return where training with rounded weights begins: at what :meth:`round` would give of the file."""

    def learned_grids(self, result: AwareResult, path: Path) -> LearnedGrids:
        """Return what such a training has found, by the names of the file that its network was exported to."""


FORMATS: Registry[Format] = Registry("karui.formats", {USUAL_FORMAT: "karui.spaces.formats.onnx.format:ONNX"})
"""Every format by its name: karui's own, then those of other packages."""


def find_format(name: str = USUAL_FORMAT) -> Format:
    """Return a format by its name; the one that every study writes where left out.

    Raises:
        KaruiError: Where there is none of that name.
    """
    if name not in FORMATS:
        raise KaruiError("there is no such format", where="format", expected=f"one of {', '.join(FORMATS)}", got=name)
    return FORMATS[name]
