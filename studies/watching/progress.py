"""What a running search shows: counts, the best of each objective, the hypervolume, the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...evaluators.measurement import metric_text
from ...evaluators.targets.telling import FOR_DEVICE
from ...search.objectives import OBJECTIVES, Objective
from ...search.record import TrialRecord
from ...search.statistics.front import hypervolume
from ...spaces.building.stage_cache import WAITING
from ...spaces.candidate import Candidate
from ..results.further import further_text
from ..results.tables import OBJECTIVE_NAMES, names_of
from ..study_file.spec import StudySpec
from .durations import describe_seconds
from .watcher import WAITING_FOR_BASELINE, WAITING_FOR_MEASURING, Watcher


class ProgressView(Watcher):
    """Shows a study in a terminal, live where it is one and line by line where it is not.

    Use it as a context manager.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = "starting"
        self._spec: StudySpec | None = None
        self._baseline: dict[str, float] = {}
        self._values: list[tuple[float, ...]] = []
        self._counts: Counter[str] = Counter()
        self._promoted = 0
        self._to_promote = 0
        self._volume = 0.0
        self._known = 0
        self._running: dict[int, tuple[str, str]] = {}
        self._began = self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=False, get_renderable=self._render)

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = "stopped" if kind else "done"
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Show what takes a while now."""
        self._phase = text
        self._say(text)

    def note(self, text: str) -> None:
        """Print what was found out; it stays above what is shown live."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def searching(self, spec: StudySpec, baseline: dict[str, float], known: Sequence[TrialRecord]) -> None:
        """Take up what is known when the search begins."""
        self._spec, self._baseline = spec, baseline
        self._began = time.monotonic()
        for record in known:
            self._count(record)
        self._known = self._done
        words = f"searching: {self._known} of {spec.trials} trials are known already" if self._known else "searching"
        self.phase(words)

    def begun(self, number: int, candidate: Candidate) -> None:
        """Show the candidate in flight."""
        self._running[number] = (candidate.describe(), "")

    def reached(self, number: int, stage: str) -> None:
        """Show where a candidate in flight is."""
        summary, _ = self._running.get(number, ("", ""))
        self._running[number] = (summary, stage)
        # whoever waits to measure waits for a step of the others; for a network or a device it may be minutes
        if stage in (WAITING, WAITING_FOR_BASELINE, WAITING_FOR_MEASURING) or stage.startswith(FOR_DEVICE):
            self._say(f"trial {number}: {stage}")

    def ended(self, record: TrialRecord) -> None:
        """Count a trial that has ended."""
        self._count(record)
        self._running.pop(record.number, None)
        if record.state in ("evaluated", "failed", "stopped"):
            self._say(self._line(record))

    def seen(self, record: TrialRecord) -> None:
        """Count a trial of another search."""
        self._count(record)

    def happened(self, event: str, **details: Any) -> None:
        """Show what concerns the whole search; what concerns one candidate is told when that ends."""
        if event == "stale trial":
            self._say(f"trial {details['trial']} was left running by a search that is gone")
        elif event == "target unavailable" and details["is_news"]:
            got = f": {details['got']}" if details["got"] else ""
            self.note(f"{details['reason']}{got}; what is to be measured there waits, and others are made meanwhile")
        elif event == "target unavailable":
            self._say(f"trial {details['trial']} waits; the target is tried in {details['again_in_seconds']} s")
        elif event == "unexpected error":
            self._say(f"trial {details['trial']} met an error that is not its own: {details['reason']}")
        elif event == "candidates left for want of time":
            self.note(f"no time is left for {len(details['trials'])} in flight; the next run begins them again")
        elif event == "target answers again":
            self.note(f"the target answers again; {details['candidates']} candidates have waited for it")
        elif event == "measured again while idle":
            told = f"{details['latency_ms']:.4g} ± {details['latency_ms_spread']:.2g} ms"
            self._say(f"trial {details['trial']} measured again while the device stood idle: {told}")
        elif event == "promotion begun":
            self._promoted, self._to_promote = 0, details["candidates"]
            times = f"{details['epochs_factor']} times the epochs"
            candidates = "1 candidate" if self._to_promote == 1 else f"{self._to_promote} candidates"
            self.phase(f"promoting the front: {candidates}, trained anew for {times}")

    @property
    def _objectives(self) -> tuple[Objective, ...]:
        return OBJECTIVES if self._spec is None else self._spec.objectives()

    @property
    def _done(self) -> int:
        return self._counts["evaluated"] + self._counts["failed"]

    def _count(self, record: TrialRecord) -> None:
        if record.is_promoted and record.outcome is None and record.state != "failed":
            return  # nothing came of it yet
        if record.is_promoted:
            self._promoted += 1  # on top of the study's trials
        else:
            self._counts[record.state] += 1
        if record.feasible:
            names = names_of(self._objectives)
            self._values.append(record.values(names))
            self._volume = hypervolume(self._values, [self._baseline[name] for name in names], self._objectives)

    def _say(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, record: TrialRecord) -> str:
        total = self._spec.trials if self._spec else 0
        done = f"promoted {self._promoted}/{self._to_promote}" if record.is_promoted else f"{self._done}/{total}"
        head = f"[{done}] trial {record.number} {record.summary}"
        if record.outcome is None:
            at = f"stopped at the gate {record.stage}" if record.state == "stopped" else f"failed at {record.stage}"
            return f"{head}: {at}: {record.reason}"
        size, latency, accuracy = record.values(OBJECTIVE_NAMES)
        speed = self._baseline["latency_ms"] / latency
        further = further_text(record, self._objectives)
        mark = f"{', ' if further else ''}{further}{'' if record.feasible else ', breaks a bound'}"
        return f"{head}: {size / 1e3:.1f} KB, {latency:.4g} ms ({speed:.2f}x), accuracy {metric_text(accuracy)}{mark}"

    def _render(self) -> Group:
        parts: list[Text | Table] = [Text(self._phase, style="bold")]
        if self._spec is not None:
            parts.append(self._summary(self._spec))
            for number, (summary, stage) in self._running.items():
                line = f"trial {number}: {stage}{': ' if stage else ''}{summary}"
                parts.append(Text(line, style="dim", overflow="ellipsis", no_wrap=True))
        return Group(*parts)

    def _summary(self, spec: StudySpec) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("progress", ProgressBar(total=spec.trials, completed=self._done, width=50))
        pruned = self._counts["duplicate"] + self._counts["impossible"]
        table.add_row(
            "trials",
            f"{self._done} of {spec.trials} done, {len(self._running)} running, "
            f"{pruned} pruned, {self._counts['stopped']} stopped by gates, {self._counts['failed']} failed",
        )
        if self._to_promote:
            table.add_row("promoted", f"{self._promoted} of {self._to_promote}")
        table.add_row("best", self._best())
        table.add_row("hypervolume", f"{self._volume:.4f}")
        table.add_row("time left", self._time_left())
        return table

    def _best(self) -> str:
        if not self._values:
            return "no candidate keeps the bounds yet"
        sizes, latencies, accuracies, *_ = zip(*self._values, strict=True)
        smaller = self._baseline["size_bytes"] / min(sizes)
        faster = self._baseline["latency_ms"] / min(latencies)
        return (
            f"size {min(sizes) / 1e3:.1f} KB ({smaller:.1f}x)   latency {min(latencies):.4g} ms ({faster:.1f}x)   "
            f"accuracy {metric_text(max(accuracies))} (yours {metric_text(self._baseline['accuracy'])})"
        )

    def _time_left(self) -> str:
        if self._spec is None:
            return "unknown"
        elapsed = time.monotonic() - self._began
        done = self._done - self._known
        left = (self._spec.trials - self._done) * elapsed / done if done and not self._to_promote else None
        if self._spec.hours is not None:
            limit = max(0.0, 3600 * self._spec.hours - (time.monotonic() - self._started))
            left = limit if left is None else min(left, limit)
        return "unknown" if left is None else f"about {describe_seconds(left)}"
