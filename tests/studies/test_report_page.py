"""The report's page in a real browser: Debian's Chromium, headless."""

from __future__ import annotations

import csv
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from karui.studies.choosing.choose import Budget, pick_point
from karui.studies.report.content import page_content
from karui.studies.report.material import read_material
from karui.studies.report.page import render_page
from karui.studies.report.write import pick_command
from karui.studies.results.read import find_results

from .made_up import BASELINE, made_up_front, made_up_trials, store_trials, write_results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VALUES = {name: item.value for name, item in BASELINE.items()}
PLOTS = ("plot-latency", "plot-size", "plot-cost")
OPACITY = "document.getElementById('plot-size').data[2].marker.opacity"
COUNTS = [3, 300, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium on the PATH")
    with playwright.sync_playwright() as running:
        # as root, in a container, its sandbox cannot start
        opened = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@dataclass
class Opened:
    """A page in the browser, and what went wrong in it."""

    page: Page
    front: pd.DataFrame
    complaints: list[str] = field(default_factory=list)

    def rows(self) -> list[str]:
        """The points in the table, in its order."""
        found: list[str] = self.page.eval_on_selector_all("#table tbody tr", "rows => rows.map(row => row.dataset.id)")
        return found

    def drawn(self, plot: str) -> list[str]:
        """The points that a plot draws."""
        found: list[str] = self.page.evaluate("id => document.getElementById(id).data[2].customdata", plot)
        return found

    def move(self, **steps: int) -> None:
        """Move sliders, by their names."""
        for name, step in steps.items():
            self.page.evaluate(
                "([id, step]) => { const slider = document.getElementById(id); slider.value = step; "
                "slider.dispatchEvent(new Event('input', { bubbles: true })); }",
                [f"budget-{name}", step],
            )
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def picked(self) -> str:
        """The point that the page names as the best pick."""
        return self.page.inner_text("#pick .link")

    def place_of(self, name: str) -> tuple[float, float]:
        """Where on the screen a point lies in the plot of accuracy over size."""
        self.page.locator("#plot-size").scroll_into_view_if_needed()
        x, y = self.page.evaluate(
            """name => {
                const plot = document.getElementById("plot-size");
                const { xaxis, yaxis } = plot._fullLayout;
                const at = plot.data[2].customdata.indexOf(name);
                const box = plot.getBoundingClientRect();
                return [box.left + xaxis._offset + xaxis.d2p(plot.data[2].x[at]),
                        box.top + yaxis._offset + yaxis.d2p(plot.data[2].y[at])];
            }""",
            name,
        )
        return x, y

    def detail(self) -> str:
        """The heading of the details."""
        return self.page.inner_text("#detail h2")


Open = Callable[..., Opened]


def write_page(folder: Path) -> Path:
    """Write the page of a results folder without its pictures, which take longer than all else."""
    content = page_content(read_material(find_results(folder)), pick_command(folder, None, None))
    page = folder / "report.html"
    page.write_text(render_page(content), encoding="utf-8")
    return page


def largest(front: pd.DataFrame) -> str:
    """The point of the largest file."""
    return str(front.sort_values("size_bytes")["point"].iloc[-1])


def open_page(browser: Browser, path: Path, front: pd.DataFrame, **options: object) -> Opened:
    page = browser.new_page(**options)  # type: ignore[arg-type]
    page.set_default_timeout(60_000)  # of a busy machine
    opened = Opened(page, front)
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: _note_request(opened, request.url, path))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('#plot-growth .main-svg') !== null")
    return opened


def _note_request(opened: Opened, url: str, path: Path) -> None:
    if url != path.as_uri() and not url.startswith(("data:", "blob:")):
        opened.complaints.append(f"asked for {url}")


