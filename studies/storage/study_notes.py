"""What is noted of a study beside its trials: what its results mean, its seed, and its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import optuna

from ... import __version__
from ...errors import StudyFileError
from ...evaluators.measurement import Measurement
from ...search.turns import Turns
from .reading import explain_damage


def check_meaning(study: optuna.Study, meaning: Mapping[str, Any], usual: Mapping[str, Any], where: str) -> None:
    """Note what the study's results mean, or refuse to go on with a study file that means something else.

    Args:
        study: Optuna's.
        meaning: What the study file means now.
        usual: What was meant by a key that there was not yet when the study began.
        where: The study, for the error.

    Raises:
        StudyFileError: Naming each key that differs.
    """
    noted = study.user_attrs.get("meaning")
    if noted is None or not has_begun(study):
        study.set_user_attr("meaning", dict(meaning))
        return
    differing = list(_differences(noted, meaning, usual))
    if differing:
        raise StudyFileError(
            "the study file has changed since this study began, in a way that changes what its results mean",
            where=where,
            expected="; ".join(f"{key} = {before!r}" for key, before, _ in differing),
            got="; ".join(f"{key} = {after!r}" for key, _, after in differing),
            remedy="take it back (what the file leaves out may be another default now: write it down), or start anew "
            "with another --out (trials, hours, seed and sampler may change)",
        )


def training_seed(study: optuna.Study, seed: int) -> int:
    """Return the seed that the study began with, and note it where it has not begun: all its training goes by one."""
    if "training_seed" not in study.user_attrs or not has_begun(study):
        study.set_user_attr("training_seed", seed)
    with _explained("training_seed"):
        return int(study.user_attrs["training_seed"])


def has_begun(study: optuna.Study) -> bool:
    """Say whether there are results: before the baseline is measured, a study file may still be corrected."""
    return "baseline" in study.user_attrs or bool(study.get_trials(deepcopy=False))


def _differences(before: Any, after: Any, usual: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        known = usual if isinstance(usual, Mapping) else {}
        for name in sorted({*before, *after}):
            was = before[name] if name in before else known.get(name)
            yield from _differences(was, after.get(name), known.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield key, before, after


def agreed_multiple(study: optuna.Study, found: int, turns: Turns) -> int:
    """Return of what number channels are a multiple in all of a study: what its first search found.

    Args:
        study: Optuna's.
        found: What this search finds.
        turns: How searches that share the study take turns.
    """
    with turns():
        if "channel_multiple" not in study.user_attrs:
            study.set_user_attr("channel_multiple", found)
        with _explained("channel_multiple"):
            return int(study.user_attrs["channel_multiple"])


def agreed_float_operators(study: optuna.Study, found: tuple[str, ...], turns: Turns) -> tuple[str, ...]:
    """Return which operators stay float32 beside 8-bit activations in all of a study: what its first search found.

    A study that has trials from before this was found goes on as it began: with none.

    Args:
        study: Optuna's.
        found: What this search finds.
        turns: How searches that share the study take turns.
    """
    with turns():
        if "float_operators" not in study.user_attrs:
            has_files = any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
            study.set_user_attr("float_operators", [] if has_files else list(found))
        return tuple(study.user_attrs["float_operators"])


def note_baseline(study: optuna.Study, digest: str, measurements: Mapping[str, Measurement]) -> None:
    """Keep the baseline's digest and measurements with the study, and at first which version exported it."""
    if "baseline" not in study.user_attrs:
        study.set_user_attr("baseline_karui", __version__)
    study.set_user_attr("baseline_digest", digest)
    study.set_user_attr("baseline", {name: item.to_dict() for name, item in measurements.items()})


def digest_begun(study: optuna.Study) -> str:
    """Return the SHA-256 of the baseline's file that the study began with; empty where it was not measured yet."""
    known = read_baseline(study)
    return "" if known is None else known[0]


def version_begun(study: optuna.Study) -> str:
    """Return in words which karui the study began with; earlier versions did not note it."""
    noted = study.user_attrs.get("baseline_karui")
    return "an earlier version" if noted is None else f"karui {noted}"


def read_baseline(study: optuna.Study) -> tuple[str, dict[str, Measurement]] | None:
    """Return the baseline's digest and measurements, or None where it was not measured yet."""
    if "baseline" not in study.user_attrs:
        return None
    with _explained("baseline"):
        plain = study.user_attrs["baseline"]
        found = {name: Measurement.from_dict(item) for name, item in plain.items()}
        return str(study.user_attrs["baseline_digest"]), found


def _explained(attribute: str) -> AbstractContextManager[None]:
    remedy = "restore study.db from a copy, or begin anew with another --out or --storage"
    return explain_damage(f"the attribute {attribute!r} in the study's storage", "what is noted of the study", remedy)
