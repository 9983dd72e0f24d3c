"""The parts of a page that need no script, as HTML; everything that comes from a study is escaped here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from ..choosing.ranking import describe_flip

if TYPE_CHECKING:
    from .content import Content
    from .endings import Ending

_OBJECTIVES = ("size", "latency", "accuracy")
_MOST_FLIPS = 8


def section(name: str, title: str, body: str, lead: str = "") -> str:
    """Return a section with its heading; ``title`` and ``lead`` are texts, ``body`` is HTML."""
    words = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    head = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{head}{words}{body}</section>'


def notes(content: Content) -> str:
    """Return what a reader must know first."""
    return "".join(f'<p class="note" role="note">{escape(note)}</p>' for note in content.notes)


def summary(content: Content) -> str:
    """Return the summary: one sentence about the best compromise, and cards for the other points worth a look."""
    if not content.highlights:
        return ""
    first, *others = content.highlights
    hero = f'<p class="hero">{escape(first.sentence)}</p>'
    more = " Also worth a look:" if others else ""
    chosen = " Chosen by validation accuracy." if content.interactive["onTest"] else ""
    foot = f'<p class="hero-foot">{escape(f"{first.role}: point {first.point}.{chosen}{more}")}</p>'
    cards = "".join(
        f'<button type="button" class="card" data-select="{escape(each.point)}">'
        f"<b>{escape(each.role)} · {escape(each.point)}</b>{escape(each.sentence)}</button>"
        for each in others
    )
    return f'<section id="summary" aria-label="Summary">{hero}{foot}<div class="cards">{cards}</div></section>'


def contributions(content: Content) -> str:
    """Return what each axis brought to the front."""
    lead = (
        "Hypervolume of the front lost without the points that use an axis. The darker part is lost for good: no trial "
        "without that axis makes it good. Axes overlap, so that the shares may add up to more than all."
    )
    if not content.contributions:
        return section("axes", "What each axis brought", '<p class="hint">No trial on the front uses any.</p>', lead)
    rows = "".join(
        f'<tr><th scope="row" class="name">{escape(each.axis)}</th>'
        f"{_bar(each.share_of_points, f'{each.share_of_points:.0%}', each.share_for_good)}"
        f'<td class="text">{each.share_for_good:.0%}</td>'
        f'<td class="text">{each.points}</td><td class="text">{each.trials}</td></tr>'
        for each in content.contributions
    )
    heads = ("axis", "lost without its points", "lost for good", "points", "trials")
    return section("axes", "What each axis brought", _table(heads, rows), lead)


def importance(content: Content) -> str:
    """Return how much each parameter decided."""
    found = content.importances
    lead = (
        "How much each parameter decided which trials came to be the best tenth in size, latency and accuracy. "
        "Each column adds up to 100 %. A parameter that exists only under a condition is compared within the trials "
        "that have it."
    )
    if found.problem:
        return section("importance", "What mattered", f'<p class="hint">{escape(found.problem)}</p>', lead)
    rows = "".join(
        f'<tr><th scope="row" class="name">{escape(name)}</th>'
        + "".join(_bar(share, f"{share:.0%}") for share in shares)
        + "</tr>"
        for name, shares in found.shares.items()
    )
    foot = f'<p class="hint">PED-ANOVA over {found.trials:,} measured trials, as Optuna computes it.</p>'
    return section("importance", "What mattered", _table(("parameter", *_OBJECTIVES), rows) + foot, lead)


def endings(content: Content) -> str:
    """Return how many trials ended how, and what was stopped or failed and why."""
    counts = "".join(f"<li>{count:,} {escape(state)}</li>" for state, count in content.states.items())
    each = "".join(_ending(ending) for ending in content.endings)
    body = f'<ul class="facts">{counts}</ul>'
    body += (
        f'<div class="panel">{each}</div>'
        if each
        else '<p class="hint">Nothing was stopped by a gate, and nothing failed.</p>'
    )
    return section("endings", "What was stopped or failed, and why", body)


def _ending(ending: Ending) -> str:
    if ending.state == "stopped":
        head = (
            f"The gate “{ending.stage}” stopped {ending.count:,}"
            if ending.count
            else f"The gate “{ending.stage}” stopped none"
        )
        if ending.tested:
            head += (
                f"; {ending.tested:,} more let through as a test of it, of which {ending.missed:,} reached the front"
            )
    else:
        head = f"{ending.count:,} failed{f' at the stage “{ending.stage}”' if ending.stage else ''}"
    told = "".join(
        f"<li>{escape(reason.text)}{f' ({reason.count:,} like it)' if reason.count > 1 else ''}</li>"
        for reason in ending.reasons
    )
    return f'<div class="ending"><p>{escape(head)}</p>{f"<ul>{told}</ul>" if told else ""}</div>'


def measured(content: Content) -> str:
    """Return how the numbers were made."""
    pairs = [*content.measured, *content.certification]
    body = "".join(f"<dt>{escape(topic)}</dt><dd>{escape(sentence)}</dd>" for topic, sentence in pairs)
    return section("measured", "How this was measured", f'<div class="panel"><dl>{body}</dl></div>')


def targets(content: Content) -> str:
    """Return the latencies on several targets, and where their rankings differ; nothing where there is one target."""
    if len(content.targets) < 2:
        return ""
    rows = "".join(
        f'<tr><th scope="row" class="name">{escape(point["name"])}</th>'
        + "".join(f"<td>{_milliseconds(point['targets'][target])}</td>" for target in content.targets)
        + "</tr>"
        for point in content.interactive["points"]
    )
    flips = "".join(f"<li>{escape(describe_flip(flip))}</li>" for flip in content.flips[:_MOST_FLIPS])
    left = len(content.flips) - _MOST_FLIPS
    more = f"<li>and {left:,} more pairs</li>" if left > 0 else ""
    words = (
        f'<ul class="hint">{flips}{more}</ul>'
        if flips
        else '<p class="hint">All targets rank the points alike, within noise.</p>'
    )
    return section("targets", "On each target", _table(("point", *content.targets), rows) + words, "Latency in ms.")


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _table(heads: Iterable[str], rows: str) -> str:
    first, *others = heads
    cells = f'<th scope="col" class="name">{escape(first)}</th>'
    cells += "".join(f'<th scope="col" class="text">{escape(head)}</th>' for head in others)
    return f'<div class="panel"><table class="bars"><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def _bar(share: float, text: str, within: float | None = None) -> str:
    """Return a cell with a bar; where a part of it is given, that part is dark and the rest is faint."""
    kind = "" if within is None else ' class="second"'
    bars = f'<b{kind} style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></b>'
    if within is not None:
        bars += f'<b style="width:{100 * min(max(within, 0.0), 1.0):.1f}%"></b>'
    return f'<td><div class="bar"><i aria-hidden="true">{bars}</i><span>{escape(text)}</span></div></td>'