@pytest.fixture(scope="module", params=COUNTS, ids=lambda count: f"{count} trials")
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A page of so many trials, and its front."""
    folder = tmp_path_factory.mktemp("report") / "made-up"
    front = write_results(folder, made_up_trials(request.param))
    return write_page(folder), front


@pytest.fixture(scope="module")
def kept_open(browser: Browser, written: tuple[Path, pd.DataFrame]) -> Iterator[Opened]:
    """That page, opened once: to read plotly again for every test would take longer than all tests."""
    found = open_page(browser, *written, viewport={"width": 1280, "height": 900})
    yield found
    found.page.close()


@pytest.fixture
def opened(kept_open: Opened) -> Iterator[Opened]:
    """That page with no limits, the front listed by size; nothing may go wrong in it, and it may ask for nothing."""
    kept_open.page.click("#reset")
    kept_open.page.uncheck("#all")
    kept_open.page.click("th[data-key=name] button")
    kept_open.page.click("th[data-key=size] button")
    yield kept_open
    assert kept_open.complaints == []


# --- budget -----------------------------------------------------------------------------------------------------------


def budget_of(command: str) -> Budget:
    """The budget that a command of `karui pick` names."""
    words = shlex.split(command)
    names = {"--max-size": "max_size", "--max-latency": "max_latency", "--min-accuracy": "min_accuracy"}
    return Budget(**{names[word]: words[place + 1] for place, word in enumerate(words) if word in names})


def test_all_points_are_drawn_and_listed(opened: Opened) -> None:
    names = list(opened.front["point"])
    assert sorted(opened.rows()) == names[:100]
    for plot in PLOTS:
        assert sorted(opened.drawn(plot)) == names
    assert opened.picked() == pick_point(opened.front, Budget(), "recommended", VALUES)["point"]


@pytest.mark.parametrize(
    "steps",
    [
        {"size": 250},
        {"latency": 200},
        {"accuracy": 220},
        {"size": 330, "latency": 330, "accuracy": 60},
        {"size": 0},
        {"accuracy": 400},
    ],
    ids=str,
)
def test_sliders_filter_plots_and_table_and_pick_as_python_does(opened: Opened, steps: dict[str, int]) -> None:
    opened.move(**steps)
    columns = {"size": "size_bytes", "latency": "latency_ms", "accuracy": "accuracy"}
    fits, limits = np.ones(len(opened.front), dtype=bool), {}
    for name, column in columns.items():
        limit = float(opened.page.get_attribute(f"#budget-{name}", "data-limit") or "nan")
        fits &= (opened.front[column] >= limit) if name == "accuracy" else (opened.front[column] <= limit)
        if np.isfinite(limit):
            limits[name] = limit
    assert set(limits) == set(steps)
    fitting = list(opened.front.loc[fits, "point"])
    assert sorted(opened.rows()) == fitting[:100]
    for plot in PLOTS:
        assert sorted(opened.drawn(plot)) == fitting
    if not fitting:
        assert "No point fits this budget" in opened.page.inner_text("#pick")
        return
    budget = budget_of(opened.page.inner_text("#pick code"))
    assert opened.picked() == pick_point(opened.front, budget, "recommended", VALUES)["point"]
    told = [bound.limit for bound in (item.bound for item in budget.objectives()) if bound is not None]
    assert told == list(limits.values())
    opened.page.click("#reset")
    assert len(opened.rows()) == min(len(opened.front), 100)


def test_a_budget_that_nothing_keeps_is_told(opened: Opened) -> None:
    opened.move(size=0, accuracy=400)
    best = opened.front[opened.front["size_bytes"] == opened.front["size_bytes"].min()]
    if (best["accuracy"] == opened.front["accuracy"].max()).any():  # the smallest is the most accurate
        assert opened.rows() == [opened.picked()]
    else:
        assert opened.rows() == []
        assert "No point fits this budget" in opened.page.inner_text("#pick")


# --- selecting --------------------------------------------------------------------------------------------------------


def test_a_click_on_a_point_selects_it_everywhere(opened: Opened) -> None:
    # the largest file lies alone at the right of the plot
    name = largest(opened.front)
    opened.page.mouse.click(*opened.place_of(name))
    opened.page.wait_for_function("name => document.querySelector('#detail h2').textContent === name", arg=name)
    row = opened.front[opened.front["point"] == name].iloc[0]
    ring = "id => [document.getElementById(id).data[4].x[0], document.getElementById(id).data[4].y[0]]"
    assert opened.page.evaluate(ring, "plot-size") == pytest.approx([row["size_bytes"] / 1e3, row["accuracy"]])
    assert opened.page.evaluate(ring, "plot-cost") == pytest.approx([row["size_bytes"] / 1e3, row["latency_ms"]])
    assert opened.page.evaluate(ring, "plot-latency") == pytest.approx([row["latency_ms"], row["accuracy"]])
    chosen = opened.page.eval_on_selector_all("tr[aria-selected=true]", "rows => rows.map(row => row.dataset.id)")
    assert chosen == ([name] if name in opened.rows() else [])
    told = opened.page.inner_text("#detail")
    assert "rounded to 4 bits" in told
    assert "Abacus" in told
    assert f"--point {name} --export made-up-{name}" in told


def test_keys_move_along_the_points_of_a_plot_and_the_rows_of_the_table(opened: Opened) -> None:
    ordered = list(opened.front.sort_values("latency_ms")["point"])
    opened.page.focus("#plot-latency")
    for key, place in (("End", -1), ("Home", 0), ("ArrowRight", min(1, len(ordered) - 1)), ("ArrowLeft", 0)):
        opened.page.keyboard.press(key)
        assert opened.detail() == ordered[place]
    first, *others = opened.rows()
    opened.page.focus("#table tbody tr")
    opened.page.keyboard.press("Enter")
    assert opened.detail() == first
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press(" ")
    assert opened.detail() == (others[0] if others else first)


def test_an_area_that_is_selected_in_one_plot_filters_the_table_and_fades_the_others(opened: Opened) -> None:
    chosen = sorted(opened.rows())[:2]
    emit = "document.getElementById('plot-cost').emit(name, { points: ids.map(id => ({ customdata: id })) })"
    tell = f"([name, ids]) => {emit}"
    opened.page.evaluate(tell, ["plotly_selected", chosen])
    assert sorted(opened.rows()) == chosen
    opacity = dict(zip(opened.drawn("plot-size"), opened.page.evaluate(OPACITY), strict=True))
    assert {name for name, value in opacity.items() if value == 1} == set(chosen)
    opened.page.evaluate(tell, ["plotly_deselect", []])
    assert len(opened.rows()) == min(len(opened.front), 100)


def test_the_summary_selects_what_it_names(opened: Opened) -> None:
    cards = opened.page.locator(".card")
    for place in range(cards.count()):
        cards.nth(place).click()
        assert opened.detail() == cards.nth(place).get_attribute("data-select")


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_click_on_a_head_sorts_and_another_turns_it_round(opened: Opened) -> None:
    head = opened.page.locator("th[data-key=latency]")
    ordered = list(opened.front.sort_values("latency_ms", kind="stable")["point"])
    head.locator("button").click()
    assert (head.get_attribute("aria-sort"), opened.rows()) == ("ascending", ordered[:100])
    head.locator("button").focus()
    opened.page.keyboard.press("Enter")
    assert (head.get_attribute("aria-sort"), opened.rows()) == ("descending", ordered[::-1][:100])
    assert opened.page.locator("th[data-key=size]").get_attribute("aria-sort") == "none"


def test_what_is_exported_is_what_is_shown(opened: Opened) -> None:
    opened.move(size=330)
    opened.page.click("th[data-key=accuracy] button")
    shown = opened.page.inner_text("#count").split()[0].replace(",", "")
    with opened.page.expect_download() as waiting:
        opened.page.click("#export")
    assert waiting.value.suggested_filename == "made-up-points.csv"
    with Path(waiting.value.path()).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["point"] for row in table][:100] == opened.rows()
    assert len(table) == int(shown)
    known = opened.front.set_index("point")
    for row in table:
        assert float(row["size_bytes"]) == known.loc[row["point"], "size_bytes"]
        assert float(row["test_accuracy"]) == pytest.approx(known.loc[row["point"], "test_accuracy"])


def test_all_measured_trials_can_be_listed(opened: Opened, written: tuple[Path, pd.DataFrame]) -> None:
    trials = pd.read_csv(written[0].parent / "trials.csv", keep_default_na=False)
    measured = int((trials["state"] == "evaluated").sum())
    opened.page.check("#all")
    assert opened.page.inner_text("#count").startswith(f"{measured:,} of {measured:,} trials")
    assert len(opened.rows()) == min(measured, 100)
    if measured > 100:
        opened.page.click("#more")
        assert len(opened.rows()) == min(measured, 500)
        opened.page.locator("tr.dominated").first.click()
        assert opened.detail().startswith("Trial ")


def test_colours_follow_any_parameter(opened: Opened) -> None:
    for name in opened.page.eval_on_selector_all("#colour option", "options => options.map(option => option.value)"):
        opened.page.select_option("#colour", name)
        entries = opened.page.eval_on_selector_all("#legend li", "items => items.map(item => item.textContent)")
        assert len(entries) == len(set(entries)) >= 2, name
        assert "your model" in entries


# --- how it looks -----------------------------------------------------------------------------------------------------


def test_on_a_phone_nothing_is_wider_than_the_screen(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 390, "height": 844})
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    opened.page.check("#all")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    opened.page.wait_for_function("document.querySelector('#plot-cost .main-svg').clientWidth < 390")
    opened.page.set_viewport_size({"width": 1280, "height": 900})


def test_it_is_dark_where_the_system_is(opened: Opened) -> None:
    colours = "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    axis = "() => document.getElementById('plot-size').layout.font.color"
    light, axis_in_light = opened.page.evaluate(colours), opened.page.evaluate(axis)
    opened.page.emulate_media(color_scheme="dark")
    dark = opened.page.evaluate(colours)
    opened.page.wait_for_function(f"before => ({axis})() !== before", arg=axis_in_light)

    def brightness(colour: str) -> float:
        return sum(float(part) for part in colour[4:-1].split(",")) / 3

    assert brightness(dark[0]) < 60 < 200 < brightness(dark[1])
    assert brightness(light[1]) < 60 < 200 < brightness(light[0])
    opened.page.emulate_media(color_scheme="light")
    opened.page.wait_for_function(f"before => ({axis})() === before", arg=axis_in_light)


# --- other studies ----------------------------------------------------------------------------------------------------

HOSTILE = (
    '<img src=x onerror="window.stolen = 1"></script><script>window.stolen = 1</script>\'; $(touch stolen) `x` \u2028'
)


def test_nothing_that_a_study_says_is_run(browser: Browser, tmp_path: Path) -> None:
    trials = made_up_trials(60)
    for name in ("candidate", "reason", "stage", "kind", "student.family"):
        trials[name] = trials[name].where(trials[name].isna() | (trials[name] == ""), f"{HOSTILE} {name}")
    trials.loc[trials["state"] == "evaluated", "stage"] = f"{HOSTILE} gate"
    folder = tmp_path / "a <b onclick=x> & $(id) 'q'"
    front = made_up_front(trials)
    front["mark"] = f"{HOSTILE} mark"
    write_results(folder, trials, front)
    # a command that is shown to be pasted into a shell
    opened = open_page(browser, write_page(folder), front)
    opened.page.check("#all")
    for name in opened.page.eval_on_selector_all("#colour option", "options => options.map(option => option.value)"):
        opened.page.select_option("#colour", name)
    opened.page.locator("tr.dominated").first.click()
    opened.page.locator("tr:not(.dominated)[data-id]").first.click()
    opened.page.mouse.move(*opened.place_of(largest(opened.front)))
    opened.page.wait_for_selector("#plot-size .hovertext")
    assert opened.page.evaluate("window.stolen") is None
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("[onclick], [onerror]").count() == 0
    command = opened.page.inner_text("#detail code")
    for shown in (command, opened.page.inner_text("#pick code")):
        assert shlex.split(shown)[:3] == ["karui", "pick", str(folder)]
    assert HOSTILE.split("<script>")[0] in opened.page.inner_text("#detail")
    opened.page.close()
    assert opened.complaints == []


def test_a_search_in_progress_has_a_page(browser: Browser, tmp_path: Path) -> None:
    trials = made_up_trials(40)
    store_trials(tmp_path, trials)
    opened = open_page(browser, write_page(tmp_path), trials[trials["on_front"]])
    assert "The search has not finished" in opened.page.inner_text(".note")
    assert len(opened.rows()) == len(opened.front)
    assert "can be exported once the search has finished" in opened.page.inner_text("#detail")
    opened.page.close()
    assert opened.complaints == []


def test_a_study_without_a_feasible_candidate_shows_the_nearest(browser: Browser, tmp_path: Path) -> None:
    trials = made_up_trials(40)
    store_trials(tmp_path, trials, least_accuracy=0.999)
    opened = open_page(browser, write_page(tmp_path), trials)
    assert "No candidate keeps every bound" in opened.page.inner_text(".note")
    assert len(opened.rows()) == 10
    assert "validation by" in opened.page.inner_text("#table tbody tr >> nth=0").lower()
    assert "There is no best pick" in opened.page.inner_text("#pick")
    opened.page.close()
    assert opened.complaints == []


def test_a_study_of_which_nothing_is_measured_has_a_page(browser: Browser, tmp_path: Path) -> None:
    trials = made_up_trials(20)
    store_trials(tmp_path, trials[trials["state"] != "evaluated"])
    opened = open_page(browser, write_page(tmp_path), trials)
    assert "No candidate has been measured yet" in opened.page.inner_text(".note")
    opened.page.close()
    assert opened.complaints == []
