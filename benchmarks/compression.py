"""What each way of making a network light brings on Fashion-MNIST, alone and combined, at equal recovery budget.

The baseline is the ResNet-20 of the bundled study ``fashion``, with the weights that lie beside this file, so that all
measure the same; where they are not those of the study any more it is trained first.
Every method makes a file, which is measured as the search measures it: bytes on disk, speed in alternation with the
baseline, accuracy of the file on the test split. Rows are added to ``results/compression.csv`` as they come, and what
stands there already is not made again, so that the benchmark can be stopped and goes on; ``results/compression.md`` is
written from it. Run as ``python benchmarks/compression.py``: about eleven hours of one core, most of it training.
Several such runs, each with a folder of its own, may share the work.

    --folder DIR   working folder for trained networks (runs/compression)
    --only REGEX   only the methods whose name holds a match
    --seeds LIST   seeds for methods that train (0,1,2)
    --precision P  what networks compute in while they train, float32 or bfloat16 (float32)
"""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pandas as pd
import torch
from measuring import RESULTS, Ruler, conditions  # type: ignore[import-not-found]
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn
from torch.nn.utils import prune

from karui.spaces.axes.cells.choice import CellNetwork
from karui.spaces.axes.cells.genotype import CellGenotype
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.axes.stages.choice import Stage, StageNetwork
from karui.spaces.axes.students.choice import Student
from karui.spaces.building.baseline import prepare_baseline, weights_path
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.building.network_factory import training_settings
from karui.spaces.building.read_write_lock import read_write_lock
from karui.spaces.candidate import Architecture, Baseline, Candidate
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.quantize import quantize
from karui.spaces.formats.onnx.quantization.weight_layers import find_layers
from karui.spaces.rounding.allocation import uniform_bits
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.learned import LearnedGrids
from karui.spaces.rounding.rounded_weights import RoundedWeight
from karui.spaces.rounding.scales import grid_limits, round_to_grid
from karui.spaces.rounding.settings import QuantizationSettings
from karui.spaces.task import Task
from karui.spaces.training.batch_statistics import reestimate_normalization, statistics_inputs
from karui.spaces.training.precision import Precision
from karui.spaces.training.recovery import train
from karui.studies.storage.folder import write_atomically
from karui.studies.study_file.spec_reading import load_spec
from karui.studies.tasks.fashion import make_task

COLUMNS = [
    "method",
    "seed",
    "size_bytes",
    "size_x",
    "speed_x",
    "accuracy",
    "drop_points",
    "load_ms",
    "seconds",
    "precision",
    "validation_drop_points",
]
FRACTIONS = (0.3, 0.5, 0.7)
WEIGHTS = Path(__file__).parent / "fashion_baseline.safetensors"
LONG = 8
"""Epochs of the combinations that shall keep the accuracy."""

LONGER = 24
"""Epochs of those that came nearest to the goals."""

LONGEST = 48
"""Epochs of those that came nearest to the first goal then."""

HINT_WEIGHT = 1.0
"""Of attention transfer, whose loss lies between 0 and 2 for each of the three resolutions."""

CELL = CellGenotype(4, ((0, 1, "conv3x3"), (0, 3, "skip"), (1, 3, "conv3x3")))

STAGES = StageNetwork(16, (Stage(3, 1, False, 1), Stage(3, 3, False, 1), Stage(3, 6, False, 1)))


GOALS_LEAD = (
    "Which file is reported is not chosen by the test accuracy that is reported of it: by validation, or, as long as "
    "rows of earlier runs do not tell that, by what is known before any accuracy."
)


@dataclass(frozen=True)
class Method:
    """One way to make a file.

    Args:
        name: Its name in the table.
        make: Maps a seed to the file.
        trains: Whether the seed matters.
        precision: What it computes in while it trains, where that is not left to the lab.
    """

    name: str
    make: Callable[[int], Path]
    trains: bool = True
    precision: Precision | None = None


