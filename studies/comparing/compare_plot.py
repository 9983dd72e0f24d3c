"""The picture of two runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..plotting.plots import as_it_is, label_ticks, picture_of, staircase, two_axes
from ..storage.folder import explain_os_errors, followed, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .compare import Comparison, Side

# Okabe & Ito's palette, told apart by colour-blind readers, and by their shapes.
_LOOKS = (("A", "#0072B2", "o"), ("B", "#D55E00", "s"))


def draw_comparison(axes: Axes, found: Comparison, cost: str) -> None:
    """Draw both fronts, accuracy over ``latency`` or ``size``, into the given axes; hollow where it is covered."""
    for side, label, (letter, colour, marker) in zip((found.first, found.second), _labels(found), _LOOKS, strict=True):
        costs = _costs(found, side, cost)
        corners = staircase(costs, side.accuracies)
        axes.step(*corners, where="post", color=colour, linewidth=1.2, alpha=0.7, zorder=2)
        axes.errorbar(
            costs, side.accuracies, yerr=side.accuracy_spreads, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.45
        )
        for covered in (False, True):
            chosen = [place for place, is_covered in enumerate(side.covered) if is_covered == covered]
            axes.scatter(
                [costs[place] for place in chosen],
                [side.accuracies[place] for place in chosen],
                marker=marker,
                s=36,
                facecolors="white" if covered else colour,
                edgecolors=colour,
                zorder=3,
                label=f"{letter}: {label}{', covered by the other' if covered else ''}",
            )
        unit = _units(found, side, cost)
        axes.scatter(
            [unit],
            [side.baseline_accuracy],
            marker="*",
            s=200,
            color=colour,
            edgecolors="black",
            linewidths=0.8,
            zorder=4,
            label=f"{letter}: its baseline",
        )
    axes.set_xscale("log")
    label_ticks(axes.xaxis)
    names = {"latency": "latency, ms (log)", "size": "file size, KB (log)"}
    shares = {
        "latency": "latency, share of its own baseline's (log)",
        "size": "size, share of its own baseline's (log)",
    }
    axes.set_xlabel((names if found.absolute else shares)[cost])
    axes.set_ylabel(f"{as_it_is(found.metric)} ({'test' if found.on_test else 'validation'})")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.6)


def _labels(found: Comparison) -> tuple[str, str]:
    """Return how the two are told apart: two runs of one study by their folders."""
    first, second = found.first, found.second
    names = (first.path, second.path) if first.name == second.name else (first.name, second.name)
    return as_it_is(names[0]), as_it_is(names[1])


def _units(found: Comparison, side: Side, cost: str) -> float:
    """Return what a share of 1 is on the plot."""
    if not found.absolute:
        return 1.0
    return found.first.baseline_ms if cost == "latency" else side.baseline_bytes / 1e3


def _costs(found: Comparison, side: Side, cost: str) -> tuple[float, ...]:
    shares = side.latency_shares if cost == "latency" else side.size_shares
    return tuple(share * _units(found, side, cost) for share in shares)


def save_comparison(path: Path, found: Comparison) -> None:
    """Write the two plots, accuracy over latency and over size, as one PNG.

    Raises:
        OutputError: Where the file cannot be written.
    """
    figure, left, right = two_axes()
    draw_comparison(left, found, "latency")
    draw_comparison(right, found, "size")
    label_a, label_b = _labels(found)
    volumes = found.first.hypervolume, found.second.hypervolume
    title = f"A: {label_a}, hypervolume {volumes[0]:.2f}   B: {label_b}, hypervolume {volumes[1]:.2f}"
    picture = picture_of(figure, title, legend_columns=3)
    with explain_os_errors(path, "picture", "another --plot"):
        write_atomically(followed(path), picture)
