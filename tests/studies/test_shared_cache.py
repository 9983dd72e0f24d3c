"""Studies of the same task share what was trained, where they are told to or by default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import karui
from karui.errors import OutputError
from karui.studies.measuring.workbench import cache_of
from karui.studies.storage.folder import RunFolder, explain_cache_errors
from karui.studies.storage.store import open_study
from karui.studies.study_file.spec_reading import load_spec, resolve_spec
from karui.studies.watching.watcher import Watcher

from .conftest import Command, write_study

AXES = """
[bits]
weights = [4]
activations = [8]

[sparsity]
removed_channels = [0.0, 0.5]
zeroed_weights = [0.0]

[recovery]
epochs = 1

[latency]
max_seconds = 0.05
"""


class Epochs(Watcher):
    """Counts the epochs for which the baseline is trained."""

    def __init__(self) -> None:
        self.count = 0

    def phase(self, text: str) -> None:
        self.count += text.startswith("training the baseline, epoch")


def search(study: Path, out: Path, **options: object) -> tuple[int, list[str], list[str]]:
    """Search; return epochs of the baseline, digests of the files, and the stages that were trained."""
    epochs = Epochs()
    result = karui.run_study(study, out=out, watcher=epochs, **options)  # type: ignore[arg-type]
    table = result.trials[result.trials["state"] == "evaluated"].sort_values("key")
    kept = open_study(RunFolder(out).own_storage, study.stem, create=False)
    trained = [
        name
        for trial in kept.get_trials(deepcopy=False)
        for name, _, cached in trial.user_attrs.get("stages", [])
        if name in ("architecture", "recovery", "export") and not cached
    ]
    return epochs.count, table["sha256"].to_list(), trained


def test_a_second_study_of_the_same_task_trains_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path, axes=AXES)
    epochs, files, trained = search(study, tmp_path / "runs" / "one")
    assert (epochs, len(files)) == (2, 2)
    assert "recovery" in trained
    assert search(study, tmp_path / "elsewhere" / "two", cache=tmp_path / "runs" / "karui-cache") == (0, files, [])
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["two"]
    # A results folder that is moved away, and the cache gone: the study shows its front, and goes on with its baseline.
    (tmp_path / "runs" / "one").rename(tmp_path / "moved")
    assert len(karui.load_front(study, tmp_path / "moved"))
    epochs, again, _ = search(study, tmp_path / "moved")
    assert (epochs, again) == (0, files)


def test_the_cache_lies_where_the_study_or_the_caller_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def place(text: str, cache: str | None = None) -> Path:
        study = write_study(tmp_path / "studies", axes=f"{AXES}[cache]\n{text}\n")
        return cache_of(resolve_spec(study, cache=cache), RunFolder(tmp_path / "one")).folder

    assert place("") == tmp_path / "karui-cache"
    assert place("folder = 'kept/here'") == tmp_path / "studies" / "kept" / "here"
    assert place("folder = '~/kept'") == tmp_path / "home" / "kept"
    assert place("folder = 'kept/here'", cache="mine") == tmp_path / "mine"
    study = write_study(tmp_path, axes=f"{AXES}[cache]\ngigabytes = 0.5\n")
    assert cache_of(load_spec(study), RunFolder(tmp_path / "one")).limit_bytes == 500_000_000


def test_where_the_cache_lies_is_no_part_of_what_results_mean(tmp_path: Path) -> None:
    study = write_study(tmp_path, axes=AXES + "[cache]\ngigabytes = 3\n")
    spec = resolve_spec(study, cache=tmp_path / "mine")
    assert (spec.cache.folder, spec.cache.gigabytes) == (str(tmp_path / "mine"), 3.0)
    assert spec.meaning() == load_spec(study).meaning()
    assert "cache" not in spec.meaning()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gigabytes = -1", ["cache.gigabytes", "greater than or equal to 0", "-1"]),
        ("folder = 3", ["cache.folder", "valid string", "3"]),
        ("foldr = 'x'", ["cache.foldr", "did you mean folder?", "gigabytes"]),
    ],
)
def test_a_cache_without_meaning_is_refused(tmp_path: Path, text: str, told: list[str]) -> None:
    study = write_study(tmp_path, axes=f"{AXES}[cache]\n{text}\n")
    with pytest.raises(karui.KaruiError, match="study file") as caught:
        load_spec(study)
    assert [word for word in told if word not in str(caught.value)] == []


@pytest.mark.parametrize("place", ["/proc/karui", "taken/below"])
def test_a_cache_that_cannot_be_written_is_told_before_anything_is_done(
    karui_command: Command, tmp_path: Path, place: str
) -> None:
    (tmp_path / "taken").touch()
    finished = karui_command("search", "digits", "--cache", place)
    assert finished.code == 2
    assert "error: the cache of trained networks cannot be written" in finished.err
    assert place in finished.err
    assert "another --cache" in finished.err
    assert "loading the task" not in finished.out


def test_only_errors_in_the_cache_are_told_as_its_own(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="cache of trained networks cannot be written"),
        explain_cache_errors(tmp_path),
    ):
        raise OSError(28, "No space left on device", str(tmp_path / "scratch" / "network-a"))
    for error in (OSError(28, "No space left on device", "/elsewhere"), OSError(28, "No space left on device")):
        with pytest.raises(OSError, match="No space left"), explain_cache_errors(tmp_path):
            raise error


def test_it_lies_beside_the_results_folder_or_within_where_nothing_can_be_put_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder(Path("one")).cache == Path("karui-cache")
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    assert RunFolder(tmp_path / "one").cache == tmp_path / "one" / "karui-cache"
    assert RunFolder(tmp_path / "one" / "two").cache == tmp_path / "one" / "karui-cache"


# --- karui cache ------------------------------------------------------------------------------------------------------


def test_the_command_shows_and_clears_a_cache(karui_command: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path, axes=AXES)
    assert karui_command("search", study, "--trials", "2").code == 0
    folder = tmp_path / "runs" / "karui-cache"
    kept = [path for path in (folder / "entries").rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in kept)
    networks = len(list((folder / "entries").glob("network-*")))
    shown = karui_command("cache")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[0] == str(Path("runs") / "karui-cache")
    assert re.search(r"^baseline +1 ", shown.out, re.MULTILINE)
    assert re.search(rf"^network +{networks} ", shown.out, re.MULTILINE)
    assert re.search(rf"^all +{networks + 1} +{total / 1e6:,.1f} MB$", shown.out, re.MULTILINE)
    cleared = karui_command("cache", folder, "--clear")
    assert cleared.code == 0
    assert re.search(r"^all +0 +0\.0 MB$", cleared.out, re.MULTILINE)
    assert list((folder / "entries").iterdir()) == []
    assert (tmp_path / "runs" / "tiny" / "front.csv").exists()


def test_a_cache_that_is_not_there_is_told(karui_command: Command, tmp_path: Path) -> None:
    finished = karui_command("cache", "--clear")
    assert finished.code == 2
    assert "error: there is no such cache" in finished.err
    assert list(tmp_path.iterdir()) == []
