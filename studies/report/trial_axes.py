"""Which axes of the search a trial uses, told by its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...spaces.axes.axis import all_axes

if TYPE_CHECKING:
    import pandas as pd

_KIND = "architecture"
"""The parameter that chooses the kind of network."""


def names_of_uses() -> dict[str, str]:
    """Return what a candidate may use of the axes, each with its words, in the order in which they are shown."""
    return {use: words for axis in all_axes().values() for use, words in axis.uses.items()}


def parameter_names(trials: pd.DataFrame) -> list[str]:
    """Return the columns that are parameters of the search, in the order of the axes."""
    prefixes = (_KIND, *(axis.prefix for axis in all_axes().values()))
    found = [(rank, name) for name in trials.columns for rank, start in enumerate(prefixes) if name.startswith(start)]
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def axes_used(trials: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Return, by what may be used of the axes, which trials do: see :meth:`~karui.spaces.axes.axis.Axis.used`."""
    parameters = trials[parameter_names(trials)].astype(object)
    kinds = trials[_KIND].fillna(trials["kind"]) if _KIND in trials.columns else trials["kind"]
    parameters = parameters.assign(**{_KIND: kinds})
    chosen = [
        {str(name): value for name, value in row.items() if value is not None and value == value}
        for row in parameters.to_dict("records")
    ]
    return {
        use: np.array([axis.used(use, each) for each in chosen], dtype=np.bool_)
        for axis in all_axes().values()
        for use in axis.uses
    }


def combination_labels(uses: dict[str, NDArray[np.bool_]], count: int) -> list[str]:
    """Return for each trial the axes it uses in one text, such as ``students + fewer bits``."""
    words = names_of_uses()
    chosen = ([words[use] for use, used in uses.items() if used[index]] for index in range(count))
    return [" + ".join(axes) or "nothing changed" for axes in chosen]