class Lab:
    """The task, its baseline, and what makes files of it."""

    def __init__(self, folder: Path, precision: Precision = "float32") -> None:
        spec = load_spec("fashion")
        self.folder = folder
        self.task: Task = make_task(**spec.task_options)
        self.settings: BuildSettings = spec.recovery.model_copy(update={"precision": precision})
        folder.mkdir(parents=True, exist_ok=True)
        kept = weights_path(self.task, self.settings, folder, seed=0)
        if WEIGHTS.exists() and kept is not None and not kept.exists():
            shutil.copyfile(WEIGHTS, kept)
        self.baseline = prepare_baseline(
            self.task, self.settings, folder, on_epoch=lambda epoch, metric: print(f"epoch {epoch}: {metric:.4f}")
        ).path
        self.calibration = self.task.calibration_batch(256)
        self.ruler = Ruler(self.baseline, self.task.calibration_batch(1).numpy(), self.task)
        self._builders: dict[Path, Builder] = {}

    def candidate(self, candidate: Candidate, seed: int, **changes: Any) -> Path:
        """Return the file that the search would make of a candidate, trained for so many epochs."""
        settings = self.settings.model_copy(update=changes)
        # A folder for each seed and setting: files are named by their candidate alone.
        told = "-".join(f"{name}{value}" for name, value in sorted(changes.items()))
        folder = self.folder / f"seed{seed}{told}"
        if folder not in self._builders:
            # One for all that are trained alike: its teacher remembers what it said of each batch. And no others, whose
            # batches are over.
            self._builders = {folder: Builder(self.task, settings, folder, seed)}
        return self._builders[folder].build(candidate).path

    def packed(self, network: nn.Module) -> Path:
        """Return the packed float32 file of a network."""
        plain, path = self.folder / "plain.onnx", self.folder / "packed.onnx"
        export_onnx(network, self.calibration[:8], plain)
        pack(plain, path)
        return path

    def quantized(self, choice: BitChoice, settings: QuantizationSettings, learned: LearnedGrids | None = None) -> Path:
        """Return the packed file of the baseline, rounded after training."""
        rounded, path = self.folder / "rounded.onnx", self.folder / "packed.onnx"
        table = self.folder / "baseline.sensitivity.json"
        quantize(
            self.baseline, rounded, choice, calibration=self.calibration.numpy(), settings=settings, learned=learned,
            sensitivity=table,
        )  # fmt: skip
        pack(rounded, path)
        return path

    def recovered(self, network: nn.Module, seed: int, *, taught: bool) -> nn.Module:
        """Train a network for the recovery budget, with or without the baseline as its teacher."""
        settings = training_settings(self.settings, epochs=self.settings.epochs, seed=seed)
        train(network, self.task, settings, teacher=self.task.model if taught else None)
        return network


def rounding_methods(lab: Lab) -> Iterator[Method]:
    """Yield the first table: int8 as users do it today, and ours at few bits without and with training."""
    yield Method("onnxruntime quantize_static, int8", lambda _seed: runtime_int8(lab), trains=False)
    reduced = partial(runtime_int8, lab, reduce_range=True)
    yield Method("onnxruntime quantize_static, int8, reduce_range", lambda _seed: reduced(), trains=False)
    nearest, feedback = QuantizationSettings(rounding="nearest"), QuantizationSettings()
    for bits in (8, 4, 3, 2):
        for activations in (32, 8):
            choice = BitChoice(bits, activations)
            name = f"w{bits} a{activations}"
            yield Method(f"{name}: nearest, scales by range", partial(_by_range, lab, choice), trains=False)
            yield Method(f"{name}: nearest, least-squares scales", partial(_ours, lab, choice, nearest), trains=False)
            yield Method(f"{name}: error feedback", partial(_ours, lab, choice, feedback), trains=False)
            budget = BitChoice(bits, activations, "budget")
            yield Method(f"{name}: budget of bits", partial(_ours, lab, budget, feedback), trains=False)
    for bits in (2, 3, 4, 8):
        trained = Candidate(weight_bits=bits, activation_bits=8, bit_training="aware")
        name = f"w{bits} a8: trained with rounded weights"
        make = partial(_built, lab, trained, epochs_aware=lab.settings.epochs)
        yield Method(name, make, precision="float32")


def zero_methods(lab: Lab) -> Iterator[Method]:
    """Yield zeroed weights, without training and with it."""
    for pattern, fraction in (("free", 0.5), ("free", 0.8), ("2:4", 0.5)):
        for bits in (32, 4):
            once = Candidate(zeroed_weights=fraction, zero_pattern=pattern, zeroing="one_shot", weight_bits=bits)  # type: ignore[arg-type]
            yield Method(f"{once.describe().removeprefix('baseline, ')}", partial(_built, lab, once), trains=False)
    for fraction in (0.5, 0.8):
        gradual = Candidate(zeroed_weights=fraction, weight_bits=4)
        yield Method(f"{gradual.describe().removeprefix('baseline, ')}, gradual", partial(_built, lab, gradual))


