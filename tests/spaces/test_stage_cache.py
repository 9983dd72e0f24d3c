"""The cache of stages: whole entries or none, made once, held while used, within its limit, whoever is killed when."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.spaces.building.read_write_lock import lock_if_free, read_write_lock
from karui.spaces.building.stage_cache import MANIFEST, StageCache

SIZES = {f"network-{letter}": 1000 * (index + 1) for index, letter in enumerate("abcde")}
"""Keys with the bytes of their two files together."""


def content(key: str, part: str) -> bytes:
    return (f"{key} {part} " * SIZES[key])[: SIZES[key] // 2].encode()


def maker(key: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for part in ("weights", "graph"):
            (folder / part).write_bytes(content(key, part))

    return make


def use(cache: StageCache, key: str) -> bool:
    """Ask for an entry, check its files, and say whether it was made."""
    with cache.entry(key, maker(key)) as entry:
        for part in ("weights", "graph"):
            assert (entry.folder / part).read_bytes() == content(key, part)
        return entry.made


def kept(cache: StageCache) -> set[str]:
    return {path.name for path in (cache.folder / "entries").iterdir()}


def leftovers(cache: StageCache) -> list[str]:
    return [path.name for path in (cache.folder / "scratch").iterdir()]


# --- one user ---------------------------------------------------------------------------------------------------------


def test_what_was_made_is_found_again_also_by_others(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "of" / "mine")
    assert use(cache, "network-a")
    assert not use(cache, "network-a")
    assert not use(StageCache(tmp_path / "of" / "mine"), "network-a")
    assert use(cache, "network-b")
    assert leftovers(cache) == []
    assert (tmp_path / "of/mine/CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_what_is_there_is_found_and_held_and_nothing_is_made(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    with cache.found("network-a") as entry:
        assert entry is None
    assert use(cache, "network-a")
    with cache.found("network-a") as entry:
        assert entry is not None
        assert not entry.made
        cache.trim(0)
        assert (entry.folder / "weights").read_bytes() == content("network-a", "weights")
    cache.trim(0)
    with cache.found("network-a") as entry:
        assert entry is None


class _Twin:
    """The same by brute force: the size of every entry, the least recently used first."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.damaged: set[str] = set()

    def holds(self, key: str) -> bool:
        return key in self.sizes and key not in self.damaged

    def use(self, key: str, size: int, limit: int) -> None:
        found = self.holds(key)
        size = self.sizes.pop(key, size) if found else size
        self.sizes = {other: kept for other, kept in self.sizes.items() if other != key} | {key: size}
        self.damaged.discard(key)
        if not found:
            self.trim(limit, spared=key)

    def trim(self, limit: int, spared: str = "") -> None:
        for key in list(self.sizes):
            if sum(self.sizes.values()) > limit and key != spared:
                del self.sizes[key]
                self.damaged.discard(key)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["use", "use", "use", "table", "damage", "trim"]), st.sampled_from(sorted(SIZES))),
    max_size=30,
)


