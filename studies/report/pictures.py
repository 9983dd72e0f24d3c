"""The plots of a report as pictures, PNG and SVG."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..plotting.plots import draw_front, front_numbers
from ..storage.folder import explain_os_errors, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .content import Content
    from .material import Material

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#9aa3aa"
_OBJECTIVES = (("size", _BLUE), ("latency", _ORANGE), ("accuracy", _GREEN))


def save_pictures(folder: Path, material: Material, content: Content) -> list[Path]:
    """Write the plots of a report to a folder, each as PNG and SVG, and return their paths.

    Raises:
        OutputError: Where they cannot be written.
    """
    figures = {"hypervolume": _growth(content)}
    if material.is_front:
        figures["front"] = _front(material)
    if content.contributions:
        figures["axes"] = _contributions(content)
    if content.importances.shares:
        figures["importance"] = _importance(content)
    written = []
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            picture = BytesIO()
            # of no date, so that the same study gives the same file
            figure.savefig(picture, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
            path = folder / f"{name}.{kind}"
            with explain_os_errors(path):
                write_atomically(path, picture.getvalue())
            written.append(path)
    return written


def _front(material: Material) -> Figure:
    values = {name: item.value for name, item in material.baseline.items()}
    metric = str(material.baseline["accuracy"].conditions.get("metric", "accuracy"))
    numbers = front_numbers(material.points, material.evaluated, values, plain(metric), material.objectives)
    figure = Figure(figsize=(16, 5.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_front(left, numbers, "latencies_ms")
    draw_front(middle, numbers, "sizes_kb")
    middle.set_ylabel("")
    _draw_costs(right, material)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(plain(material.name))
    return figure


def _draw_costs(axes: Axes, material: Material) -> None:
    rest, points = material.evaluated, material.points
    rest = rest[rest["feasible"]]
    axes.scatter(rest["size_bytes"] / 1e3, rest["latency_ms"], s=14, color="0.75", linewidths=0)
    axes.scatter(points["size_bytes"] / 1e3, points["latency_ms"], s=36, color="0.15", zorder=3)
    size, latency, _ = material.baseline_values
    axes.scatter(
        [size / 1e3], [latency], marker="*", s=220, color="#CC79A7", edgecolors="black", linewidths=0.8, zorder=4
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("file size, KB (log)")
    axes.set_ylabel("latency, ms (log)")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.6)


def _growth(content: Content) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(content.history.counts, content.history.volumes, where="post", color=_BLUE)
    axes.set_xlabel("trials measured")
    axes.set_ylabel("hypervolume")
    axes.set_ylim(bottom=0)
    axes.grid(True, linewidth=0.3, alpha=0.6)
    return figure


def _contributions(content: Content) -> Figure:
    found = content.contributions[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(found)), layout="constrained")
    axes = figure.subplots()
    names = [each.axis for each in found]
    axes.barh(names, [100 * each.share_of_points for each in found], color=_GREY, label="lost without its points")
    axes.barh(names, [100 * each.share_for_good for each in found], color=_BLUE, label="lost for good")
    axes.set_xlabel("hypervolume of the front, %")
    axes.legend(frameon=False)
    return figure


def _importance(content: Content) -> Figure:
    found = list(content.importances.shares.items())[::-1]
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, (objective, colour) in enumerate(_OBJECTIVES):
        heights = [row + 0.26 * (1 - place) for row in range(len(found))]
        axes.barh(heights, [100 * shares[place] for _, shares in found], height=0.24, color=colour, label=objective)
    axes.set_yticks(range(len(found)), [plain(name) for name, _ in found])
    axes.set_xlabel("share of the decision, %")
    axes.legend(frameon=False)
    return figure


def plain(text: str) -> str:
    """Return a text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
