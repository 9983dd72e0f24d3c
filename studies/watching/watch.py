"""The live view of a search in another terminal: the call behind ``karui watch``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...search.record import TrialRecord
from ...search.stopping.early_stopping import describe_reports
from ..results.further import further_text
from ..results.read import find_results
from ..results.tables import OBJECTIVE_NAMES
from .durations import describe_seconds
from .status import Running, StatusReader, StudyStatus

MOST_POINTS = 12
"""How many points of the front a frame shows."""

_BLOCKS = "▁▂▃▄▅▆▇█"


def watch(
    study: str,
    console: Console,
    *,
    out: str | Path | None = None,
    storage: str | None = None,
    once: bool = False,
    every_seconds: float = 3.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a search until it ends or Ctrl-C is pressed; the search itself is not touched by either.

    Args:
        study: Path of a study file, name of a bundled study, or a results folder.
        console: Where to show it.
        out: The results folder, where it was given to the search.
        storage: URL of Optuna's storage, where it was given to the search.
        once: Show how things stand, and return.
        every_seconds: How often to look.
        sleep: Waits for so many seconds.

    Raises:
        OutputError: Where there is no such search yet, or its storage cannot be read.
    """
    reader = StatusReader(find_results(study, out, storage), study)
    status = reader.look()
    if once or not console.is_terminal:
        console.print(frame(status))
        if once:
            return
    try:
        with Live(frame(status), console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
            while status.is_running:
                sleep(every_seconds)
                status = reader.look()
                live.update(frame(status), refresh=True)
    except KeyboardInterrupt:
        return


def frame(status: StudyStatus) -> Group:
    """Lay out what a search is doing."""
    title = Text.assemble((status.name, "bold"), "  ", (status.phase, "green" if status.is_running else "dim"))
    parts: list[RenderableType] = [title, _summary(status)]
    if status.running:
        parts += [Text("\nrunning", style="bold"), _running(status.running)]
    if status.front:
        parts += [Text("\nfront so far, by validation accuracy", style="bold"), _front(status)]
    if status.failures:
        parts += [Text("\nfailed", style="bold"), _failures(status)]
    return Group(*parts)


def _summary(status: StudyStatus) -> Table:
    table = Table.grid(padding=(0, 2))
    counts = status.counts
    wanted = f" of {status.wanted}" if status.wanted else ""
    if status.wanted:
        table.add_row("progress", ProgressBar(total=status.wanted, completed=min(status.done, status.wanted), width=40))
    pruned = counts.get("duplicate", 0) + counts.get("impossible", 0)
    told = f"{status.done}{wanted} done, {len(status.running)} running, {pruned} already known or impossible, "
    told += f"{counts.get('stopped', 0)} stopped by gates, {counts.get('failed', 0)} failed"
    table.add_row("trials", Text(told))
    if gates := describe_reports(status.gates):
        table.add_row("gates", Text(gates.removeprefix("gates ")))
    if status.volumes:
        table.add_row("hypervolume", Text(f"{status.volumes[-1]:.4f}  {sparkline(status.volumes)}"))
    if status.seconds_left is not None:
        left = (
            f"about {describe_seconds(status.seconds_left)}"
            if status.seconds_left
            else "up; the front is measured again"
        )
        table.add_row("time left", Text(left))
    return table


def _running(running: tuple[Running, ...]) -> Table:
    table = _table("right", "left", "right")
    for each in running:
        took = describe_seconds(each.seconds)
        table.add_row(Text(str(each.trial)), Text(each.stage), Text(took), Text(each.summary, style="dim"))
    return table


def _table(*alignments: Literal["left", "right"]) -> Table:
    """Return a table of columns that keep their width, and one more that has what is left of the line."""
    table = Table.grid(padding=(0, 2), expand=True)
    for alignment in alignments:
        table.add_column(justify=alignment, no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    return table


def _front(status: StudyStatus) -> Table:
    table = _table("right", "right", "right", "right")
    for record in status.front[:MOST_POINTS]:
        table.add_row(*_point(record, status))
    if (more := len(status.front) - MOST_POINTS) > 0:
        table.add_row(Text(""), Text(""), Text(""), Text(""), Text(f"and {more} more", style="dim"))
    return table


def _point(record: TrialRecord, status: StudyStatus) -> list[Text]:
    size, latency, accuracy = record.values(OBJECTIVE_NAMES)
    baseline, further = status.baseline, further_text(record, status.objectives)
    smaller, faster = (f" {baseline[0] / size:.1f}x", f" {baseline[1] / latency:.2f}x") if baseline else ("", "")
    summary = record.summary
    summary = f"{further}; {summary}" if further else summary
    return [
        Text(str(record.number)),
        Text(f"{size / 1e3:,.1f} KB{smaller}"),
        Text(f"{latency:.4g} ms{faster}"),
        Text(f"{accuracy:.4f}"),
        Text(summary, style="dim"),
    ]


def _failures(status: StudyStatus) -> Table:
    table = _table("right", "left")
    for stage, (count, reason) in status.failures.items():
        table.add_row(Text(str(count)), Text(stage or "-"), Text(reason, style="dim"))
    return table


def sparkline(values: tuple[float, ...], width: int = 40) -> str:
    """Return a line of blocks, each as high as the last of its values among all; empty for no values."""
    if not values:
        return ""
    width = min(width, len(values))
    picked = [values[(place + 1) * len(values) // width - 1] for place in range(width)]
    most = max(values) or 1.0
    return "".join(_BLOCKS[min(int(value / most * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in picked)
