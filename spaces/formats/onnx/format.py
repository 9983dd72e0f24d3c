"""ONNX as a format: what a build asks of one, answered by the modules of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ...artifact import USUAL_FORMAT
from ...data.named import map_parts
from ...notes import Note, untold
from ...rounding.bit_choice import BitChoice
from ...rounding.joint_zeroing import Zeroing
from ...rounding.learned import LearnedGrids
from ...rounding.sensitivity import SensitivityTable, even_table
from ...rounding.settings import QuantizationSettings
from ...training.qat.qat_training import AwareResult
from ...training.qat.rounded_network import AwareStart
from ..format import QuantizationCoverage
from .export import export_onnx
from .onnx_file import read_model, run_in_batches
from .packing import pack
from .quantization.aware_start import aware_start, bits_of_modules, learned_grids
from .quantization.half import store_in_half
from .quantization.preparation import STAGE, prepare_layers
from .quantization.quantize import quantization_coverage, quantize, zero_weights
from .quantization.sensitivity_probe import table_digest
from .quantization.weight_layers import read_weights


class OnnxFormat:
    """Files of ONNX; see :class:`~karui.spaces.formats.format.Format` for what each method does."""

    name: ClassVar[str] = USUAL_FORMAT
    suffix: ClassVar[str] = ".onnx"

    def export(self, network: nn.Module, example: Tensor, path: Path) -> None:
        """Write a network; see :func:`.export.export_onnx`."""
        export_onnx(network, example, path)

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
        """Round a file; see :func:`.quantization.quantize.quantize`."""
        return quantize(
            source, destination, choice, calibration=calibration, settings=settings, learned=learned,
            sensitivity=sensitivity, zeroing=zeroing, note=note, checked=checked,
        )  # fmt: skip

    def zero(
        self, source: Path, destination: Path, zeroing: Zeroing, *, calibration: NDArray[Any],
        settings: QuantizationSettings,
    ) -> None:  # fmt: skip
        """Zero weights of a file; see :func:`.quantization.quantize.zero_weights`."""
        zero_weights(source, destination, zeroing, calibration=calibration, settings=settings)

    def store_in_half(self, source: Path, destination: Path) -> None:
        """Store weights as float16; see :func:`.quantization.half.store_in_half`."""
        store_in_half(source, destination)

    def pack(self, source: Path, destination: Path) -> None:
        """Pack a file; see :func:`.packing.pack`."""
        pack(source, destination)

    def answers(self, path: Path, inputs: Any, batch_size: int) -> Any:
        """Run a file with onnxruntime on one thread of the CPU."""
        return run_in_batches(read_model(path, "answers"), map_parts(np.asarray, inputs), batch_size)

    def coverage(self, source: Path, activation_bits: int) -> QuantizationCoverage:
        """Say what can be rounded; see :func:`.quantization.quantize.quantization_coverage`."""
        return quantization_coverage(source, activation_bits)

    def even_table(self, source: Path, calibration: NDArray[Any], settings: QuantizationSettings) -> SensitivityTable:
        """Return a table for the prepared graph of a file."""
        model = read_model(source, STAGE)
        layers = prepare_layers(model, source.name)
        weights = read_weights(model, {layer.weight_name for layer in layers})
        digest = table_digest(model, calibration, settings)
        return even_table(digest, {name: int(weight.size) for name, weight in weights.items()})

    def bits_of_modules(
        self,
        network: nn.Module,
        choice: BitChoice,
        calibration: Tensor,
        settings: QuantizationSettings,
        sensitivity: Path | None,
    ) -> dict[str, int]:
        """Spread bits over modules; see :func:`.quantization.aware_start.bits_of_modules`."""
        return bits_of_modules(network, choice, calibration, settings, sensitivity)

    def aware_start(
        self,
        folded: nn.Module,
        bits: Mapping[str, int],
        activation_bits: int,
        calibration: Tensor,
        settings: QuantizationSettings,
    ) -> AwareStart:
        """Return where training begins; see :func:`.quantization.aware_start.aware_start`."""
        return aware_start(folded, bits, activation_bits, calibration, settings)

    def learned_grids(self, result: AwareResult, path: Path) -> LearnedGrids:
        """Return what training has found; see :func:`.quantization.aware_start.learned_grids`."""
        return learned_grids(result, path)


ONNX = OnnxFormat()
