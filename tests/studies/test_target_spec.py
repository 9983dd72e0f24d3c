"""``[[target]]``: what is right is kept and opened, what is wrong is told, and what changes no number may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from karui.errors import StudyFileError
from karui.evaluators.targets.command import CommandTarget
from karui.evaluators.targets.local import LocalTarget
from karui.evaluators.targets.quarantine import Quarantine
from karui.evaluators.targets.ssh import SshTarget
from karui.evaluators.targets.telling import tell_nobody
from karui.studies.study_file.spec import StudySpec
from karui.studies.study_file.spec_reading import load_spec, resolve_spec

HEAD = 'task = "my_task.py:make_task"\n'
BITS = "[bits]\nweights = [4, 32]\n"
PI5 = '[[target]]\nname = "pi5"\nkind = "ssh"\nhost = "pi@raspberrypi.local"\n'
PHONE = '[[target]]\nname = "phone"\nkind = "command"\ncommand = ["./measure", "--serial", "$(x); y"]\n'


def read(tmp_path: Path, text: str) -> StudySpec:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + text + BITS, encoding="utf-8")
    return load_spec(path)


def opened(spec: StudySpec) -> list[Any]:
    made = [
        each.open(spec.latency.threads, spec.latency.provider, spec.latency.runtime, spec.folder, tell_nobody)
        for each in spec.target or ()
    ]
    return [each._target if isinstance(each, Quarantine) else each for each in made]


def test_targets_are_read_in_their_order_and_opened(tmp_path: Path) -> None:
    here = '[[target]]\nname = "here"\nkind = "local"\nthreads = 2\n'
    spec = read(tmp_path, PI5 + "threads = 4\nssh_config = 'keys/config'\n" + PHONE + here + "[latency]\nthreads = 3\n")
    pi5, phone, local = opened(spec)
    assert isinstance(pi5, SshTarget)
    assert isinstance(phone, CommandTarget)
    assert isinstance(local, LocalTarget)
    assert (pi5.name, phone.name, local.conditions()["threads"]) == ("pi5", "phone", 2)
    assert pi5._device.ssh_config == tmp_path.resolve() / "keys" / "config"
    assert pi5._options == {"threads": 4, "provider": "CPUExecutionProvider"}
    assert phone.conditions()["threads"] == 3, "what a target leaves out is said in [latency]"
    assert phone._program.command == ["./measure", "--serial", "$(x); y"]
    assert phone._program._folder == tmp_path.resolve()


def test_without_targets_the_meaning_is_that_of_studies_before_there_were_any(tmp_path: Path) -> None:
    meaning = read(tmp_path, "").meaning()
    assert meaning.get("target") is None
    assert meaning["latency"].get("objective") is None


def test_how_a_device_is_reached_may_change_and_what_it_is_may_not(tmp_path: Path) -> None:
    meaning = read(tmp_path, PI5 + PHONE).meaning()
    assert read(tmp_path, PI5 + "ssh_config = 'other'\n" + PHONE + "timeout_seconds = 5\n").meaning() == meaning
    for other in (
        PI5 + "threads = 2\n" + PHONE,
        PI5.replace("raspberrypi", "other") + PHONE,
        PI5,
        PHONE + PI5,
        PI5 + PHONE + "[latency]\nobjective = 'phone'\n",
    ):
        assert read(tmp_path, other).meaning() != meaning


def test_each_target_is_an_objective_of_its_own_where_the_study_says_so(tmp_path: Path) -> None:
    here = '[[target]]\nname = "here"\nkind = "local"\n'
    spec = read(tmp_path, PI5 + PHONE + here + "[latency]\nobjective = 'each'\n[bounds]\nmax_latency = '0.5x'\n")
    names = [objective.name for objective in spec.objectives()]
    assert names == ["size_bytes", "latency_ms", "accuracy", "latency_ms@phone", "latency_ms@here"]
    bounded = [objective.name for objective in spec.objectives() if objective.bound is not None]
    assert bounded == ["latency_ms"], "a bound on latency is one on the first target"
    for latency in ("", "[latency]\nobjective = 'worst'\n", "[latency]\nobjective = 'phone'\n"):
        assert len(read(tmp_path, PI5 + PHONE + latency).objectives()) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PI5 + "hots = 'x'\n", ("target[0].hots", "did you mean host?")),
        (
            PI5 + "password = 'x'\n",
            ("target[0].password", "one of name, kind, threads, provider, runtime, host, python"),
        ),
        (PI5 + PI5, ("target", "two targets are called 'pi5'")),
        ("target = []\n", ("target", "a list without targets")),
        ("[target]\nname = 'a'\n", ("target", "a list")),
        ("[[target]]\nname = 'a'\nkind = 'usb'\n", ("target[0].kind", "'local', 'ssh' or 'command'")),
        ("[[target]]\nname = 'a'\nkind = 'ssh'\n", ("target[0]", "needs the key 'host'")),
        ("[[target]]\nname = 'a'\nkind = 'command'\n", ("target[0]", "needs the key 'command'")),
        ("[[target]]\nname = 'a'\nkind = 'command'\ncommand = 'ls -l'\n", ("target[0].command", "a list")),
        (
            "[[target]]\nname = 'a'\nkind = 'local'\nhost = 'x'\n",
            ("target[0]", "'host' is a key of targets of kind 'ssh'"),
        ),
        (PHONE + "[[target]]\nname = 'worst'\nkind = 'local'\n", ("target[1].name", "no target can be called so")),
        (PI5.replace("pi@", "-oProxyCommand=x@"), ("target[0].host", "begins with a dash")),
        (PI5.replace("pi@", "$(x)@"), ("target[0].host", "has characters that no host or user has")),
        (PI5 + "threads = 0\n", ("target[0].threads",)),
        (PI5 + "[latency]\nobjective = 'pi6'\n", ("latency.objective", "one of 'worst', 'each', 'pi5'", "'pi6'")),
        ("[latency]\nobjective = 'pi5'\n", ("latency.objective", "'pi5'")),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(StudyFileError, match=r"study|target") as caught:
        read(tmp_path, text)
    for part in expected:
        assert part in str(caught.value)


def test_a_specification_made_in_python_is_checked_likewise(tmp_path: Path) -> None:
    spec = read(tmp_path, PI5)
    assert resolve_spec(spec, trials=3).target == spec.target
