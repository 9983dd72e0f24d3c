"""What error feedback and bias correction bring over rounding to nearest, without any training.

Three float networks of the digits task (the baseline, the baseline with half its channels removed and recovered, and a
network of cells) are quantized to few bits; each file is run by the runtime over the validation split. Rounding is

- ``nearest``: each weight to the nearest point of its grid;
- ``feedback``: error feedback layer by layer (OBQ, GPTQ) with sweeps of single integers, without bias correction;
- ``feedback + bias``: the same, and biases take back the mean shift of the layers' outputs.

Scales are those of least squared error; with feedback below 4 bits, those at which the outputs change least. Writes
``results/rounding.csv``, a row per file, and ``results/rounding.md``. Run as ``python benchmarks/rounding.py``; takes
about ten minutes on two cores.
"""

from __future__ import annotations

import datetime
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from measuring import processor  # type: ignore[import-not-found]

from karui.evaluators.accuracy import AccuracyEvaluator, run_batches
from karui.evaluators.runtimes.onnxruntime_runner import CPU_PROVIDER, Runner
from karui.spaces.artifact import Artifact, file_digest
from karui.spaces.axes.cells.cell_network import build_cell_network
from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import CellGenotype
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.settings import QuantizationSettings
from karui.spaces.task import Task
from karui.spaces.training.recovery import TrainingSettings, train
from karui.studies.study_file.spec_reading import load_spec
from karui.studies.tasks.digits import make_task

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)
BITS = [(weights, activations) for weights in (2, 3, 4, 8) for activations in (8, 32)]
ROUNDINGS = {
    "nearest": QuantizationSettings(rounding="nearest"),
    "feedback": QuantizationSettings(bias_correction="off"),
    "feedback + bias": QuantizationSettings(),
}
CELL = CellNetwork(
    CellGenotype(
        4,
        (
            (0, 1, "conv3x3"), (0, 2, "skip"), (1, 2, "separable3x3"), (0, 3, "conv1x1"),
            (1, 3, "skip"), (2, 3, "conv3x3"),
        ),
    ),
    channels=16,
    cells_per_stage=1,
)  # fmt: skip


