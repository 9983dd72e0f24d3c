"""How a comparison of two runs looks in a terminal, as CSV, and as a picture."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from .folder import explain_os_errors, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .compare import Comparison, Side

# Okabe & Ito's palette, told apart by colour-blind readers, and by their shapes.
_LOOKS = (("A", "#0072B2", "o"), ("B", "#D55E00", "s"))
_SHOWN = 5


def comparison_table(found: Comparison) -> pd.DataFrame:
    """Return one row per point of both fronts."""
    import pandas as pd

    rows = [
        {
            **{"run": letter, "study": side.name, "point": point, "size_x": 1 / size, "speed_x": 1 / latency},
            **{"accuracy": accuracy, "accuracy_spread": spread, "covered_by_other": covered, "candidate": candidate},
        }
        for letter, side in (("A", found.first), ("B", found.second))
        for point, size, latency, accuracy, spread, covered, candidate in zip(
            *(side.points, side.size_shares, side.latency_shares, side.accuracies),
            *(side.accuracy_spreads, side.covered, side.candidates),
            strict=True,
        )
    ]
    columns = ["run", "study", "point", "size_x", "speed_x", "accuracy", "accuracy_spread", "covered_by_other"]
    return pd.DataFrame(rows, columns=[*columns, "candidate"])


def comparison_view(found: Comparison) -> Text:
    """Lay a comparison out: both fronts, what each covers of the other, and what both have measured."""
    view = Text()
    for letter, side in (("A", found.first), ("B", found.second)):
        view.append(f"{letter}: {side.name}, {side.path}\n", style="bold")
    for note in found.notes:
        view.append(f"{note}\n", style="yellow")
    view.append("\n")
    view.append(_heads(found), style="bold")
    for letter, side in (("A", found.first), ("B", found.second)):
        for place in range(len(side.points)):
            view.append(_line(found, letter, side, place))
            view.append(f"       {side.candidates[place]}\n", style="dim")
    view.append("\n")
    for sentence in [*_front_sentences(found), *_common_sentences(found)]:
        view.append(f"{sentence}\n")
    return view


def _heads(found: Comparison) -> str:
    accuracy = f"{'test' if found.on_test else 'validation'} {found.metric}"
    return f"{'point':<7}{'size':>20}  {'latency':>20}  {accuracy:>20}  covered\n"


def _line(found: Comparison, letter: str, side: Side, place: int) -> str:
    size, latency = side.size_shares[place], side.latency_shares[place]
    size_text, latency_text = f"{1 / size:.1f}x", f"{1 / latency:.2f}x"
    if found.absolute:
        size_text = f"{size * side.baseline_bytes / 1e3:,.1f} KB {size_text:>7}"
        latency_text = f"{latency * found.first.baseline_ms:.3f} ms {latency_text:>7}"
    accuracy = f"{side.accuracies[place]:.4f} ± {side.accuracy_spreads[place]:.4f}"
    other = "B" if letter == "A" else "A"
    covered = f"by {other}" if side.covered[place] else "no"
    return f"{letter} {side.points[place]:<5}{size_text:>20}  {latency_text:>20}  {accuracy:>20}  {covered}\n"


def _front_sentences(found: Comparison) -> list[str]:
    first, second = found.first, found.second
    sentences = [
        f"Hypervolume, both against one reference: A {first.hypervolume:.3f}, B {second.hypervolume:.3f}"
        + (f" ({second.hypervolume / first.hypervolume - 1:+.1%})." if first.hypervolume else ".")
    ]
    for own, other, side in (("A", "B", first), ("B", "A", second)):
        if side.covered_share is None:
            sentences.append(f"{own} has no front.")
        else:
            sentences.append(
                f"Of {own}'s {len(side.points)} points {sum(side.covered)} are covered: a point of {other} is at least "
                f"as good in size, latency and accuracy (C({other}, {own}) = {side.covered_share:.2f})."
            )
    return sentences


def _common_sentences(found: Comparison) -> list[str]:
    common = found.common
    if common.median_change is None:
        return ["No candidate was measured in both runs."]
    sentences = [
        f"Measured in both: {len(common.candidates)}. Beside its baseline, the median one takes in B "
        f"{common.median_change:.3f} times what it takes in A. The most changed:"
    ]
    sentences += [
        f"  {item.change:.3f} ± {item.change_spread:.3f}  {item.candidate} ({item.first_ratio:.3f} and "
        f"{item.second_ratio:.3f} of the baseline's)"
        for item in common.candidates[:_SHOWN]
    ]
    sentences.append(f"Pairs that both can tell apart: {common.told_apart}; in another order: {len(common.flips)}.")
    sentences += [
        f"  {flip.faster_in_first}: {flip.first_share:.2f} of what {flip.faster_in_second} takes in A, "
        f"{flip.second_share:.2f} in B"
        for flip in common.flips[:_SHOWN]
    ]
    return sentences


def draw_comparison(axes: Axes, found: Comparison, cost: str) -> None:
    """Draw both fronts, accuracy over ``latency`` or ``size``, into the given axes; hollow where it is covered."""
    from .plots import label_ticks, staircase

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
    axes.set_ylabel(f"{found.metric} ({'test' if found.on_test else 'validation'})")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.6)


def _labels(found: Comparison) -> tuple[str, str]:
    """Return how the two are told apart: two runs of one study by their folders."""
    first, second = found.first, found.second
    return (first.path, second.path) if first.name == second.name else (first.name, second.name)


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_comparison(left, found, "latency")
    draw_comparison(right, found, "size")
    right.set_ylabel("")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    label_a, label_b = _labels(found)
    volumes = found.first.hypervolume, found.second.hypervolume
    figure.suptitle(f"A: {label_a}, hypervolume {volumes[0]:.2f}   B: {label_b}, hypervolume {volumes[1]:.2f}")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    with explain_os_errors(path, "picture", "another --plot"):
        write_atomically(path, picture.getvalue())
