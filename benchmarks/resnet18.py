"""ResNet-18 of torchvision at 224 x 224: size, speed and load time before and after.

Weights are random, so there is no accuracy: bytes of dense low-bit weights, kernels and loading do not depend on what
the weights are. Writes ``results/resnet18.csv`` and ``results/resnet18.md``. Run as ``python benchmarks/resnet18.py``;
takes about ten minutes on two cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from measuring import RESULTS, Ruler, conditions  # type: ignore[import-not-found]
from torchvision.models import resnet18

from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.joint_zeroing import Zeroing
from karui.spaces.rounding.settings import QuantizationSettings

CALIBRATION_SAMPLES = 16
COLUMNS = ["method", "size_bytes", "size_x", "speed_x", "load_ms", "load_peak_mb", "seconds"]
METHODS: list[tuple[str, float, BitChoice | None, Zeroing | None]] = [
    ("float32", 0.0, None, None),
    ("w8 a8", 0.0, BitChoice(8, 8), None),
    ("w4 a8", 0.0, BitChoice(4, 8), None),
    ("w4 a32", 0.0, BitChoice(4, 32), None),
    ("w2 a8", 0.0, BitChoice(2, 8), None),
    ("w4 a8, 80 % zeros", 0.0, BitChoice(4, 8), Zeroing(0.8)),
    ("-50 % channels, float32", 0.5, None, None),
    ("-50 % channels, w8 a8", 0.5, BitChoice(8, 8), None),
    ("-50 % channels, w4 a8", 0.5, BitChoice(4, 8), None),
]


def main() -> None:
    """Make, measure, write."""
    torch.manual_seed(0)
    network, inputs = resnet18(weights=None).eval(), torch.randn(CALIBRATION_SAMPLES, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        rows = pd.DataFrame(_measure(network, inputs, Path(folder)))[COLUMNS]
    rows.to_csv(RESULTS / "resnet18.csv", index=False, float_format="%.6g")
    (RESULTS / "resnet18.md").write_text(_report(rows), encoding="utf-8")


def _measure(network: torch.nn.Module, inputs: torch.Tensor, folder: Path) -> Iterator[dict[str, Any]]:
    baseline = folder / "baseline.onnx"
    export_onnx(network, inputs[:2], baseline)
    ruler = Ruler(baseline, inputs[:1].numpy())
    # Random weights leave error feedback nothing to gain, and zeros nothing to make good.
    settings = QuantizationSettings(rounding="nearest")
    for name, fraction, choice, zeroing in METHODS:
        begin = time.perf_counter()
        plain, rounded, path = folder / "plain.onnx", folder / "rounded.onnx", folder / "packed.onnx"
        export_onnx(remove_channels(network, inputs[:2], fraction, multiple=8).eval(), inputs[:2], plain)
        if choice is not None:
            quantize(plain, rounded, choice, calibration=inputs.numpy(), settings=settings, zeroing=zeroing)
        pack(rounded if choice is not None else plain, path)
        seconds = time.perf_counter() - begin
        row = {"method": name, **ruler.measure(path), "seconds": seconds}
        print(
            f"{name}: {row['size_x']:.1f}x smaller, {row['speed_x']:.2f}x as fast, {row['load_ms']:.0f} ms", flush=True
        )
        yield row


def _report(rows: pd.DataFrame) -> str:
    lines = [
        "# ResNet-18 at 224 x 224",
        "",
        "torchvision's network with random weights: bytes on disk, speed beside the float32 file, time and memory that "
        "onnxruntime takes to open the file (what it unpacks, it unpacks then). Beside 8-bit activations weights have "
        "at most 7 bits.",
        "",
        "| file | bytes | smaller | faster | load ms | load peak MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.method} | {row.size_bytes:,.0f} | {row.size_x:.1f}x | {row.speed_x:.2f}x | {row.load_ms:.0f} | "
        f"{row.load_peak_mb:.0f} |"
        for row in rows.itertuples()
    ]
    return "\n".join([*lines, "", conditions(calibration_inputs=CALIBRATION_SAMPLES), ""])


if __name__ == "__main__":
    main()