def channel_methods(lab: Lab) -> Iterator[Method]:
    """Yield the second table: channels removed, and filters zeroed layer by layer without care for dependencies."""
    for fraction in FRACTIONS:
        cut = Candidate(removed_channels=fraction)
        yield Method(f"-{fraction:.0%} channels, no recovery", partial(_unrecovered, lab, fraction), trains=False)
        yield Method(f"-{fraction:.0%} channels", partial(_built, lab, cut))
        yield Method(f"-{fraction:.0%} filters zeroed, no recovery", partial(_filters, lab, fraction, False), False)
    yield Method("-50% filters zeroed", partial(_filters, lab, 0.5, True))


def width_methods(lab: Lab) -> Iterator[Method]:
    """Yield the third table: half of the channels from scratch, cold, and warm with hints; warm is the second's."""
    yield Method("half the channels, from scratch", partial(_cold, lab, taught=False))
    yield Method("half the channels, distilled cold", partial(_cold, lab, taught=True))
    warm = Candidate(removed_channels=0.5)
    yield Method("half the channels, distilled warm with hints", partial(_built, lab, warm, hint_weight=HINT_WEIGHT))


def combined_methods(lab: Lab) -> Iterator[Method]:
    """Yield the fourth table: combinations, recovered for longer."""
    student = partial(Student, "shallower")
    combinations = [
        _light(Baseline(), 4, 32, removed_channels=0.5),
        _light(student(1.0, 0.34), 4, 8),
        _light(student(1.0, 0.34), 3, 8),
        _light(student(0.75, 0.34), 4, 8),
        _light(student(1.0, 0.67, 0.5), 2, 8),
        _light(student(0.75, 0.67, 0.5), 3, 8),
        _light(student(0.75, 0.34, 0.5), 3, 8),
        _light(student(0.5, 0.67, 0.5), 2, 8),
        _light(CellNetwork(CELL, 16, 1), 4, 32),
        _light(STAGES, 4, 32),
    ]
    near = [_light(student(1.0, 0.34), bits, 8) for bits in (4.5, 4, 3)]
    near += [_light(student(0.75, 0.34, 0.5), bits, 8) for bits in (3, 2.6)]
    for epochs, candidates in ((LONG, combinations), (LONGER, near), (LONGEST, near[:3])):
        for candidate in candidates:
            make = partial(_built, lab, candidate, epochs=epochs, epochs_from_scratch=epochs)
            yield Method(f"{candidate.describe()}, {epochs} epochs", make)


def _light(architecture: Architecture, weights: float, activations: int, removed_channels: float = 0.0) -> Candidate:
    return Candidate(
        architecture, removed_channels, weight_bits=weights, bit_allocation="budget", activation_bits=activations
    )


