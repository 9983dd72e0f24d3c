"""The pages of docs/ and both READMEs: links lead somewhere, keys, defaults, messages and commands are the code's."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel

from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.cells.axis import CellsAxis
from karui.spaces.axes.exits.axis import ExitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.axes.stages.axis import StagesAxis
from karui.spaces.axes.students.axis import StudentsAxis
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.rounding.settings import QuantizationSettings
from karui.studies.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *ROOT.glob("README.*.md"), *sorted(DOCS.rglob("*.md"))]

KEYS: dict[str, tuple[type[BaseModel], ...]] = {
    "axes/bits.md": (BitsAxis, QuantizationSettings),
    "axes/sparsity.md": (SparsityAxis,),
    "axes/students.md": (StudentsAxis,),
    "axes/cells.md": (CellsAxis,),
    "axes/stages.md": (StagesAxis,),
    "axes/exits.md": (ExitsAxis,),
    "recovery.md": (BuildSettings,),
}
"""Which sections of a study file a page describes key by key."""

FENCE = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def links_of(page: Path) -> list[str]:
    """Return the targets of the page's links and images that lead to no other site."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def headings_of(page: Path) -> list[tuple[int, str]]:
    """Return level and text of the page's headings."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.+)$", prose, flags=re.MULTILINE)]


def anchor(heading: str) -> str:
    """Return what GitHub makes of a heading: lower case, no punctuation, dashes for spaces."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


def commands_of(page: Path) -> list[str]:
    """Return the lines of code, indented or fenced, that call karui, continued lines joined."""
    found, fenced = [], False
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and re.search(r"(^|&& )karui [a-z]", line.strip()):
            found.append(line.strip())
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links_of(page):
        file, _, fragment = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name_of(page)}: {link} leads nowhere"
        if fragment:
            anchors = [anchor(text) for _, text in headings_of(target)]
            assert fragment in anchors, f"{name_of(page)}: {link} names no heading of {target.name}"


def test_every_page_can_be_reached_from_the_index() -> None:
    seen, ahead = set(), [DOCS / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen:
            continue
        seen.add(page)
        files = [(page.parent / link.partition("#")[0]).resolve() for link in links_of(page)]
        ahead += [file for file in files if file.suffix == ".md" and file.is_relative_to(DOCS)]
    assert set(DOCS.rglob("*.md")) == seen


@pytest.mark.parametrize("page", KEYS)
def test_a_page_of_an_axis_names_every_key_with_its_default(page: str) -> None:
    fields = {name: field for model in KEYS[page] for name, field in model.model_fields.items()}
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    told = {cells[0].strip("`"): cells for cells in rows if len(cells) == 4}
    assert told.keys() == fields.keys()
    for name, field in fields.items():
        _, meaning, default, allowed = told[name]
        assert meaning, name
        assert allowed, name
        if field.default is not None:
            assert json.loads(default.strip("`")) == json.loads(json.dumps(field.default)), name


def messages_of(page: Path) -> list[str]:
    """Return the messages that a page quotes: bold code, and code in the first column of a table."""
    text = page.read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.+?`) \|", text, flags=re.MULTILINE)
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", text) + [
        code for cell in cells for code in re.findall(r"`([^`]+)`", cell)
    ]
    return [" ".join(message.split()) for message in quoted if not message.startswith("karui")]


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    folders = ("spaces", "evaluators", "search", "studies")
    texts = [
        node.value
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    messages = messages_of(DOCS / "troubleshooting.md")
    assert len(messages) > 25
    for message in messages:
        for part in filter(None, (part.strip() for part in message.split("..."))):
            assert any(part in text for text in texts), f"no message of karui says {part!r}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_exists(page: Path) -> None:
    commands = typer.main.get_group(app).commands
    spans = re.findall(r"`(karui [a-z][^`]*)`", " ".join(page.read_text(encoding="utf-8").split()))
    for line in [*commands_of(page), *spans]:
        for call in re.findall(r"\bkarui ([a-z]+)\b([^|&;]*)", line):
            command = commands.get(call[0])
            assert command is not None, f"{name_of(page)}: karui {call[0]}"
            known = {option for parameter in command.params for option in parameter.opts}
            used = {word.partition("=")[0] for word in shlex.split(call[1], comments=True) if word.startswith("--")}
            assert used <= known | {"--help"}, f"{name_of(page)}: {line}"


def test_both_readmes_have_the_same_headings_and_commands() -> None:
    english, japanese = ROOT / "README.md", ROOT / "README.ja.md"
    assert [level for level, _ in headings_of(english)] == [level for level, _ in headings_of(japanese)]

    def plain(page: Path) -> list[str]:
        return [line.partition("#")[0].strip() for line in commands_of(page)]

    assert plain(english) == plain(japanese)
    assert "README.ja.md" in english.read_text(encoding="utf-8").split("##")[0]
    assert "README.md" in japanese.read_text(encoding="utf-8").split("##")[0]
