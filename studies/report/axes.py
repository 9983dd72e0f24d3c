"""Which axes of the search a trial uses, told by its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...spaces.candidate import FLOAT_BITS

if TYPE_CHECKING:
    import pandas as pd

AXES = {
    "bits": "fewer bits",
    "channels": "channels removed",
    "zeros": "weights zeroed",
    "student": "students",
    "cell": "NAS cells",
    "stages": "inverted-residual stages",
    "exits": "early exits",
}
"""Names of the axes in words, in the order in which they are shown."""

PREFIXES = ("architecture", "student.", "cell.", "stages.", "sparsity.", "bits.", "exit.")
"""What the names of parameters begin with."""


def parameter_names(trials: pd.DataFrame) -> list[str]:
    """Return the columns that are parameters of the search, in the order of the axes."""
    found = [(rank, name) for name in trials.columns for rank, start in enumerate(PREFIXES) if name.startswith(start)]
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def axes_used(trials: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Return, by axis, which trials use it: those where it chose something else than to leave the network alone.

    The choice counts and not what it comes to: a student of the baseline's depth is the student axis's doing.
    """
    chosen = trials["architecture"].fillna(trials["kind"]) if "architecture" in trials.columns else trials["kind"]
    kinds = chosen.to_numpy(dtype=object)
    bits = (_number(trials, "bits.weights") < FLOAT_BITS) | _any_of(trials, "bits.group.")
    return {
        "bits": bits,
        "channels": _number(trials, "sparsity.removed_channels") > 0,
        "zeros": _number(trials, "sparsity.zeroed_weights") > 0,
        **{name: kinds == name for name in ("student", "cell", "stages")},
        "exits": _number(trials, "exit.depth") > 0,
    }


def _number(trials: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name not in trials.columns:
        return np.full(len(trials), np.nan)
    return trials[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _any_of(trials: pd.DataFrame, start: str) -> NDArray[np.bool_]:
    names = [name for name in trials.columns if name.startswith(start)]
    return trials[names].notna().any(axis=1).to_numpy(dtype=bool)


def combination_labels(uses: dict[str, NDArray[np.bool_]], count: int) -> list[str]:
    """Return for each trial the axes it uses in one text, such as ``students + fewer bits``."""
    chosen = ([AXES[axis] for axis, used in uses.items() if used[index]] for index in range(count))
    return [" + ".join(axes) or "nothing changed" for axes in chosen]
