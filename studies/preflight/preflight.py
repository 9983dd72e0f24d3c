"""Preflight: what each axis can win on a target, told by probes of the model's own largest layers."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ...errors import CandidateFailure, KaruiError
from ...evaluators.probing import Lane, LikedMultiple, ProbeRow
from ...evaluators.targets.target import Target
from ...evaluators.targets.telling import tell_nobody
from ...evaluators.timing.alternating import TimingSettings
from ...evaluators.whole_model import WholeModel
from ...spaces.artifact import file_digest
from ...spaces.building.probes.probe_layers import largest_layers
from ...spaces.building.untrained_proxy import CALIBRATION_SAMPLES
from ...spaces.rounding.settings import QuantizationSettings
from ..storage.folder import RunFolder, explain_cache_errors, explain_os_errors
from ..study_file.spec import StudySpec
from .kept import keep, read_kept
from .training_check import training_speed_of
from .verdicts import Findings, Preflight

if TYPE_CHECKING:
    from ..measuring.bench import Bench

FORMAT = 2


def preflight_of(bench: Bench, spec: StudySpec, folder: RunFolder, told: Callable[[str], None]) -> Findings:
    """Return what was found on each target of a study, and where its candidates train, now or earlier.

    Args:
        bench: Its targets, its task and its baseline's file.
        spec: The study.
        folder: Its results folder.
        told: Is told what is tried.
    """
    settings = replace(bench.timing, max_seconds=spec.preflight.max_seconds)

    def next_layer(text: str) -> None:
        bench.lock.let_work()  # all of them take minutes
        told(text)

    def fly_on(name: str, target: Target) -> Preflight:
        return fly(
            name,
            target,
            bench.artifact.path,
            settings,
            layers=max(1, spec.preflight.layers),
            batch_size=spec.latency.batch_size,
            kept=folder.preflight,
            told=next_layer,
            inputs=inputs,
            quantization=spec.quantization,
            integers=any(axis.computes_in_integers for axis in spec.space.axes),
        )

    inputs = bench.task.calibration_batch(CALIBRATION_SAMPLES).numpy()
    targets = bench.targets.on_each(fly_on)
    training = training_speed_of(bench.task, spec, kept=folder.preflight, told=told, alone=bench.lock.measuring)
    return Findings(tuple(targets), training)


def run_preflight(
    study: str | Path,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    told: Callable[[str], None] = tell_nobody,
) -> Findings:
    """Try on each target of a study what its axes can win there, without searching.

    Args:
        study: Path of a study file, or name of a bundled study.
        out: Results folder; ``runs/<name>`` where left out. The baseline is trained there where the task asks for it.
        data: Folder of the data, handed to the task's function as ``data_dir``.
        told: Is told what goes on.

    Raises:
        KaruiError: On anything the user can put right.
    """
    from ...evaluators.timing.machine_lock import MachineLock
    from ...spaces.building.baseline import prepare_baseline
    from ..measuring.bench import Bench
    from ..measuring.workbench import cache_of, prepare_task
    from ..study_file.spec_reading import resolve_spec

    spec = resolve_spec(study, data=data)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / spec.name)
    folder.prepare()
    with explain_os_errors(folder.path), explain_cache_errors(cache_of(spec, folder).folder):
        told("loading the task")
        task = prepare_task(spec, None)
        told("preparing the baseline")
        with folder.alone("baseline", lambda: told("waiting for another search's baseline")):
            cache = cache_of(spec, folder)
            begun = _began_with(folder, spec.name)
            artifact = prepare_baseline(task, spec.recovery, folder.path, seed=spec.seed, cache=cache, began_with=begun)
        try:
            return preflight_of(Bench(task, artifact, spec, MachineLock()), spec, folder, told)
        except CandidateFailure as failure:
            raise KaruiError(
                "no probe can be built of this model",
                where=spec.task,
                expected="layers of known shapes",
                got=failure.reason,
            ) from failure


def _began_with(folder: RunFolder, name: str) -> str:
    """Return the SHA-256 of the baseline's file that a study in this folder began with; empty where there is none."""
    from ..storage.store import open_study
    from ..storage.study_notes import digest_begun

    if not folder.database.exists():
        return ""
    try:
        return digest_begun(open_study(folder.own_storage, name, create=False))
    except KaruiError:  # of another study, or damaged: that is told where it is needed
        return ""


def fly(
    name: str,
    target: Target,
    baseline: Path,
    settings: TimingSettings,
    *,
    layers: int,
    batch_size: int = 1,
    kept: Path | None = None,
    told: Callable[[str], None] = tell_nobody,
    inputs: NDArray[Any] | None = None,
    quantization: QuantizationSettings | None = None,
    integers: bool = True,
) -> Preflight:
    """Time the probes of a model on a target, or return what an earlier preflight found there.

    Args:
        name: What the target is called.
        target: Where to measure.
        baseline: The model's float32 ONNX file.
        settings: How long each probe is timed.
        layers: How many kinds of layers are tried, those of the most multiply-adds.
        batch_size: Inputs in one run.
        kept: A JSON file in which results lie by model, settings and target; None to keep them nowhere.
        told: Is told what is tried.
        inputs: Inputs of the model, shape (n, *input_shape), on which the whole of it is timed with fewer bits; None to
            time its layers alone.
        quantization: How weights and activations are rounded.
        integers: Whether it matters what 8-bit activations bring.

    Raises:
        CandidateFailure: Where the model has no layer that a probe can be built of.
        KaruiError: Where the target is at fault.
    """
    quantization = quantization or QuantizationSettings()
    whole = inputs if integers else None
    key = _key(name, target, baseline, settings, layers, batch_size, None if whole is None else quantization)
    known = read_kept(kept)
    if key in known:
        return Preflight.from_dict(known[key])
    rows: list[ProbeRow] = []
    multiples: list[LikedMultiple] = []
    with tempfile.TemporaryDirectory(prefix="karui-preflight-") as place:
        for layer in largest_layers(baseline, layers):
            told(layer.describe())
            lane = Lane(target, layer, settings, batch_size, Path(place))
            rows += lane.variants()
            multiples += lane.liked_multiple()
        kinds, of_model = quantization.float_kinds, []
        if whole is not None:
            model = WholeModel(target, baseline, whole, settings, quantization, batch_size, Path(place), told)
            kinds = model.float_kinds() if quantization.float_operators == "auto" else kinds
            of_model = list(model.rows(kinds))
    found = Preflight(name, tuple(rows), tuple(multiples), target.conditions(), tuple(of_model), kinds)
    keep(kept, key, found.to_dict())
    return found


def _key(
    name: str,
    target: Target,
    baseline: Path,
    settings: TimingSettings,
    layers: int,
    batch_size: int,
    quantization: QuantizationSettings | None,
) -> str:
    whole = {}
    if quantization is not None:
        whole = {"baseline": file_digest(baseline), "quantization": quantization.model_dump(mode="json")}
    told = {
        "format": FORMAT,
        "whole": whole,
        "layers": [asdict(layer) for layer in largest_layers(baseline, layers)],
        "settings": settings.to_dict(),
        "batch_size": batch_size,
        "name": name,
        "target": target.fingerprint(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
