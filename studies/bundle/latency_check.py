"""Whether a bundle's file is as fast on a target as its configuration says: where the two can be compared at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CandidateFailure, KaruiError
from ...evaluators.runtimes.onnxruntime_runner import CPU_PROVIDER
from ...evaluators.targets.target import TARGETS, Target
from ...evaluators.timing.alternating import PairTiming, TimingSettings
from ...evaluators.timing.machine_lock import MachineLock
from ...spaces.artifact import file_digest
from ...spaces.data.named import contiguous, from_arrays, joined
from ..study_file.target_options import make_target
from .arrays import read_arrays
from .check import Check, VerifyOptions
from .config import CONFIG, SAMPLES, BundleConfig, MeasurementPaper

RATIO_TOLERANCE = 0.15
"""By what share the ratio to the reference may be higher than it was: what days and loads make of it."""

MILLISECONDS_TOLERANCE = 0.5
"""By what share milliseconds may be higher than they were: a machine's clock and load differ from day to day."""

ONNXRUNTIME = "onnxruntime"
"""The runtime where conditions name none."""

_MOST = {"threads": 1_024, "batch_size": 65_536}
"""What conditions may say of numbers that decide how much is asked of this machine."""

_KIND = ("processor", "runtime", "provider", "threads")


def check_latency(bundle: Path, config: BundleConfig, options: VerifyOptions, changed: set[str]) -> Check:
    """Check that latency on a target is not above what the configuration says by more than the tolerance.

    With the reference the ratio to it is compared, timed in alternation as then; without, milliseconds, with a wide
    tolerance. On a device of another kind both are only told.

    Args:
        bundle: The folder.
        config: Its configuration.
        options: The target, the reference and the tolerance.
        changed: Files that are known not to be those that were exported.

    Raises:
        KaruiError: Where there is no such target, or the reference is not the one of this bundle.
    """
    said = config.measurements.get("latency_ratio")
    if said is None or "latency_p95_ratio" in config.measurements:
        told = "it was measured over many inputs, one at a time, which the bundle does not hold"
        return Check("latency", "not comparable", told)
    _check_reference(options.reference, said.conditions)
    for name, most in _MOST.items():
        if type(value := said.conditions.get(name, 1)) is not int or not 1 <= value <= most:
            return Check(
                "latency", "not comparable", f"it was measured, says {CONFIG}, with {name} = {str(value)[:60]!r}"
            )
    inputs = _inputs(bundle, said.conditions, changed)
    if inputs is None:
        return Check("latency", "not checked", "the bundle holds no samples to time it on")
    target = _open_target(options, said.conditions)
    if target is None:
        told = f"onnxruntime has no {said.conditions.get('provider')} here, by which it was measured"
        return Check("latency", "not comparable", told)
    file = bundle / "model.onnx"
    try:
        with MachineLock().measuring():
            timing = target.time_pair(options.reference or file, file, inputs, TimingSettings())
    except CandidateFailure as failure:
        return Check("latency", "missed", f"the file does not run on the target: {failure.reason}")
    return _compare(config, timing, target.conditions(), options)


def _compare(config: BundleConfig, timing: PairTiming, here: Mapping[str, Any], options: VerifyOptions) -> Check:
    """Compare the ratio where there is a reference, else milliseconds: where these are of the device that was timed."""
    said, said_ms = config.measurements["latency_ratio"], config.measurements["latency_ms"]
    differing, newer = _differing(said.conditions, here), _other_runtime(said.conditions, here)
    if options.reference is not None:
        tolerance = RATIO_TOLERANCE if options.latency_tolerance is None else options.latency_tolerance
        return _judge(timing.ratio, timing.ratio_spread, said, f"of the reference's{newer}", tolerance, differing)
    tolerance = MILLISECONDS_TOLERANCE if options.latency_tolerance is None else options.latency_tolerance
    scale = said_ms.conditions.get("milliseconds_of", said_ms.conditions.get("target"))
    if scale != said_ms.conditions.get("target"):  # the slowest of several targets, told in another's milliseconds
        differing = f"in the measure of {scale}"
    return _judge(timing.reference_ms, timing.reference_ms_spread, said_ms, f"ms{newer}", tolerance, differing)


def _judge(found: float, spread: float, said: MeasurementPaper, unit: str, tolerance: float, differing: str) -> Check:
    numbers = {"found": found, "spread": spread, "said": said.value, "said_spread": said.spread, "tolerance": tolerance}
    text = f"{found:.4g} ± {spread:.2g} {unit}, {said.value:.4g} ± {said.spread:.2g} was measured"
    if differing:
        return Check("latency", "not comparable", f"{text} {differing}", numbers)
    slow = found - spread > (said.value + said.spread) * (1 + tolerance)
    return Check("latency", "missed" if slow else "kept", f"{text}, {tolerance:.0%} more is allowed", numbers)


def _check_reference(reference: Path | None, conditions: Mapping[str, Any]) -> None:
    if reference is None:
        return
    found = file_digest(reference) if reference.is_file() else "no such file"
    expected = conditions.get("reference_digest")
    if found != expected:
        raise KaruiError(
            "that is not the file against which this bundle was measured",
            where=f"--reference {reference}",
            expected=f"sha256 {expected}: baseline.onnx of the results folder",
            got=found,
            remedy="name that file, or leave --reference out to compare milliseconds",
        )


def _inputs(bundle: Path, conditions: Mapping[str, Any], changed: set[str]) -> Any:
    """Return a batch of samples as large as was timed; None where there are none."""
    if SAMPLES in changed:
        return None
    arrays, fault = read_arrays(bundle / SAMPLES, ("inputs",))
    if fault:
        return None
    size, inputs = int(conditions.get("batch_size", 1)), from_arrays("inputs", arrays)
    return contiguous(joined([inputs] * (-(-size // len(inputs))))[:size])


def _open_target(options: VerifyOptions, conditions: Mapping[str, Any]) -> Target | None:
    """Return the target as it was then; None where this machine has not the provider."""
    import onnxruntime

    provider, runtime = (
        str(conditions.get(name, usual)) for name, usual in (("provider", CPU_PROVIDER), ("runtime", ONNXRUNTIME))
    )
    here = onnxruntime.get_available_providers()
    if options.target == "local" and runtime == ONNXRUNTIME and provider not in here:
        return None
    given = {"threads": conditions.get("threads", 1), "provider": provider, "runtime": runtime}
    target: Target = make_target(str(options.target), TARGETS, options.target_options, **given)
    return target


def _differing(said: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return in what the two devices differ; empty where they are of one kind."""
    keys = [key for key in _KIND if key in said and said[key] != here.get(key)]
    told = ", ".join(f"{key} {here.get(key)!r} instead of {said[key]!r}" for key in keys)
    return f"on another kind of device: {told}" if told else ""


def _other_runtime(said: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return that the runtime is of another version: what that makes of the latency is for the check to find."""
    name = str(said.get("runtime", ONNXRUNTIME))
    then, now = said.get(name), here.get(name)
    return "" if then == now else f" with {name} {now} instead of {then}"
