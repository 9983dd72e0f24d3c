"""What is lost where things go wrong: 50 kills of one search, and candidates that crash, hang, take all memory or fail.

Kills: ``karui search`` is started again and again on one study, and its process group ends by SIGKILL at a random
moment, three times of four while candidates are made and measured, else while it loads. Every other time it has a
worker, which has to notice that the search is gone, else none. Then the search ends in peace, and the same study with
as many trials is searched once without a kill. Faults: in a study for each kind, the task of ``faulty_task.py`` makes
every tenth training of a candidate go wrong.

A trial is lost where the storage, read after each kill, had it complete and in the end has not, or where a candidate
failed that had no fault. A measurement is repeated where two complete trials have the same candidate or have measured
the same file, or where a candidate is measured to its end whose measurements had been kept before its trial began.

Writes ``results/search_faults.csv`` (a row per kind of fault) and ``.md``. Run as
``python benchmarks/search_faults.py``; takes about 20 minutes.

    --folder DIR   working folder (runs/search_faults); what is done there is not done again
    --kills N      how many kills (50)
    --trials N     candidates of each study with faults (25)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from faulty_task import EVERY, FAULTS  # type: ignore[import-not-found]
from measuring import RESULTS, conditions  # type: ignore[import-not-found]
from optuna.trial import FrozenTrial, TrialState

from karui.search.record import read_record
from karui.spaces.candidate import Candidate
from karui.studies.storage.folder import RunFolder
from karui.studies.watching.log import read_log

STUDY = """
task = "{task}:make_task"
trials = 100000
sampler = "random"
seed = {seed}
followers = {followers}
candidate_minutes = {minutes}

[task_options]
fault = "{fault}"
diary = "{diary}"

[bits]
weights = {weights}
activations = [8, 32]

[sparsity]
removed_channels = [0.0, 0.25, 0.5, 0.7]
zeroed_weights = [0.0, 0.5, 0.8]

[students]
families = ["shallower"]
widths = [0.5, 1.0]
depths = [0.5, 1.0]

[cells]
nodes = 4
operations = ["skip", "conv1x1", "conv3x3", "avgpool3x3"]
channels = [8, 16]
cells_per_stage = [1]

[recovery]
epochs = 1
epochs_from_scratch = 2

