"""Whether the runtime opens a bundle's file, and whether that answers to the samples as it did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...errors import CandidateFailure
from ...evaluators.runtimes.onnxruntime_runner import Runner
from ...spaces.artifact import file_digest
from ...spaces.data.named import from_arrays, parts_of
from .arrays import read_arrays, run_inputs
from .check import Check
from .config import SAMPLES, BundleConfig

# What onnxruntime 1.32 says; where another version words it differently its own words are shown.
_NEWER_OPSET = re.compile(r"Opset (\d+) is under development.*for domain (\S+) is till opset (\d+)", re.DOTALL)
_NEWER_FORMAT = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")


def check_opens(bundle: Path, config: BundleConfig, changed: bool) -> Check:
    """Check that ``model.onnx`` is the file that was measured, and that this runtime opens it.

    Args:
        bundle: The folder.
        config: Its configuration.
        changed: Whether the file is known not to be the one that was exported: it is then not opened.
    """
    path = bundle / "model.onnx"
    if changed:
        return Check("file", "missed", "model.onnx was not opened: its sum is wrong or missing")
    digest = file_digest(path)
    if digest != config.sha256:
        told = f"model.onnx is not the file that was measured: sha256 {digest} instead of {config.sha256}"
        return Check("file", "missed", told)
    try:
        Runner(path, stage="verify")
    except CandidateFailure as failure:
        return Check("file", "missed", _why_not(failure.reason))
    return Check("file", "kept", f"onnxruntime {onnxruntime.__version__} opens it", {"sha256": digest})


def _why_not(reason: str) -> str:
    version = f"onnxruntime {onnxruntime.__version__}"
    if (match := _NEWER_OPSET.search(reason)) is not None:
        domain = "" if match[2] == "ai.onnx" else f" of {match[2]}"
        return (
            f"the file needs the operators of opset {match[1]}{domain}, and {version} knows them up to opset {match[3]}"
            ": a newer onnxruntime is needed"
        )
    if (match := _NEWER_FORMAT.search(reason)) is not None:
        return (
            f"the file is of ONNX's format {match[1]}, and {version} knows formats up to {match[2]}: a newer "
            "onnxruntime is needed"
        )
    return f"{version} cannot open the file: {reason}"


def check_parity(bundle: Path, config: BundleConfig, tolerance: float | None, changed: set[str]) -> Check:
    """Check that the file answers to the samples as it did when it was measured.

    Args:
        bundle: The folder.
        config: Its configuration.
        tolerance: Largest difference, as a share of the largest expected output; the configuration's where None.
        changed: Files that are known not to be those that were exported.
    """
    if config.samples is None:
        return Check(
            "parity", "not checked", "the bundle holds no samples: its front was certified before there were any"
        )
    if SAMPLES in changed:
        return Check("parity", "missed", f"{SAMPLES} was not read: its sum is wrong or missing")
    arrays, fault = read_arrays(bundle / SAMPLES, ("inputs", "outputs"))
    if fault:
        return Check("parity", "missed", f"the samples cannot be read: {fault}")
    allowed = config.samples.tolerance if tolerance is None else tolerance
    try:
        found = run_inputs(Runner(bundle / "model.onnx", stage="verify"), from_arrays("inputs", arrays))
    except CandidateFailure as failure:
        return Check("parity", "missed", f"the file does not run on the samples: {failure.reason}")
    expected = from_arrays("outputs", arrays)
    given = parts_of(found, single=next(iter(parts_of(expected))))
    checks = [_compare(given[name], part, allowed, name) for name, part in parts_of(expected).items() if name in given]
    missed = next((check for check in checks if check.verdict != "kept"), None)
    if len(checks) < len(parts_of(expected)):
        return Check("parity", "missed", f"the file lacks outputs: it has {', '.join(given)}")
    return missed or max(checks, key=lambda check: check.numbers["difference"])


def _compare(found: NDArray[Any], expected: NDArray[Any], allowed: float, name: str = "") -> Check:
    of = f"outputs {name}".rstrip()
    if found.shape != expected.shape:
        told = f"{of} of shape {found.shape} to the samples, {expected.shape} was expected"
        return Check("parity", "missed", told)
    difference = np.abs(found.astype(np.float64) - expected).max() / max(float(np.abs(expected).max()), 1e-30)
    numbers = {"difference": float(difference), "allowed": allowed, "samples": len(expected)}
    text = (
        f"{of} to {len(expected)} samples differ from the expected ones by {difference:.2g} of the largest, "
        f"{allowed:g} is allowed"
    )
    if not np.isfinite(difference):
        return Check("parity", "missed", "the file answers to the samples with NaN or infinity", {"allowed": allowed})
    return Check("parity", "kept" if difference <= allowed else "missed", text, numbers)
