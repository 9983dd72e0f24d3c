"""How a comparison of two runs looks in a terminal, and as CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from ..results.metric_text import with_interval

if TYPE_CHECKING:
    import pandas as pd

    from .compare import Comparison, Side

_SHOWN = 5


def comparison_table(found: Comparison) -> pd.DataFrame:
    """Return one row per point of both fronts."""
    import pandas as pd

    rows = [
        {
            **{"run": letter, "study": side.name, "point": point, "size_x": 1 / size, "speed_x": 1 / latency},
            **{"accuracy": accuracy, "accuracy_spread": spread},
            **{"covered_by_other": covered, "matched_by_other": matched, "candidate": candidate},
        }
        for letter, side in (("A", found.first), ("B", found.second))
        for point, size, latency, accuracy, spread, covered, matched, candidate in zip(
            *(side.points, side.size_shares, side.latency_shares, side.accuracies),
            *(side.accuracy_spreads, side.covered, side.matched, side.candidates),
            strict=True,
        )
    ]
    columns = ["run", "study", "point", "size_x", "speed_x", "accuracy", "accuracy_spread", "covered_by_other"]
    return pd.DataFrame(rows, columns=[*columns, "matched_by_other", "candidate"])


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
    accuracy = with_interval(side.accuracies[place], side.accuracy_spreads[place])
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
                f"as good in size, latency and accuracy (C({other}, {own}) = {side.covered_share:.2f}); "
                f"{sum(side.matched)} where what may be noise does not count."
            )
    if first.points and second.points:
        sentences.append(
            "Accuracies of the two runs are compared row by row."
            if found.paired
            else "Accuracies of the two runs count as independent: it is not known of all which rows they got right."
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