@given(OPERATIONS, st.integers(1, 12_000))
@settings(deadline=None, max_examples=60)
def test_it_keeps_what_a_twin_by_brute_force_keeps(operations: list[tuple[str, str]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache, twin = StageCache(Path(folder), limit), _Twin()
        for operation, key in operations:
            place = cache.folder / "entries" / key
            if operation == "use":
                assert use(cache, key) != twin.holds(key)
                twin.use(key, SIZES[key] + (place / MANIFEST).stat().st_size, limit)
            elif operation == "trim":
                cache.trim(limit // 2)
                twin.trim(limit // 2)
            elif key in twin.sizes and operation == "table" and not (place / "table").exists():
                (place / "table").write_bytes(b"t" * 300)
                twin.sizes[key] += 300
            elif twin.holds(key) and operation == "damage":
                (place / "graph").write_bytes(content(key, "graph")[:-1])
                twin.sizes[key] -= 1
                twin.damaged.add(key)
            if (cache.folder / "entries").exists():
                assert kept(cache) == set(twin.sizes)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a file is gone": lambda entry: (entry / "graph").unlink(),
    "a file is cut short": lambda entry: (entry / "graph").write_bytes(b"short"),
    "a file is longer": lambda entry: (entry / "weights").write_bytes(content("network-c", "weights") + b"!"),
    "a bit is flipped": lambda entry: flip(entry / "weights"),
    "no manifest": lambda entry: (entry / MANIFEST).unlink(),
    "an empty manifest": lambda entry: (entry / MANIFEST).write_bytes(b""),
    "a manifest of something else": lambda entry: (entry / MANIFEST).write_text("[1, 2]"),
    "a manifest of other types": lambda entry: (entry / MANIFEST).write_text(json.dumps({"files": {"graph": 3}})),
    "a manifest that is a folder": lambda entry: replace_by_folder(entry / MANIFEST),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("again", [True, False], ids=["the same process", "another one"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, name: str, again: bool) -> None:
    cache = StageCache(tmp_path)
    use(cache, "network-c")
    DAMAGE[name](tmp_path / "entries" / "network-c")
    cache = cache if again else StageCache(tmp_path)
    assert use(cache, "network-c")
    assert not use(cache, "network-c")


def test_a_maker_that_fails_leaves_nothing_and_the_next_one_tries(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half of it")
        raise ArithmeticError("diverged")

    with pytest.raises(ArithmeticError, match="diverged"), cache.entry("network-a", fail):
        pass
    assert kept(cache) == set()
    assert leftovers(cache) == []
    assert use(cache, "network-a")


def test_a_user_that_fails_keeps_the_entry_and_lets_go_of_it(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    with pytest.raises(ZeroDivisionError, match="bug"), cache.entry("network-a", maker("network-a")):
        raise ZeroDivisionError("bug")
    assert not use(cache, "network-a")
    cache.trim(0)
    assert kept(cache) == set()


@pytest.mark.parametrize("key", ["", "../up", "a/b", "a.use", "-a", "a-", "a--b", "a b", "a\n"])
def test_a_key_that_is_no_name_is_refused(tmp_path: Path, key: str) -> None:
    with (
        pytest.raises(ValueError, match="letters, digits and single dashes"),
        StageCache(tmp_path).entry(key, maker("network-a")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_negative_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit_bytes must be 0 or more, got -1"):
        StageCache(tmp_path, -1)


def test_at_a_limit_of_zero_nothing_is_found_again(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, limit_bytes=0)
    assert [use(cache, key) for key in ("network-a", "network-a", "network-b", "network-a")] == [True] * 4
    assert kept(cache) == set()

    def use_wrongly() -> None:
        with cache.entry("network-a", maker("network-a")):
            raise KeyError("its user")

    with pytest.raises(KeyError, match="its user"):
        use_wrongly()
    assert kept(cache) == set()


def test_making_may_ask_for_other_entries(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, limit_bytes=0)

    def nested(folder: Path) -> None:
        with cache.entry("network-a", maker("network-a")) as inner:
            cache.trim()
            (folder / "copy").write_bytes((inner.folder / "weights").read_bytes())

    with cache.entry("aware-a", nested) as entry:
        assert (entry.folder / "copy").read_bytes() == content("network-a", "weights")
    cache.trim()
    assert kept(cache) == set()


def test_sizes_are_those_on_disk(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    assert cache.sizes() == []
    for key in SIZES:
        use(cache, key)
    for entry in cache.sizes():
        files = (tmp_path / "entries" / entry.key).iterdir()
        assert entry.size_bytes == sum(len(path.read_bytes()) for path in files)
        assert entry.kind == "network"
    assert len(cache.sizes()) == len(SIZES)


# --- held -------------------------------------------------------------------------------------------------------------


def test_what_is_held_stays_and_goes_afterwards(tmp_path: Path) -> None:
    cache, other = StageCache(tmp_path), StageCache(tmp_path, limit_bytes=0)
    use(cache, "network-b")
    with cache.entry("network-a", maker("network-a")), cache.entry("network-a", maker("network-a")):
        other.trim()
        assert kept(cache) == {"network-a"}
        with other.entry("network-c", maker("network-c")):
            assert kept(cache) == {"network-a", "network-c"}, "not the one just made either"
        assert kept(cache) == {"network-a"}
        assert not use(other, "network-a"), "readers do not wait for each other"
    other.trim()
    assert kept(cache) == set()
    assert list((tmp_path / "locks").iterdir()) == [], "nor are locks left"


def test_leases_are_shared_by_readers_and_exclusive_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "name"
    with read_write_lock(path, shared=True), read_write_lock(path, shared=True), lock_if_free(path) as free:
        assert not free
    with read_write_lock(path), lock_if_free(path) as free:
        assert not free
    with lock_if_free(path) as free:
        assert free
        # Who waits for a lock whose file is removed meanwhile gets that of the new file.
        waiting = threading.Thread(target=lambda: read_write_lock(path).__enter__())
        waiting.start()
        time.sleep(0.05)
        path.unlink()
    waiting.join()
    assert path.exists()


# --- several users ----------------------------------------------------------------------------------------------------


def test_of_many_threads_one_makes_it_and_the_others_find_it(tmp_path: Path) -> None:
    cache, calls, made = StageCache(tmp_path), [], []
    ready = threading.Barrier(8)

    def make(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.05)
        maker("network-a")(folder)

    def run() -> None:
        ready.wait()
        with cache.entry("network-a", make) as entry:
            made.append(entry.made)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert sorted(made) == [False] * 7 + [True]


WORKER = """
import fcntl, os, random, sys, time
from pathlib import Path
from karui.spaces.artifact import write_bytes
from karui.spaces.building.stage_cache import StageCache

folder, witness, limit, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sizes = {f"network-{letter}": 1000 * (index + 1) for index, letter in enumerate("abcde")}
chance, cache = random.Random(seed), StageCache(folder, limit)

def content(key, part):
    return (f"{key} {part} " * sizes[key])[: sizes[key] // 2].encode()

def report(what):
    (witness / f"fault-{os.getpid()}-{time.time_ns()}").write_text(what)

def make(key, scratch):
    with open(witness / key, "w") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"{key} is made twice at a time")
        for part in ("weights", "graph"):
            with open(scratch / part, "wb") as file:
                for start in range(0, sizes[key] // 2, 100):
                    file.write(content(key, part)[start : start + 100])
                    file.flush()
                    time.sleep(0.0005)
    if chance.random() < 0.1:
        raise ArithmeticError("diverged")

def check(entry, key):
    for part in ("weights", "graph"):
        if (entry.folder / part).read_bytes() != content(key, part):
            report(f"{key} {part} is torn")

print("ready", flush=True)
while True:
    key = chance.choice(sorted(sizes))
    try:
        with cache.entry(key, lambda scratch: make(key, scratch)) as entry:
            check(entry, key)
            if chance.random() < 0.3:
                write_bytes(b"t" * 300, entry.folder / "table")
            time.sleep(chance.random() * 0.02)
            check(entry, key)
    except ArithmeticError:
        pass
    except Exception as error:
        report(f"{key}: {type(error).__name__}: {error}")
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    (tmp_path / "witness").mkdir()
    return tmp_path / "witness"


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_whatever_is_killed_when_every_entry_is_whole(tmp_path: Path, witness: Path) -> None:
    folder, limit, workers, chance = tmp_path / "cache", 6_000, 3, random.Random(5)
    most = limit + workers * (max(SIZES.values()) + 1000)  # what each of them may hold, with its table and manifest
    running = [start(WORKER, folder, witness, limit, seed) for seed in range(workers)]
    try:
        for seed in range(workers, workers + 15):
            time.sleep(0.02 + 0.1 * chance.random())
            assert sum(entry.size_bytes for entry in StageCache(folder).sizes()) <= most
            finish(running.pop(chance.randrange(workers)))
            running.append(start(WORKER, folder, witness, limit, seed))
    finally:
        for process in running:
            finish(process)
    assert [path.read_text() for path in witness.glob("fault-*")] == []
    found = [entry for entry in (folder / "entries").iterdir() if (entry / MANIFEST).exists()]
    assert found
    for entry in found:
        assert {part: (entry / part).read_bytes() for part in ("weights", "graph")} == {
            part: content(entry.name, part) for part in ("weights", "graph")
        }
    cache = StageCache(folder, limit)
    cache.trim()
    assert leftovers(cache) == []
    assert sum(path.stat().st_size for path in (folder / "entries").rglob("*") if path.is_file()) <= limit
    for lock in [*(folder / "locks").iterdir(), folder / "trim.lock"]:
        with lock_if_free(lock) as free:
            assert free, f"{lock.name} is still held"
    for key in SIZES:
        use(cache, key)
    cache.trim(0)
    assert kept(cache) == set()
    assert list((folder / "locks").iterdir()) == []


SLOW = """
import sys, time
from pathlib import Path
from karui.spaces.building.stage_cache import StageCache

def make(folder):
    (folder / "weights").write_bytes(b"half of it")
    print("ready", flush=True)
    time.sleep(60)

with StageCache(Path(sys.argv[1])).entry("network-a", make):
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_who_waits_for_a_maker_that_is_killed_makes_it(tmp_path: Path) -> None:
    process = start(SLOW, tmp_path)
    made: list[bool] = []
    waiting = threading.Thread(target=lambda: made.append(use(StageCache(tmp_path), "network-a")))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    StageCache(tmp_path).trim(0)
    assert (tmp_path / "scratch" / "network-a").exists(), "not taken for a leftover"
    finish(process)
    waiting.join()
    assert made == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_what_a_killed_maker_left_is_swept(tmp_path: Path) -> None:
    finish(start(SLOW, tmp_path))
    cache = StageCache(tmp_path)
    assert leftovers(cache) == ["network-a"]
    use(cache, "network-b")
    assert leftovers(cache) == []


# --- faults of the disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "karui-test", str(tmp_path)]
        try:
            mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
        except OSError:
            mounted = False
        if not mounted:
            pytest.skip("mounting is not permitted here")
        stack.callback(subprocess.run, ["umount", str(tmp_path)], check=True)
        yield tmp_path


def test_a_disk_that_is_full_is_told_by_its_place(small_disk: Path) -> None:
    cache = StageCache(small_disk)

    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"x" * 100_000)

    with pytest.raises(OSError, match=f"No space left.*{small_disk}/scratch/network-a"), cache.entry("network-a", fill):
        pass
    assert use(cache, "network-a"), "what was written was removed"


def test_a_full_disk_that_names_nothing_is_told_by_its_place(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, os.strerror(28))

    cache = StageCache(tmp_path)
    with pytest.raises(OSError, match=f"No space left.*{tmp_path}/scratch/network-a"), cache.entry("network-a", fill):
        pass
