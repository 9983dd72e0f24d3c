"""Whether a bundle is still what was exported, answers as it did, and is as good and as fast as it says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import KaruiError, OutputError
from ..storage.reading import check_is_file
from .accuracy_check import check_accuracy, read_data
from .check import Check, VerifyOptions
from .config import CONFIG, SAMPLES, SCHEMA, BundleConfig, read_config
from .file_check import check_opens, check_parity
from .latency_check import check_latency
from .sums import SUMS, find_sum_faults

Verdict = Literal["kept", "missed"]

_NEEDED = frozenset({"model.onnx", CONFIG, SCHEMA, "MODEL_CARD.md", "run.py"})


@dataclass(frozen=True)
class Verification:
    """What came of verifying a bundle.

    Args:
        bundle: The folder.
        checks: In the order in which they were made.
    """

    bundle: Path
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """``missed`` where any check was, else ``kept``; what could not be compared misses nothing."""
        return "missed" if any(check.verdict == "missed" for check in self.checks) else "kept"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        checks = [
            {"name": check.name, "verdict": check.verdict, "text": check.text, "numbers": dict(check.numbers)}
            for check in self.checks
        ]
        return {"bundle": str(self.bundle), "verdict": self.verdict, "checks": checks}


def verify_bundle(bundle: Path, options: VerifyOptions | None = None) -> Verification:
    """Check sums, parity, accuracy on given data, and latency on a target, as far as each can be.

    A file that is not the one that was exported is neither opened nor believed.

    Args:
        bundle: The folder.
        options: What else is given.

    Raises:
        KaruiError: Where the folder is no bundle, or what is given beside it cannot be used.
    """
    options = options or VerifyOptions()
    _check_is_bundle(bundle)
    data = None if options.data is None else read_data(options.data)
    faults = find_sum_faults(bundle, _NEEDED)
    if faults:
        checks = [Check("sums", "missed", fault.text, {"file": fault.file}) for fault in faults]
    else:
        checks = [Check("sums", "kept", f"every file is as its sum in {SUMS} says")]
    changed = {fault.file for fault in faults}
    if SUMS in changed:  # then nothing can be believed
        changed |= {"model.onnx", CONFIG, SAMPLES}
    config = _config(bundle, changed, checks)
    if config is None:
        return Verification(bundle, tuple(checks))
    opened = check_opens(bundle, config, "model.onnx" in changed)
    checks.append(opened)
    if opened.verdict == "kept":
        checks.append(check_parity(bundle, config, options.tolerance, changed))
        if data is not None:
            checks.append(check_accuracy(bundle, config, data))
        if options.target is not None:
            checks.append(check_latency(bundle, config, options, changed))
    return Verification(bundle, tuple(checks))


def _check_is_bundle(bundle: Path) -> None:
    if not bundle.is_dir() or not any((bundle / name).exists() for name in ("model.onnx", CONFIG, SUMS)):
        raise KaruiError(
            "there is no bundle",
            where=str(bundle),
            expected=f"a folder with model.onnx, {CONFIG} and {SUMS}, as `karui pick --export` writes it",
            got="a folder without any of them"
            if bundle.is_dir()
            else "a file"
            if bundle.exists()
            else "no such folder",
        )


def _config(bundle: Path, changed: set[str], checks: list[Check]) -> BundleConfig | None:
    """Return the configuration, or None with a check that says why nothing more can be checked."""
    path = bundle / CONFIG
    if CONFIG in changed:
        told = f"{CONFIG} was not read: its sum is wrong or missing, so nothing can be compared with what it says"
        checks.append(Check("configuration", "missed", told))
        return None
    try:
        check_is_file(path)
        config = read_config(path.read_text(encoding="utf-8"), str(path))
    except OutputError as error:
        checks.append(Check("configuration", "missed", "; ".join([error.what, *(t for _, t in error.details()[:3])])))
        return None
    except UnicodeDecodeError:
        checks.append(Check("configuration", "missed", f"{CONFIG} is no text"))
        return None
    except (OSError, ValueError) as error:
        checks.append(Check("configuration", "missed", f"{CONFIG} cannot be read: {error}"))
        return None
    checks.append(Check("configuration", "kept", f"{config.point} of the study {config.study}: {config.summary}"))
    return config


def as_json(verification: Verification) -> str:
    """Return what came of it as JSON."""
    return json.dumps(verification.to_dict(), indent=2, ensure_ascii=False)
