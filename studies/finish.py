"""The end of a search: its front measured again, and all that is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna

from ..evaluators.row_scores import RowStore
from ..search.objectives import without_bounds
from ..search.record import TrialRecord, read_records
from ..search.stopping.early_stopping import RuleReport, report_rules
from .bundle.samples import write_samples
from .certifying.certify import Certified, certify, files_to_measure
from .certifying.finish_time import AFTERWARDS_SECONDS
from .certifying.front_point import front_table, write_descriptions
from .certifying.pairing import Pairing
from .certifying.remeasuring import Earlier, measure_again
from .measuring.workbench import Workbench
from .results.certification import read_certification, write_certification
from .results.result import StudyResult, nearest_records
from .results.tables import edge_records, front_records, trials_table, write_csv
from .storage.folder import RunFolder, write_atomically
from .storage.study_notes import note_baseline, read_baseline
from .study_file.spec import StudySpec
from .watching.watcher import Watcher

if TYPE_CHECKING:
    import pandas as pd

    from .measuring.bench import Bench


@dataclass
class Finish:
    """Measures the front of a study again and writes what its results folder holds of it.

    Args:
        spec: The study.
        folder: Its results folder.
        study: Optuna's.
        watcher: Is told how it goes.
        bench: Measures.
        earlier: Latencies that were measured again while the search ran.
        left: Returns how many seconds the run has left for all this.
    """

    spec: StudySpec
    folder: RunFolder
    study: optuna.Study
    watcher: Watcher
    bench: Bench
    earlier: Earlier
    left: Callable[[], float] = lambda: math.inf

    def run(self, workbench: Workbench, ending: str, waited: bool) -> StudyResult:
        """Measure the front again, unless another search has done just that while this one waited for it.

        Args:
            workbench: What a new process sets its own bench up from.
            ending: Why the search ended.
            waited: Whether it had to wait for another search that was measuring the front.

        Raises:
            TargetUnavailable: Where a target does not answer.
            KaruiError: Where the target or the task is at fault.
        """
        bench, objectives = self.bench, self.spec.objectives()
        records = read_records(self.study)
        front = front_records(records, objectives)
        mark = certified_mark(records, front)
        if waited and self.folder.certified.is_file() and self.folder.certified.read_bytes() == mark.encode():
            return self._result_of_another(records, ending)
        paired = Pairing(RowStore(self.folder.rows)).among(objectives)
        edge = edge_records(records, objectives=objectives, differences=paired)
        wanted = files_to_measure(front, edge, bench)
        beside = f" and {len(wanted) - len(front)} from its edge" if len(wanted) > len(front) else ""
        self.watcher.phase(f"measuring the front again, {len(front)} files{beside}, on the test split")
        with bench.lock.working():
            bench.measure_baseline_on_test()
        note_baseline(self.study, bench.artifact.digest, bench.baseline)
        again = measure_again(
            wanted,
            bench,
            workbench,
            self.watcher.happened,
            objectives=objectives,
            earlier=self.earlier,
            left=lambda: self.left() - AFTERWARDS_SECONDS,
        )
        with bench.lock.working():
            certified = certify(front, again, bench.baseline, self.folder, bench.targets.conditions())
            result = self._keep(certified, records, ending)
        if again.late:  # whoever waits is to measure what is missing
            self.folder.certified.unlink(missing_ok=True)
        else:
            write_atomically(self.folder.certified, mark.encode())
        return result

    def _keep(self, certified: Certified, records: Sequence[TrialRecord], ending: str) -> StudyResult:
        bench = self.bench
        points, certification = certified.points, certified.certification
        write_descriptions(points, self.spec.name, bench.baseline, self.spec.objectives())
        write_samples(bench.task, [point.file for point in points], self.folder)
        table = front_table(points, bench.baseline)
        write_csv(table, self.folder.front_csv)
        trials = trials_table(records, self.spec.objectives())
        write_csv(trials, self.folder.trials_csv)
        write_certification(self.folder, certification)
        self._plot(table, trials)
        ending = "; ".join([ending, *certification.lost])
        nearest = () if points else nearest_records(records, self.spec, bench.baseline)
        gates, objectives = self._gates(records), without_bounds(self.spec.objectives())
        return StudyResult(
            self.folder.path, table, trials, bench.baseline, ending, nearest, gates, certification, objectives
        )

    def _result_of_another(self, records: Sequence[TrialRecord], ending: str) -> StudyResult:
        from .results.read import read_front_table

        table = read_front_table(self.folder)
        known = read_baseline(self.study)
        baseline = known[1] if known else self.bench.baseline
        nearest = () if len(table) else nearest_records(records, self.spec, baseline)
        trials = trials_table(records, self.spec.objectives())
        certification = read_certification(self.folder)
        gates, objectives = self._gates(records), without_bounds(self.spec.objectives())
        return StudyResult(self.folder.path, table, trials, baseline, ending, nearest, gates, certification, objectives)

    def _gates(self, records: Sequence[TrialRecord]) -> tuple[RuleReport, ...]:
        return report_rules(records, self.spec.objectives())

    def _plot(self, front: pd.DataFrame, trials: pd.DataFrame) -> None:
        from .plotting.plots import front_numbers, save_front

        if len(front):
            values = {name: item.value for name, item in self.bench.baseline.items()}
            numbers = front_numbers(front, trials, values, self.bench.task.metric_name, self.spec.objectives())
            title = (
                f"{self.spec.name}: {len(front)} files on the front, "
                f"up to {front['size_x'].max():.0f}x smaller and {front['speed_x'].max():.1f}x faster"
            )
            save_front(self.folder.front_png, numbers, title)


def certified_mark(records: Sequence[TrialRecord], front: Sequence[TrialRecord]) -> str:
    """Return what tells a front that was measured again, and the trials that it is of, from any other.

    A trial that another search has in flight is none of these: it may end while this front is measured.
    """
    ended = sum(record.state not in ("running", "waiting") for record in records)
    return f"{ended} trials, front of {', '.join(str(record.number) for record in front)}"
