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

from ...search.early_stopping import describe_reports
from ...search.record import TrialRecord
from ..further import further_text
from ..read import find_results
from ..tables import OBJECTIVE_NAMES
from .durations import describe_seconds
from .sight import Onlooker, Running, Sight

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
    onlooker = Onlooker(find_results(study, out, storage), study)
    sight = onlooker.look()
    if once or not console.is_terminal:
        console.print(frame(sight))
        if once:
            return
    try:
        with Live(frame(sight), console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
            while sight.is_running:
                sleep(every_seconds)
                sight = onlooker.look()
                live.update(frame(sight), refresh=True)
    except KeyboardInterrupt:
        return


def frame(sight: Sight) -> Group:
    """Lay out what a search is doing."""
    title = Text.assemble((sight.name, "bold"), "  ", (sight.phase, "green" if sight.is_running else "dim"))
    parts: list[RenderableType] = [title, _summary(sight)]
    if sight.running:
        parts += [Text("\nrunning", style="bold"), _running(sight.running)]
    if sight.front:
        parts += [Text("\nfront so far, by validation accuracy", style="bold"), _front(sight)]
    if sight.failures:
        parts += [Text("\nfailed", style="bold"), _failures(sight)]
    return Group(*parts)


def _summary(sight: Sight) -> Table:
    table = Table.grid(padding=(0, 2))
    counts = sight.counts
    wanted = f" of {sight.wanted}" if sight.wanted else ""
    if sight.wanted:
        table.add_row("progress", ProgressBar(total=sight.wanted, completed=min(sight.done, sight.wanted), width=40))
    pruned = counts.get("duplicate", 0) + counts.get("impossible", 0)
    told = f"{sight.done}{wanted} done, {len(sight.running)} running, {pruned} already known or impossible, "
    told += f"{counts.get('stopped', 0)} stopped by gates, {counts.get('failed', 0)} failed"
    table.add_row("trials", Text(told))
    if gates := describe_reports(sight.gates):
        table.add_row("gates", Text(gates.removeprefix("gates ")))
    if sight.volumes:
        table.add_row("hypervolume", Text(f"{sight.volumes[-1]:.4f}  {sparkline(sight.volumes)}"))
    if sight.seconds_left is not None:
        left = (
            f"about {describe_seconds(sight.seconds_left)}" if sight.seconds_left else "up; the front is measured again"
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


def _front(sight: Sight) -> Table:
    table = _table("right", "right", "right", "right")
    for record in sight.front[:MOST_POINTS]:
        table.add_row(*_point(record, sight))
    if (more := len(sight.front) - MOST_POINTS) > 0:
        table.add_row(Text(""), Text(""), Text(""), Text(""), Text(f"and {more} more", style="dim"))
    return table


def _point(record: TrialRecord, sight: Sight) -> list[Text]:
    size, latency, accuracy = record.values(OBJECTIVE_NAMES)
    baseline, further = sight.baseline, further_text(record, sight.objectives)
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


def _failures(sight: Sight) -> Table:
    table = _table("right", "left")
    for stage, (count, reason) in sight.failures.items():
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
