"""The methods that ``search.py`` compares: searches of one study, and what is made without a search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import optuna
from measuring import Ruler  # type: ignore[import-not-found]
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from search_task import TASKS, make_task, train_baseline  # type: ignore[import-not-found]

from karui.errors import CandidateFailure
from karui.search.proposals import SamplerName
from karui.search.statistics.front import ACCURACY_ALLOWANCE
from karui.spaces.axes.students.choice import Student
from karui.spaces.building.baseline import prepare_baseline
from karui.spaces.building.build import Builder
from karui.spaces.building.stage_cache import StageCache
from karui.spaces.candidate import Candidate
from karui.spaces.task import Task
from karui.studies.study_file.spec import StudySpec
from karui.studies.study_file.spec_reading import change_spec, load_spec
from karui.studies.study_file.spec_sections import BoundsSpec, CacheSpec, GatesSpec, PreflightSpec

AXES = ("bits", "sparsity", "students", "cells")
ENDLESS_TRIALS = 1_000_000
BASELINE = "baseline.safetensors"

Factory = Callable[[int], optuna.samplers.BaseSampler]


@dataclass(frozen=True)
class Searched:
    """A search of the study, changed.

    Args:
        name: As it is shown.
        changes: Keys of the study that are otherwise.
        keeps_networks: Whether a trained network is used again.
        sampler: Optuna's own sampler instead of karui's of the study; then nothing is tried first either.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    keeps_networks: bool = True
    sampler: Factory | None = None


@dataclass(frozen=True)
class Made:
    """Files made without a search.

    Args:
        name: As it is shown.
        make: Yields file after file, given the lab, a folder and a seed.
    """

    name: str
    make: Callable[[Lab, Path, int], Iterator[Path]]


class Lab:
    """The task with its baseline, trained once, and the study that all searches are variations of.

    Args:
        folder: Where the baseline is kept.
        name: Of the task.
        train_samples: How many training images; all where None.
    """

    def __init__(self, folder: Path, name: str, train_samples: int | None) -> None:
        spec, weights = load_spec(TASKS[name]), folder / BASELINE
        train_baseline(name, train_samples, spec.recovery, weights)
        options: dict[str, Any] = {"name": name, "weights": str(weights), "train_samples": train_samples}
        self.task: Task = make_task(**options)
        self.baseline = prepare_baseline(self.task, spec.recovery, folder).path
        inputs = self.task.calibration_batch(1).numpy()
        self.validation = Ruler(self.baseline, inputs, replace(self.task, test=self.task.validation))
        # What the hypervolume does not count, no search need look for.
        least = self.validation.reference_accuracy - ACCURACY_ALLOWANCE
        self.spec = change_spec(
            spec,
            {
                "task": f"{Path(__file__).resolve().parent / 'search_task.py'}:make_task",
                "task_options": options,
                "trials": ENDLESS_TRIALS,
                # A search that ends by the clock would spend half of it on training its front anew.
                "recovery": spec.recovery.model_copy(update={"final_factor": 1}),
                "bounds": BoundsSpec(min_accuracy=least),
                "preflight": PreflightSpec(layers=0),  # it tells a user, and no search
            },
            "search.py",
        )

    def ruler(self) -> Ruler:
        """Return what measures files on the test split."""
        return Ruler(self.baseline, self.task.calibration_batch(1).numpy(), self.task)

    def study(self, method: Searched, folder: Path, seed: int, minutes: float) -> StudySpec:
        """Return the study of a search, with a cache of its own."""
        cache = CacheSpec(folder=str(folder / "cache"), gigabytes=20.0 if method.keeps_networks else 0.0)
        own = {"seed": seed, "hours": minutes / 60, "cache": cache}
        return change_spec(self.spec, {**own, **method.changes}, method.name)


def searches() -> Iterator[Searched]:
    """Yield every search: karui, karui without its parts, Optuna alone, each axis alone."""
    no_gates = {"gates": GatesSpec(stop_at=())}
    yield Searched("karui")
    yield Searched("karui, no cache", {"followers": 0}, keeps_networks=False)
    yield Searched("karui, no gates", no_gates)
    yield Searched("karui, no cache, no gates", {"followers": 0, **no_gates}, keeps_networks=False)
    plain = {"followers": 0, **no_gates}
    for name, sampler in _plain_samplers().items():
        yield Searched(f"plain {name}", {**plain, "sampler": name}, keeps_networks=False, sampler=sampler)
    for axis in AXES:
        yield Searched(f"only {axis}", {other: None for other in AXES if other != axis})


def _plain_samplers() -> dict[SamplerName, Factory]:
    return {
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
        # Optuna's own 50 in a generation would be a random search for most of the time that there is.
        "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=8),
    }


def made() -> Iterator[Made]:
    """Yield what is made without a search."""
    int8 = Candidate(weight_bits=8, activation_bits=8)
    yield Made("uniform int8", lambda lab, folder, seed: _built(lab, folder, seed, [int8]))
    yield Made("onnxruntime int8, every setting", _runtime_grid)
    by_hand = [
        int8,
        replace(int8, removed_channels=0.25),
        replace(int8, removed_channels=0.5),
        replace(int8, architecture=Student("shallower", 1.0, 0.5)),
    ]
    yield Made("by hand", lambda lab, folder, seed: _built(lab, folder, seed, by_hand))


def _built(lab: Lab, folder: Path, seed: int, candidates: list[Candidate]) -> Iterator[Path]:
    spec = lab.spec
    cache = StageCache(folder / "cache")
    builder = Builder(lab.task, spec.recovery, folder / "build", seed, spec.quantization, cache=cache)
    for candidate in candidates:
        try:
            yield builder.build(candidate).path
        except CandidateFailure as failure:
            print(f"{candidate.describe()}: {failure}", flush=True)


def _runtime_grid(lab: Lab, folder: Path, seed: int) -> Iterator[Path]:
    """Yield the file of every setting of ``quantize_static`` with int8 weights, in QDQ form, that runs."""
    name = onnx.load(lab.baseline).graph.input[0].name
    inputs = lab.task.calibration_batch(lab.spec.quantization.calibration_samples).numpy()
    methods = list(CalibrationMethod)
    types = (QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16)
    for number, setting in enumerate(product(methods, (False, True), (False, True), types)):
        method, per_channel, reduce_range, activation_type = setting
        path = folder / f"runtime{number:02d}.onnx"
        try:
            with redirect_stdout(StringIO()), _without_advice():  # it prints what it does
                quantize_static(
                    lab.baseline, path, _Feeds(name, inputs), quant_format=QuantFormat.QDQ, calibrate_method=method,
                    per_channel=per_channel, reduce_range=reduce_range, activation_type=activation_type,
                    weight_type=QuantType.QInt8,
                )  # fmt: skip
            onnx.checker.check_model(onnx.load(path))
        except Exception as error:  # which of them it does not offer, it says in many ways
            told = f"{method.name}, per channel {per_channel}, reduced {reduce_range}, {activation_type.name}"
            print(f"{told}: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}", flush=True)
            continue
        yield path


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep onnxruntime from advising, at every setting anew, to simplify the graph first: it is simple."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self._feeds = iter([{name: inputs[index : index + 1]} for index in range(len(inputs))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
