"""How a front and one point of it look in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ..bundle.model_card import standing
from ..choosing.ranking import target_columns
from ..results.certification import HOLDS
from ..results.metric_text import loss_of, loss_text, speed_text, with_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from ...evaluators.measurement import Measurement
    from ...evaluators.training_speed import TrainingSpeed
    from ...search.objectives import Objective
    from ...spaces.building.stage_cache import EntrySize
    from ..bundle.verify import Verification
    from ..preflight.verdicts import Preflight


def front_view(table: pd.DataFrame, further: Sequence[Objective] = ()) -> Text:
    """Lay a front out in two lines a point, numbers and candidate, which fit 80 columns and a pipe.

    Args:
        table: As :func:`karui.load_front` returns it.
        further: What the study searched for beside size, latency and accuracy; shown beside the candidate.
    """
    from ..results.further import (  # with numpy, which the command line does without until it needs it
        title_of,
        value_text,
    )

    on_test = "test_accuracy" in table.columns
    accuracy = "test_accuracy" if on_test else "accuracy"  # what is reported, not what points are chosen by
    heads = ("point", "size", "latency", f"{'test' if on_test else 'validation'} accuracy", "mark" if on_test else "")
    view = Text(_columns(*heads) + "\n", style="")
    view.stylize("bold")
    for _, row in table.iterrows():
        smaller = f"{row['size_x']:6.1f}x" if on_test else ""
        cells = (
            row["point"],
            f"{row['size_bytes'] / 1e3:,.1f} KB{smaller}",
            f"{row['latency_ms']:.3f} ms {1 / row['latency_ratio']:6.2f}x",
            with_interval(row[accuracy], row.get(f"{accuracy}_spread", 0.0)),
            _mark(row) if on_test else "",
        )
        view.append(_columns(*cells) + "\n", style="not bold")
        covering = row.get("covered_by")
        no_gain = f"; no certain gain over {covering}" if isinstance(covering, str) else ""
        values = "".join(f"{title_of(item)} {value_text(item, row[item.name])}; " for item in further)
        view.append(f"       {values}{row['candidate']}{no_gain}\n", style="dim not bold")
    return view


def _mark(row: pd.Series[Any]) -> str:
    """Return the mark of a point; a front of an earlier version has none."""
    return str(row.get("mark", HOLDS if row["holds"] else "dominated"))


def _columns(point: str, size: str, latency: str, accuracy: str, mark: str) -> str:
    return f"{point:<6}{size:>18}  {latency:>18}  {accuracy:>19}  {mark}".rstrip()


def with_spread(row: pd.Series[Any], name: str, digits: int) -> str:
    """Return a value with its spread, where it has one."""
    spread = row.get(f"{name}_spread", 0.0)
    return f"{row[name]:.{digits}f} ± {spread:.{digits}f}" if spread == spread and spread else f"{row[name]:.{digits}f}"


def cache_view(folder: Path, entries: Sequence[EntrySize]) -> Text:
    """Lay out how many entries of each kind a cache holds, and their size."""
    view = Text(f"{folder}\n")
    for kind in sorted({entry.kind for entry in entries}):
        sizes = [entry.size_bytes for entry in entries if entry.kind == kind]
        view.append(f"{kind:<10}{len(sizes):>8}  {sum(sizes) / 1e6:>12,.1f} MB\n")
    view.append(f"{'all':<10}{len(entries):>8}  {sum(entry.size_bytes for entry in entries) / 1e6:>12,.1f} MB")
    return view


def preflight_view(found: Preflight) -> Text:
    """Lay out what each axis can win on a target, and what its layers are, which fits 80 columns and a pipe."""
    view = Text(f"{found.target}: {found.conditions.get('processor', '')}".rstrip(": ") + "\n")
    if found.whole:
        view.append("  bits: of the whole model\n", style="dim")
    for layer, share in dict.fromkeys((row.layer, row.share) for row in found.rows):
        view.append(f"  {layer}: {share:.0%} of the multiply-adds\n", style="dim")
    view.append(f"{'':<34}{'smaller':>8}  {'faster':>14}  wins in\n", style="bold")
    for verdict in found.verdicts():
        if verdict.time_ratio is None:
            view.append(f"{verdict.variant:<34}{'':>8}  {'cannot run':>14}  nothing\n")
            continue
        faster = _times_faster(verdict.time_ratio, verdict.time_spread)
        slower = ", slower" if verdict.is_slower else ""
        smaller = f"{1 / verdict.size_ratio:.1f}x"
        view.append(f"{verdict.variant:<34}{smaller:>8}  {faster:>14}  {verdict.pays_in}{slower}\n")
    if found.multiples:
        view.append(f"channels: in multiples of {found.multiple}\n")
    if found.float_operators:
        view.append("faster in float32 beside 8-bit activations:\n")
        view.append(f"  {', '.join(found.float_operators)}\n")
    return view


def training_view(found: TrainingSpeed) -> Text:
    """Lay out what training in bfloat16 wins on this machine, in a line like those of :func:`preflight_view`."""
    faster = _times_faster(found.time_ratio, found.time_spread)
    return Text(f"{'training here in bfloat16':<34}{'':>8}  {faster:>14}")


def _times_faster(time_ratio: float, spread: float) -> str:
    speed = 1 / time_ratio
    return f"{speed:.2f} ± {speed * spread / time_ratio:.2f}x"


_COLOURS = {"kept": "green", "missed": "bold red", "not comparable": "yellow", "not checked": "yellow"}


def verification_view(verification: Verification) -> Text:
    """Lay out what was checked of a bundle, one line each, and what came of all."""
    view = Text()
    for check in verification.checks:
        view.append(f"{check.name:<14}")
        view.append(f"{check.verdict:<15}", style=_COLOURS[check.verdict])
        view.append(f"{check.text}\n")
    view.append(f"{verification.bundle}: {verification.verdict}", style=_COLOURS[verification.verdict])
    return view


def point_view(row: pd.Series[Any], baseline: Mapping[str, Measurement] | None = None) -> Table:
    """Lay one point of a front out.

    Args:
        row: As in ``front.csv``.
        baseline: The baseline's measurements by name; without them nothing is said of what is lost against it.
    """
    view = Table.grid(padding=(0, 2))
    view.add_row("point", Text(f"{row['point']}, trial {row['trial']}: {row['candidate']}"))
    smaller = f" ({row['size_x']:.1f}x smaller)" if "size_x" in row else ""
    view.add_row("size", f"{row['size_bytes']:,.0f} bytes{smaller}")
    view.add_row("latency", f"{with_spread(row, 'latency_ms', 3)} ms ({speed_text(row['latency_ratio'])})")
    for target, column in target_columns(row.index).items():
        if (ratio := row.get(f"latency_ratio@{target}", float("nan"))) == ratio:
            told = f"{with_spread(row, column, 3)} ms ({speed_text(ratio)}) on {target}"
            view.add_row("", Text(told))
    if (tail := row.get("latency_p95_ratio", float("nan"))) == tail:
        view.add_row("", f"{tail:.2f}x your model's, 95th percentile over inputs")
    if (load_ms := row.get("load_ms", float("nan"))) == load_ms:
        view.add_row("load time", f"{load_ms:.1f} ms ({row['load_ratio']:.2f}x your model's)")
    if (peak := row.get("load_peak_bytes", float("nan"))) == peak:
        view.add_row("load memory", f"{peak / 1e6:,.0f} MB at its highest")
    if (memory := row.get("session_peak_bytes", float("nan"))) == memory:
        view.add_row("memory", f"{memory / 1e6:,.1f} MB for opening and running it")
    if (energy := row.get("energy_mj", float("nan"))) == energy:
        view.add_row("energy", f"{energy:.4g} mJ a run ({row['energy_ratio']:.2f}x your model's)")
    view.add_row("accuracy", f"{_accuracy(row, baseline, 'accuracy')} on validation, by which points are chosen")
    if "test_accuracy" in row:
        view.add_row("", f"{_accuracy(row, baseline, 'test_accuracy')} on test, which chose nothing")
        view.add_row("file", Text(str(row["file"])))
        if told := standing({str(name): value for name, value in row.items()}):
            view.add_row("mark", Text(told))
    return view


def _accuracy(row: pd.Series[Any], baseline: Mapping[str, Measurement] | None, name: str) -> str:
    """Return a point's accuracy on one split, and what that is less than the baseline's."""
    told = with_interval(float(row[name]), float(row.get(f"{name}_spread", 0.0)))
    if baseline is None or name not in baseline:
        return told
    lost, spread = loss_of(row, baseline[name])
    metric = str(baseline[name].conditions.get("metric", "accuracy"))
    said = loss_text(lost, spread, baseline[name].value, metric)
    return f"{told} ({said} {'lost' if lost >= 0 else 'gained'})"