[latency]
max_seconds = 0.1
"""

LONGEST_LIFE_S = 6.0
SHARE_AT_WORK = 0.75
"""Of the kills; the others come as soon after the start, when the search still loads."""

KILLED = "killed search"
RETRIED = "out of memory"
KINDS = (*FAULTS, "NaN loss", "NaN metric")


@dataclass
class Search:
    """One study in a folder of its own, searched by ``karui search``.

    Args:
        folder: Its folder; emptied first.
        fault: What goes wrong in candidates; empty for nothing.
        followers: As in a study file.
    """

    folder: Path
    fault: str = ""
    followers: int = 0
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.run_folder = RunFolder(self.folder / "run")
        self.diary = self.folder / "trainings"
        # Few bits where candidates shall go wrong: what a search tries first is not trained.
        weights = [4, 32] if self.fault else [2, 3, 4, 8, 16, 32]
        told = {"fault": self.fault, "diary": self.diary, "seed": 0, "followers": self.followers, "weights": weights}
        told["minutes"] = 0.6 if self.fault == "hang" else 10.0  # a sound candidate on a busy machine is no hang
        text = STUDY.format(task=Path(__file__).parent / "faulty_task.py", **told)
        (self.folder / "faults.toml").write_text(text, encoding="utf-8")

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the search in a process group of its own."""
        code = "from karui.studies.cli import main; main()"
        named = [str(self.folder / "faults.toml"), "--out", str(self.run_folder.path), *options]
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-c", code, "search", *named], stdout=output, stderr=output, start_new_session=True
            )

    def finish(self, trials: int) -> None:
        """Search until so many trials are done."""
        begin = time.monotonic()
        code = self.start("--trials", str(trials)).wait()
        self.seconds += time.monotonic() - begin
        if code:
            raise SystemExit(f"the search ended with code {code}, see {self.folder / 'output'}")

    def live(self, seconds: float, *, at_work: bool, kill_all: bool) -> None:
        """Search for so long, and be killed.

        Args:
            seconds: How long, since the start or since a candidate was at work.
            at_work: Which of the two.
            kill_all: Whether the worker dies as well; by having none.
        """
        begin = time.monotonic()
        process = self.start(*(("--workers", "0") if kill_all else ()))
        while at_work and process.poll() is None and not self._is_at_work(process.pid):
            time.sleep(0.1)
        try:
            process.wait(seconds)
            raise SystemExit(f"the search ended by itself, see {self.folder / 'output'}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.seconds += time.monotonic() - begin

    def _is_at_work(self, process: int) -> bool:
        with suppress(FileNotFoundError):
            events = read_log(self.run_folder.log)
            return any(event["event"] == "trial reached" and event["pid"] == process for event in events)
        return False

    def trials(self) -> list[FrozenTrial]:
        """Return all trials as the storage has them; none where there is no study yet."""
        if not self.run_folder.database.exists():  # killed before the folder was made
            return []
        try:
            return optuna.load_study(study_name=None, storage=self.run_folder.own_storage).get_trials(deepcopy=False)
        except (KeyError, ValueError):
            return []  # killed before the study was made

    def complete(self) -> dict[int, tuple[float, ...]]:
        """Return the values of the complete trials by number."""
        return {trial.number: tuple(trial.values) for trial in self.trials() if trial.state == TrialState.COMPLETE}


def repeated_measurements(search: Search) -> int:
    """Count what was measured though it had been before."""
    complete = [trial for trial in search.trials() if trial.state == TrialState.COMPLETE]
    keys = Counter(Candidate.from_dict(trial.user_attrs["candidate"]).key for trial in complete)
    measured = Counter(
        trial.user_attrs["digest"]
        for trial in complete
        if any(stage == "accuracy" and not cached for stage, _, cached in trial.user_attrs["stages"])
    )
    twice = sum(count - 1 for count in (*keys.values(), *measured.values()))
    return twice + len(list(_measured_though_kept(search, complete)))


def _measured_though_kept(search: Search, complete: list[FrozenTrial]) -> Iterator[int]:
    """Yield the trials in which accuracy was measured though the file's outcome was on disk when they began."""
    digests = {Candidate.from_dict(trial.user_attrs["candidate"]).key: trial.user_attrs["digest"] for trial in complete}
    kept = {path.stem: path.stat().st_mtime for path in search.run_folder.outcomes.rglob("*.json")}
    begun: dict[int, tuple[float, str]] = {}
    for event in read_log(search.run_folder.log):
        at = datetime.fromisoformat(event["time"]).timestamp()
        if event["event"] == "trial begun":
            begun[event["trial"]] = (at, event["key"])
        elif event["event"] == "trial reached" and event["stage"] == "accuracy":
            began, key = begun[event["trial"]]
            if key in digests and kept.get(digests[key], at) < began:
                yield event["trial"]


def killed(folder: Path, kills: int) -> dict[str, Any]:
    """Kill a search so often, let it end, and search once more in peace."""
    chance = random.Random(0)
    search = Search(folder / "killed", followers=2)
    seen: dict[int, tuple[float, ...]] = {}
    for number in range(kills):
        at_work = chance.random() < SHARE_AT_WORK
        search.live(chance.uniform(0, LONGEST_LIFE_S), at_work=at_work, kill_all=number % 2 == 0)
        seen |= search.complete()
        print(f"kill {number + 1}: {len(seen)} complete", flush=True)
    trials = _counting(search) + 5
    search.finish(trials)
    last = search.complete()
    states = Counter(read_record(trial).state for trial in search.trials())
    peaceful = Search(folder / "peaceful", followers=2)
    peaceful.finish(_counting(search))
    return {
        "fault": KILLED,
        "count": kills,
        "lost_trials": sum(last.get(trial) != values for trial, values in seen.items()),
        "repeated_measurements": repeated_measurements(search),
        "lost_s": search.seconds - peaceful.seconds,
        "evaluated": states["evaluated"],
        "failed": states["failed"],
        "interrupted": states["interrupted"],
        "running": states["running"],
        "seconds": search.seconds,
    }


def _counting(search: Search) -> int:
    return sum(read_record(trial).state in ("evaluated", "failed") for trial in search.trials())


def faulty(folder: Path, kind: str, trials: int) -> dict[str, Any]:
    """Search a study whose candidates go wrong now and then."""
    search = Search(folder / kind.replace(" ", "_"), fault=kind)
    search.finish(trials)
    records = [read_record(trial) for trial in search.trials()]
    states = Counter(record.state for record in records)
    faults = search.diary.read_text(encoding="utf-8").split().count("fault")
    log = read_log(search.run_folder.log)
    ended = {event["trial"] for event in log if event["event"] == "trial ended" and event["state"] == "evaluated"}
    return {
        "fault": kind,
        "count": faults,
        # memory that ran out is the machine's fault: the candidate is tried again
        "lost_trials": len(ended - search.complete().keys()) + states["failed"] - (0 if kind == RETRIED else faults),
        "repeated_measurements": repeated_measurements(search),
        "lost_s": sum(record.seconds for record in records if record.state == "failed") + _restarts_s(log),
        "evaluated": states["evaluated"],
        "failed": states["failed"],
        "interrupted": states["interrupted"],
        "running": states["running"],
        "seconds": search.seconds,
        "reason": next(
            (record.reason for record in records if record.state == "failed"),
            next((event["reason"] for event in log if event["event"] == "unexpected error"), ""),
        ),
    }


def _restarts_s(log: list[dict[str, Any]]) -> float:
    """Return how long candidates waited for a new worker: from their beginning until they reached anything."""
    lost, begun, seconds = False, 0.0, 0.0
    for event in log:
        at = datetime.fromisoformat(event["time"]).timestamp()
        if event["event"] in ("worker lost", "unexpected error"):
            lost = True
        elif event["event"] == "trial begun" and lost:
            begun = at
        elif event["event"] == "trial reached" and lost and begun:
            seconds, begun, lost = seconds + at - begun, 0.0, False
    return seconds


def main() -> None:
    """Run everything, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/search_faults"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=25)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "rows.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    for kind in (KILLED, *KINDS):
        if any(row["fault"] == kind for row in rows):
            continue
        rows.append(killed(folder, arguments.kills) if kind == KILLED else faulty(folder, kind, arguments.trials))
        print(rows[-1], flush=True)
        kept.write_text(json.dumps(rows), encoding="utf-8")
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    columns = ["fault", "count", "lost_trials", "repeated_measurements", "lost_s"]
    table[columns].to_csv(RESULTS / "search_faults.csv", index=False, float_format="%.1f")
    text = "\n".join(_report(table))
    (RESULTS / "search_faults.md").write_text(text, encoding="utf-8")


def _report(table: pd.DataFrame) -> Iterator[str]:
    yield "# A search when things go wrong"
    yield ""
    yield (
        f"One study is killed {table['count'].iloc[0]} times at random moments, about {SHARE_AT_WORK:.0%} of them "
        f"while it makes and measures candidates, the others while it loads; in {len(table) - 1} other studies every "
        f"{EVERY}th training of a candidate goes wrong. A trial is lost where it was complete and is no more, or "
        "failed without a fault of its own (memory that ran out is none: the candidate is tried again); a measurement "
        "is repeated where its result was kept already. Time lost to "
        "kills is that of all the runs less that of one without a kill and with as many trials: mostly what it takes "
        "to load and begin again. Time lost to a faulty candidate is its own, and that of a new worker."
    )
    yield ""
    yield "| fault | times | trials lost | measurements repeated | seconds lost | each | evaluated | failed | cut off |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in table.to_dict("records"):
        each = f"{row['lost_s'] / row['count']:.1f}" if row["count"] else ""
        cells = [row["fault"], row["count"], row["lost_trials"], row["repeated_measurements"], f"{row['lost_s']:.0f}"]
        cells += [each, row["evaluated"], row["failed"], row["interrupted"]]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    yield (
        "Cut off: trials in flight at a kill, whose candidates were begun again; failed among the killed: candidates "
        f"on which the search was killed three times, which it gives up. Trials left running: {table['running'].sum()}."
    )
    yield ""
    yield "What the log says of them:"
    yield ""
    for row in table.iloc[1:].to_dict("records"):
        yield f"- {row['fault']}: {row['reason']}"
    yield ""
    for column, what in (
        ("lost_trials", "completed trials lost"),
        ("repeated_measurements", "candidates measured twice"),
    ):
        count = int(table[column].sum())
        yield f"- Goal, 0 {what}: {'reached' if count == 0 else f'**missed**, {count}'}."
    yield ""
    yield conditions(minutes_of_searching=f"{table['seconds'].sum() / 60:.0f}")
    yield ""


if __name__ == "__main__":
    main()