def runtime_int8(lab: Lab, *, reduce_range: bool = False) -> Path:
    """Make the int8 file that onnxruntime's documentation shows: QDQ, defaults, our calibration inputs.

    Args:
        lab: The baseline and the calibration inputs.
        reduce_range: Whether weights keep to 7 bits, as that documentation advises for processors without VNNI.
    """
    path = lab.folder / "runtime.onnx"
    name = onnx.load(lab.baseline).graph.input[0].name
    quantize_static(
        lab.baseline, path, _Feeds(name, lab.calibration.numpy()), quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=reduce_range,
    )  # fmt: skip
    return path


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self._feeds = iter([{name: inputs[index : index + 1]} for index in range(len(inputs))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _built(lab: Lab, candidate: Candidate, seed: int, **changes: Any) -> Path:
    return lab.candidate(candidate, seed, **changes)


def _ours(lab: Lab, choice: BitChoice, settings: QuantizationSettings, _seed: int) -> Path:
    return lab.quantized(choice, settings)


def _by_range(lab: Lab, choice: BitChoice, _seed: int) -> Path:
    """Round to nearest with the scales that reach from the smallest to the largest weight of each channel."""
    model = onnx.load(lab.baseline)
    layers = find_layers(model)
    bits = uniform_bits(layers, int(choice.weight_bits), most_bits=choice.most_bits)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grids = {}
    for layer in layers:
        weight, axis = tensors[layer.weight_name], layer.channel_axis
        _, largest = grid_limits(bits[layer.weight_name])
        others = tuple(index for index in range(weight.ndim) if index != axis)
        scales = np.maximum(np.abs(weight).max(axis=others) / largest, 1e-8).astype(np.float32)
        integers = round_to_grid(weight, scales, bits[layer.weight_name], axis)
        grids[layer.weight_name] = RoundedWeight(integers, scales, axis)
    return lab.quantized(choice, QuantizationSettings(rounding="nearest"), LearnedGrids(weights=grids))


def _unrecovered(lab: Lab, fraction: float, _seed: int) -> Path:
    network = remove_channels(lab.task.model, lab.calibration[:2], fraction, multiple=lab.settings.multiple)
    reestimate_normalization(network, statistics_inputs(lab.task, seed=0))
    return lab.packed(network.eval())


def _filters(lab: Lab, fraction: float, recover: bool, seed: int) -> Path:
    """Zero each convolution's smallest filters, whatever reads or adds to them: no shape changes."""
    network = copy.deepcopy(lab.task.model)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer in layers:
        prune.ln_structured(layer, "weight", amount=fraction, n=2, dim=0)  # type: ignore[no-untyped-call]
    if recover:
        lab.recovered(network, seed, taught=True)
    for layer in layers:
        prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    return lab.packed(network.eval())


def _cold(lab: Lab, seed: int, *, taught: bool) -> Path:
    network = remove_channels(lab.task.model, lab.calibration[:2], 0.5, multiple=lab.settings.multiple)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in network.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
    return lab.packed(lab.recovered(network, seed, taught=taught).eval())


TABLES: dict[str, Callable[[Lab], Iterator[Method]]] = {
    "Bits": rounding_methods,
    "Zeroed weights": zero_methods,
    "Removed channels": channel_methods,
    "Half the channels, from where": width_methods,
    "Combinations": combined_methods,
}


def main() -> None:
    """Make and measure what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/compression"))
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    arguments = parser.parse_args()
    lab = Lab(arguments.folder, arguments.precision)
    # All methods of one seed before the next: stopped early, every method has been seen once.
    for seed in map(int, arguments.seeds.split(",")):
        for method in (method for methods in TABLES.values() for method in methods(lab)):
            if (seed == 0 or method.trains) and re.search(arguments.only, method.name):
                _add_row(lab, method, seed)
    rows = _rows()
    (RESULTS / "compression.md").write_text(_report(lab, rows), encoding="utf-8")


def _rows() -> pd.DataFrame:
    path = RESULTS / "compression.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def _add_row(lab: Lab, method: Method, seed: int) -> None:
    rows = _rows()
    if ((rows["method"] == method.name) & (rows["seed"] == seed)).any():
        return
    begin = time.process_time()  # not by the clock: others may work on this machine for hours
    path = method.make(seed)
    seconds = time.process_time() - begin
    precision = (method.precision or lab.settings.precision) if method.trains else ""
    measured = {**lab.ruler.measure(path), "validation_drop_points": lab.ruler.validation_drop_points(path)}
    row = {"method": method.name, "seed": seed, **measured, "seconds": seconds, "precision": precision}
    _keep(pd.DataFrame([row])[COLUMNS])
    print(f"{method.name}, seed {seed}: {row['size_x']:.1f}x smaller, {row['speed_x']:.2f}x as fast, "
          f"{row['drop_points']:+.2f} points lost, {seconds:.0f} s", flush=True)  # fmt: skip


def _keep(added: pd.DataFrame) -> None:
    """Add rows to the table, which other runs of this benchmark may add to as well."""
    with read_write_lock(Path(tempfile.gettempdir()) / "compression.csv.lock"):
        rows = _rows()
        table = added if rows.empty else pd.concat([rows, added])
        write_atomically(RESULTS / "compression.csv", table.to_csv(index=False, float_format="%.6g").encode())


def _report(lab: Lab, rows: pd.DataFrame) -> str:
    size = lab.baseline.stat().st_size
    lines = [
        "# Compression on Fashion-MNIST",
        "",
        f"Baseline: ResNet-20, {size:,} bytes as float32 ONNX, test accuracy "
        f"{100 * lab.ruler.reference_accuracy:.2f} %. Every row is a file, measured: bytes on disk, speed against the "
        "baseline in one run, accuracy of the file on the 10,000 test images. Points lost are the baseline's accuracy "
        "less the file's; where a method trains, the mean over its seeds, and the largest distance from it. Seconds "
        "are those of one core.",
        f"Networks recover for {lab.settings.epochs} epochs (combinations for {LONG}, {LONGER} or {LONGEST}), "
        "distilled from the baseline; `nearest` and `error feedback` train nothing. Files of 8-bit activations have at "
        "most 7 bits.",
        _precisions(rows),
        "`compression_without_vnni.csv` has the rows that train nothing, of an earlier run on an AMD EPYC without VNNI "
        "(baseline of 93.91 %).",
    ]
    for title, methods in TABLES.items():
        names = [method.name for method in methods(lab)]
        lines += ["", f"## {title}", "", *_table(rows, names)]
    lines += [
        "",
        "## Goals",
        "",
        GOALS_LEAD,
        "",
        *_goals(rows),
        "",
        conditions(seeds=sorted(rows["seed"].unique().tolist())),
        "",
    ]
    return "\n".join(lines)


def _precisions(rows: pd.DataFrame) -> str:
    """Say what trained in which precision."""
    counts = rows.groupby("precision").size()  # what trains nothing has none
    told = " and ".join(f"{count} files in {precision}" for precision, count in counts.items())
    return f"Training computed {told} (column `precision` of the CSV)." if told else ""


def _table(rows: pd.DataFrame, names: list[str]) -> Iterator[str]:
    yield "| method | seeds | bytes | smaller | faster | test accuracy | points lost | load ms | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in names:
        found, shown = rows[rows["method"] == name], name.replace("|", r"\|")
        if found.empty:
            yield f"| {shown} | 0 | | | | not measured | | | |"
            continue
        mean = found.mean(numeric_only=True)
        spread = (found["drop_points"] - mean["drop_points"]).abs().max()
        lost = f"{mean['drop_points']:.2f}" + (f" ± {spread:.2f}" if len(found) > 1 else "")
        yield (
            f"| {shown} | {len(found)} | {mean['size_bytes']:,.0f} | {mean['size_x']:.1f}x | {mean['speed_x']:.2f}x | "
            f"{100 * mean['accuracy']:.2f} % | {lost} | {mean['load_ms']:.1f} | {mean['seconds']:.0f} |"
        )


def _goals(rows: pd.DataFrame) -> Iterator[str]:
    means = rows.groupby("method", sort=False).mean(numeric_only=True)
    for size, speed, points in ((20, 5, 0.5), (50, 8, 1.5)):
        goal = f"{size}x smaller and {speed}x faster at no more than {points} points lost"
        kept = means[(means["size_x"] >= size) & (means["speed_x"] >= speed)]
        if kept.empty:
            yield f"- {goal}: **missed**; no file is as small and as fast."
            continue
        best, how = _chosen(kept)
        verdict = "reached" if best["drop_points"] <= points else "**missed**"
        yield (
            f"- {goal}: {verdict}. Of the {len(kept)} files as small and as fast, `{best.name}` is {how}: "
            f"{best['size_x']:.1f}x, {best['speed_x']:.2f}x, {best['drop_points']:.2f} points lost on test."
        )


def _chosen(kept: pd.DataFrame) -> tuple[pd.Series[Any], str]:
    """Return the row to report, and how it was chosen: never by the test accuracy that is reported of it."""
    lost = kept.get("validation_drop_points")
    if lost is not None and lost.notna().all():
        return kept.iloc[int(lost.to_numpy().argmin())], "the best by validation"
    # Rows of earlier runs know no validation accuracy: what was trained the longest, and kept the most bytes.
    order = pd.DataFrame({"epochs": [_epochs(name) for name in kept.index], "size": kept["size_bytes"].to_numpy()})
    last = int(order.sort_values(["epochs", "size"]).index[-1])
    return kept.iloc[last], "that which was trained for the most epochs and is the largest of those"


def _epochs(method: str) -> int:
    """Return for how many epochs a method trains, as its name says; 0 where it does not."""
    found = re.search(r", (\d+) epochs$", method)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