def main() -> None:
    """Train, quantize, measure, write."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            rows.extend(_measure_seed(seed, Path(folder)))
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "rounding.csv", index=False, float_format="%.6g")
    (RESULTS / "rounding.md").write_text(_report(table, time.perf_counter() - begin), encoding="utf-8")


def _networks(seed: int, folder: Path) -> Iterator[tuple[str, Task, Path]]:
    settings = load_spec("digits").recovery
    task = make_task(seed)
    baseline = prepare_baseline(task, settings, folder, seed=seed).path
    yield "baseline", task, baseline
    example = task.calibration_batch(8)
    torch.manual_seed(seed)
    half = remove_channels(task.model, example, 0.5, multiple=settings.multiple)
    yield "-50 % channels", task, _trained(half, task, settings, settings.epochs, seed, folder / "half.onnx")
    cell = build_cell_network(CELL, task.input_shape, 10)
    yield "cell", task, _trained(cell, task, settings, settings.epochs_from_scratch, seed, folder / "cell.onnx")


def _trained(network: torch.nn.Module, task: Task, settings: BuildSettings, epochs: int, seed: int, path: Path) -> Path:
    training = TrainingSettings(epochs, settings.batch_size, settings.learning_rate, seed=seed)
    train(network, task, training, teacher=task.model)
    export_onnx(network, task.calibration_batch(8), path)
    return path


def _measure_seed(seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    for name, task, source in _networks(seed, folder):
        evaluator = AccuracyEvaluator(
            task.validation, task.metric, task.metric_name, "validation", threads=1, resampling_seconds=0.0
        )
        inputs = np.stack([task.validation[index][0].numpy() for index in range(len(task.validation))])  # type: ignore[arg-type]
        calibration = task.calibration_batch(load_spec("digits").quantization.calibration_samples).numpy()
        wanted = _outputs(source, inputs)
        float_accuracy = evaluator.measure(Artifact(source, file_digest(source)))[0].value
        for weight_bits, activation_bits in BITS:
            for rounding, settings in ROUNDINGS.items():
                path = folder / "rounded.onnx"
                begin = time.perf_counter()
                bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
                choice = BitChoice(weight_bits, activation_bits)
                quantize(source, path, choice, calibration=calibration, settings=settings)
                seconds = time.perf_counter() - begin
                error = float(np.square(_outputs(path, inputs) - wanted).mean() / wanted.var())
                accuracy = evaluator.measure(Artifact(path, file_digest(path)))[0].value
                yield {
                    "network": name, "seed": seed, **bits, "rounding": rounding, "accuracy": accuracy,
                    "float_accuracy": float_accuracy, "output_error": error, "size_bytes": path.stat().st_size,
                    "seconds": seconds,
                }  # fmt: skip
        print(f"seed {seed}, {name}: done", flush=True)


def _outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    runner = Runner(path, stage="benchmark", provider=CPU_PROVIDER, threads=1)
    return np.asarray(run_batches(runner, inputs, 256))


def _report(table: pd.DataFrame, seconds: float) -> str:
    keys = ["network", "weight_bits", "activation_bits"]
    accuracy = table.pivot_table("accuracy", keys, "rounding") * 100
    error = table.pivot_table("output_error", keys, "rounding")
    floats = table.groupby(keys)["float_accuracy"].mean() * 100
    lines = [
        "# Rounding without training",
        "",
        f"Validation accuracy in % ({table['seed'].nunique()} seeds, mean), and in brackets the squared error of the "
        "outputs as a share of their variance. 8 bits beside 8-bit activations are 7. First and last layer have (up "
        "to) 8 bits.",
        "",
        "| network | weights | activations | float32 | " + " | ".join(ROUNDINGS) + " |",
        "|---|---|---|---|" + "---|" * len(ROUNDINGS),
    ]
    for key in accuracy.index:
        cells = [f"{accuracy.loc[key, name]:.1f} ({error.loc[key, name]:.1e})" for name in ROUNDINGS]
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {floats[key]:.1f} | " + " | ".join(cells) + " |")
    lines += ["", *_verdicts(table), "", *_conditions(table, seconds), ""]
    return "\n".join(lines)


def _verdicts(table: pd.DataFrame) -> Iterator[str]:
    keys = ["network", "seed", "weight_bits", "activation_bits"]
    for better, worse in (("feedback", "nearest"), ("feedback + bias", "nearest"), ("feedback + bias", "feedback")):
        for column, sign, unit in (("accuracy", 1, " points"), ("output_error", -1, "")):
            values = table.pivot_table(column, keys, "rounding")
            gains = sign * (values[better] - values[worse]) * (100 if unit else 1)
            yield (
                f"- {better} against {worse}, {column}: better in {int((gains > 0).sum())}, equal in "
                f"{int((gains == 0).sum())}, worse in {int((gains < 0).sum())} of {len(gains)} files; "
                f"mean gain {gains.mean():.3g}{unit}, worst {gains.min():.2g}{unit}."
            )


def _conditions(table: pd.DataFrame, seconds: float) -> Iterator[str]:
    versions = {"python": platform.python_version(), "numpy": np.__version__, "onnx": onnx.__version__}
    versions |= {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
    yield (
        "Conditions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "; one thread each on "
    )
    yield f"{processor()}; seeds {SEEDS} (splits, first weights and training); {datetime.date.today().isoformat()}; "
    yield f"{seconds / 60:.0f} minutes in all. Seconds of one quantization, median: "
    medians = table.groupby("rounding")["seconds"].median()
    yield ", ".join(f"{name} {medians[name]:.2f}" for name in ROUNDINGS) + " (the machine was shared)."


if __name__ == "__main__":
    main()
