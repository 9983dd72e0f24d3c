"""Whose a running trial is, whether that search is there still, and what becomes of trials that nobody works on."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import getnode, uuid4

import optuna
from optuna.trial import FrozenTrial, TrialState

from .record import ATTEMPTS, PROMOTED, attempts_of, has_begun, read_outcome

PULSE_SECONDS = 60.0
"""How often a search says that it is there."""

SILENT_SECONDS = 600.0
"""After how long a silent search of another machine counts as gone."""

GRACE_SECONDS = 60.0
"""How long a trial may be without an owner, where searches take no turns: another search may have asked just now."""

_ATTRIBUTE = "pulses"
_FORGOTTEN_SECONDS = 7 * 24 * 3600.0

_HERE: set[str] = set()
"""The searches of this process."""


@cache
def this_machine() -> str:
    """Return what tells whether a process number means the same process here: machine, boot, and space of numbers.

    Hosts may be called alike, and so may containers, which also share what Linux calls the id of a machine; each
    container counts its own processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        numbers = Path("/proc/self/ns/pid").stat().st_ino
    except (OSError, ValueError):
        boot, numbers = f"{getnode():x}", 0  # no Linux: the address of its network card
    return f"{socket.gethostname()} {boot} {numbers}"


def is_here(mark: Mapping[str, Any]) -> bool:
    """Say whether a mark was made on this machine, since it was started; an earlier version noted the host alone."""
    if "machine" in mark:
        return bool(mark["machine"] == this_machine())
    return bool(mark.get("host") == socket.gethostname())


def owner_mark(search: str = "") -> dict[str, Any]:
    """Return what tells later whether the process that runs a trial is still there.

    Args:
        search: Name of the search within this process.
    """
    pid = os.getpid()
    machine = {"host": socket.gethostname(), "machine": this_machine()}
    return {**machine, "pid": pid, "started": _start_of(pid), "search": search}


def owner_is_gone(mark: Mapping[str, Any] | None) -> bool:
    """Say whether the process of this mark ran on this machine and runs no more; unknown marks count as gone."""
    if mark is None:
        return True
    if not isinstance(mark, Mapping) or type(mark.get("pid")) is not int or not 0 < mark["pid"] < 2**31:
        return True
    if not is_here(mark):
        return False
    pid = mark["pid"]
    if mark.get("started") != _start_of(pid):
        return True
    if pid == os.getpid():
        return mark.get("search") not in _HERE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _start_of(pid: int) -> str | None:
    """Return when a process started, in ticks since boot, where the system tells: process numbers are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


class Heartbeat:
    """This search among those that share a study.

    Use it as a context manager: within it, the search says once a minute, in one attribute of the study, that it is
    there.

    Args:
        study: The study.
        exclusive: Whether searches take turns, see :class:`~karui.search.turns.Turns`.
        now: Seconds since 1970.
    """

    def __init__(self, study: optuna.Study, exclusive: bool = True, now: Callable[[], float] = time.time) -> None:
        self._study = study
        self._grace_seconds = 0.0 if exclusive else GRACE_SECONDS
        self._now = now
        self._search = uuid4().hex
        self._pulses: dict[str, float] = {}
        self._read_at = -PULSE_SECONDS
        self._missing_since: dict[str, float] = {}
        self._stop = threading.Event()
        self.mark = owner_mark(self._search)

    def __enter__(self) -> Heartbeat:
        _HERE.add(self._search)
        self._stop.clear()
        self.pulse()
        # Not from the loop of the search: without worker processes that waits for hours.
        threading.Thread(target=self._go_on, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        _HERE.discard(self._search)

    def stay(self) -> Heartbeat:
        """Be there for as long as this process is, without saying so to other machines."""
        _HERE.add(self._search)
        return self

    def pulse(self) -> None:
        """Say that this search is there."""
        # Two that write at once may lose one pulse of ten; the next comes in a minute.
        now = self._now()
        pulses = self._study.user_attrs.get(_ATTRIBUTE, {})
        recent = {name: at for name, at in pulses.items() if now - at < _FORGOTTEN_SECONDS}
        self._study.set_user_attr(_ATTRIBUTE, {**recent, self._search: now})

    def is_own(self, trial: FrozenTrial) -> bool:
        """Say whether this search has begun the trial."""
        return bool(trial.user_attrs.get("owner", {}).get("search") == self._search)

    def is_gone(self, trial: FrozenTrial) -> bool:
        """Say whether nobody works on a running trial any more."""
        mark = trial.user_attrs.get("owner")
        if mark is None:
            return self._is_missing_for(f"owner of trial {trial.number}", self._grace_seconds)
        if is_here(mark):
            return owner_is_gone(mark)
        return self._is_silent(str(mark.get("search", "")))

    def _is_silent(self, search: str) -> bool:
        now = self._now()
        if now - self._read_at >= PULSE_SECONDS:
            self._pulses, self._read_at = self._study.user_attrs.get(_ATTRIBUTE, {}), now
        if search in self._pulses:
            self._missing_since.pop(search, None)
            return now - self._pulses[search] > SILENT_SECONDS
        return self._is_missing_for(search, SILENT_SECONDS)

    def _is_missing_for(self, name: str, seconds: float) -> bool:
        now = self._now()
        return now - self._missing_since.setdefault(name, now) >= seconds

    def _go_on(self) -> None:
        stop = self._stop
        while not stop.wait(PULSE_SECONDS):
            with suppress(optuna.exceptions.StorageInternalError):
                self.pulse()


_STOPPED = ("duplicate", "impossible", "stopped")


def recover_stale(study: optuna.Study, heartbeat: Heartbeat, objectives: Sequence[str]) -> list[FrozenTrial]:
    """Take up every trial that a search has left running when it was killed; return them as they were found.

    What was measured to its end stays measured, what had failed has failed; everything else is begun again, unless
    searches have died on it ``ATTEMPTS`` times.

    Args:
        study: The study.
        heartbeat: Tells whose a running trial is.
        objectives: Names of the values to tell, in the order of the study's directions.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    stale = [trial for trial in running if heartbeat.is_gone(trial)]
    for trial in stale:
        outcome = read_outcome(trial)
        if outcome is not None:
            values = [outcome.measurements[name].value for name in objectives]
            study.tell(trial.number, values, skip_if_finished=True)
        elif (status := trial.user_attrs.get("status")) is not None and status != "interrupted":
            state = TrialState.PRUNED if status in _STOPPED else TrialState.FAIL
            study.tell(trial.number, state=state, skip_if_finished=True)
        else:
            queue_again(study, trial, killed=True)
    return stale


def queue_again(study: optuna.Study, trial: FrozenTrial, *, killed: bool) -> None:
    """End a running trial and queue its parameters, unless searches have died on it too often.

    One that was promoted is not queued: whoever is on the front at the end of a search is promoted then.

    Args:
        study: The study.
        trial: The running trial.
        killed: Whether its search was killed: only that counts as an attempt, and only where the candidate had begun.
    """
    queue_copy(study, trial, killed=killed)
    # Only now: killed in between, the search leaves one copy too many, and that is a duplicate; never one too few.
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def queue_copy(study: optuna.Study, trial: FrozenTrial, *, killed: bool) -> None:
    """Queue the parameters of a running trial that is about to be told as failed; see :func:`queue_again`."""
    attempts, killed = attempts_of(trial), killed and has_begun(trial)
    if PROMOTED not in trial.user_attrs and not (killed and attempts >= ATTEMPTS):
        # What was queued with fixed parameters may have been killed before it was asked for them.
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(parameters, user_attrs={"attempts": attempts + 1 if killed else attempts})
