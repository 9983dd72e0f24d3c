"""The tutorial is run as it stands, block by block, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
FILE_COMMENT = re.compile(r"# (?P<name>[\w./-]+\.(?:py|toml))\n")
STEPS = {"init", "preflight", "search", "watch", "report", "front", "pick", "verify"}
SECONDS = 280
"""What one block may take on a busy machine."""


@dataclass(frozen=True)
class Block:
    """One fenced block: a file to write where it names one, else commands to run."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file it is, by its first line."""
        found = FILE_COMMENT.match(self.text)
        return found["name"] if found else None


def read_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    fences = re.finditer(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(found["language"], found["text"], text[: found.start()].count("\n") + 1) for found in fences]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The commands `karui` and `python` of the tutorial are those under test."""
    programs = tmp_path / "programs"
    programs.mkdir()
    code = "from karui.studies.cli import main; main()"
    for name, arguments in (("karui", f" -c '{code}'"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "sha256sum"))), reason="needs bash and sha256sum")
def test_the_tutorial_runs_as_it_stands(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    blocks = read_blocks(TUTORIAL.read_text(encoding="utf-8"))
    for block in blocks:
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")
            continue
        assert block.language == "sh", f"line {block.line}: a block of {block.language} that names no file"
        finished = subprocess.run(
            ["bash", "-eu", "-c", block.text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        told = f"{finished.stdout}\n{finished.stderr}"
        assert finished.returncode == 0, f"tutorial.md, line {block.line}:\n{block.text}\n{told}"
        print(f"$ {block.text}{told}")
    front = (folder / "runs" / "mynet" / "front.csv").read_text(encoding="utf-8").splitlines()
    assert len(front) > 1, "the search found nothing, and the page says nothing of that"
    assert (folder / "runs" / "mynet" / "report.html").stat().st_size > 100_000
    assert "outputs are as expected" in told_of(folder, environment)


def told_of(folder: Path, environment: dict[str, str]) -> str:
    """Return what the exported program says when it lies somewhere else, as on a device."""
    elsewhere = shutil.copytree(folder / "deploy", folder.parent / "device")
    command = ["python", "run.py"]
    finished = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    return finished.stdout


def test_every_block_of_the_tutorial_is_a_file_or_commands() -> None:
    blocks = read_blocks(TUTORIAL.read_text(encoding="utf-8"))
    assert TUTORIAL.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks)
    commands = [block.text for block in blocks if block.file is None]
    assert {block.language for block in blocks if block.file is None} == {"sh"}
    for step in STEPS:
        assert any(f"karui {step} " in text for text in commands), f"the tutorial leaves `karui {step}` out"
    assert any("run.py" in text for text in commands)
