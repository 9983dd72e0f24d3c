"""Below which signal to noise an operator should stay float32: what each bound spares, and what that brings.

Networks are rounded to w7 a8 with several bounds for a single operator (and the same, four decibels higher, for each
channel of the outputs and for the whole file), and compared with their float32 files on inputs that were not used for
calibration. Sound networks should be left alone; what is broken on purpose should come out right. Writes
``results/sparing.md``. Run as ``python benchmarks/sparing.py --mobilenet FILE --pictures FOLDER``; takes some minutes
on one core. Where weights and pictures come from is told in ``activation_ranges.py``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from activation_ranges import BATCH, signal_to_noise_db  # type: ignore[import-not-found]
from int8_networks import MOBILENET, RESNET20, Network, add_arguments, networks  # type: ignore[import-not-found]
from measuring import RESULTS, conditions  # type: ignore[import-not-found]
from torch import Tensor, nn

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import read_model, run_in_batches
from karui.spaces.formats.onnx.quantization import quantize as quantizing
from karui.spaces.formats.onnx.quantization import rounded_file_check, sparing, static
from karui.spaces.formats.onnx.quantization.rounding_noise import noise_by_channel
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.settings import QuantizationSettings
from karui.tests.spaces.test_sparing import Between, Detector

BOUNDS_DB = (-1000.0, 6.0, 12.0, 18.0, 24.0, 30.0)
"""The first spares nothing."""

OUTPUTS_DB = 4.0
"""By so much the bound of the outputs lies above that of an operator."""

SOUND = (RESNET20, MOBILENET, "mobilenetv4_conv_small")
SETTINGS = QuantizationSettings(activation_ranges="minmax")


class Masked(nn.Module):
    """Attention with a large negative number added to scores."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low, self.projected, self.last = low, nn.Linear(36, 48), nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = inputs.reshape(-1, 12, 36)
        queries, keys, values = self.projected(steps).chunk(3, -1)
        scores = 3 * queries @ keys.transpose(1, 2) / 4 + torch.full((12, 12), self.low).triu(1)
        found: Tensor = self.last(scores.softmax(-1) @ values)
        return found.transpose(1, 2)


def _detector(pixels: float) -> nn.Module:
    return Detector(lambda boxes, scores: torch.cat([boxes, scores], 1), pixels)


BROKEN: dict[str, Callable[[], nn.Module]] = {
    "boxes of 32 pixels beside scores": lambda: _detector(32.0),
    "boxes of 320 pixels beside scores": lambda: _detector(320.0),
    "a mask of -100": lambda: Masked(-100.0),
    "a mask of -1e4": lambda: Masked(-1e4),
    "a logarithm": lambda: Between(lambda values: (values.relu() + 1e-3).log()),
    "an exponential": lambda: Between(lambda values: (2 * values).exp()),
    "a reciprocal": lambda: Between(lambda values: 1 / (values.abs() + 0.02)),
    "a cube at the end": lambda: Between(lambda values: values**3, ends=True),
}


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [line for network in _all(arguments) for line in _rows(network)]
    head = [
        "# What stays float32 beside 8-bit activations, by the bound",
        "",
        "Files of 7-bit weights and 8-bit activations beside their float32 file, on inputs of which none was used for "
        "calibration. The bound is the least signal to noise of a single operator; of the outputs it is 4 dB more. "
        "Spared: tensors and operators that stay float32 by it. Then signal to noise of the outputs as a whole and of "
        "their worst channel, the share of inputs whose greatest output is that of the float32 file, and CPU seconds.",
        "",
        "| network | bound, dB | spared | outputs, dB | worst channel, dB | same greatest output | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    (RESULTS / "sparing.md").write_text("\n".join([*head, *lines, "", conditions(), ""]), encoding="utf-8")


def _all(arguments: argparse.Namespace) -> Iterator[Network]:
    for name, make in BROKEN.items():
        torch.manual_seed(0)
        yield Network(name, make().eval(), torch.randn(64, 3, 12, 12), torch.randn(64, 3, 12, 12))
    yield from networks(arguments, SOUND)


def _rows(network: Network) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        source, rounded = Path(folder) / "float32.onnx", Path(folder) / "rounded.onnx"
        export_onnx(network.model, network.calibration[:4], source)
        inputs = network.held_out.numpy()
        wanted = run_in_batches(read_model(source, "benchmark"), inputs, BATCH)
        for bound_db in BOUNDS_DB:
            begin = time.process_time()
            with _bound(bound_db) as spared:
                quantizing.quantize(
                    source, rounded, BitChoice(7, 8), calibration=network.calibration.numpy(), settings=SETTINGS
                )
            seconds = time.process_time() - begin
            given = run_in_batches(read_model(rounded, "benchmark"), inputs, BATCH)
            agreed = (given.reshape(len(given), -1).argmax(1) == wanted.reshape(len(wanted), -1).argmax(1)).mean()
            worst_db = noise_by_channel(wanted, given).worst_db
            cells = ["none" if bound_db < 0 else f"{bound_db:g}", str(spared[0])]
            cells += [f"{signal_to_noise_db(wanted, given):.1f}", f"{worst_db:.1f}", f"{agreed:.1%}", f"{seconds:.1f}"]
            row = "| " + " | ".join([network.name, *cells]) + " |"
            print(row, flush=True)
            yield row


@contextmanager
def _bound(bound_db: float) -> Iterator[list[int]]:
    """Put another bound in place; yield how many tensors and operators were spared by it."""
    found = [0]

    def counting(*arguments: object, **named: object) -> sparing.SparedFile:
        file = sparing.spare(*arguments, **named)  # type: ignore[arg-type]
        found[0] = len(file.reasons)
        return file

    outputs_db = bound_db + OUTPUTS_DB
    with (
        patch.object(sparing, "LEAST_DB", bound_db),
        patch.object(sparing, "LEAST_OUTPUT_DB", outputs_db),
        patch.object(rounded_file_check, "LEAST_WHOLE_DB", outputs_db),
        patch.object(static, "spare", counting),
    ):
        yield found


if __name__ == "__main__":
    main()
