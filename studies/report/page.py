"""The page: one file that holds everything it needs, and runs nothing but its own two scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from ... import __version__
from . import sections
from .content import Content

_SCRIPTS = ("model.js", "plots.js", "detail.js", "table.js", "main.js")
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render_page(content: Content) -> str:
    """Return the page as HTML.

    Everything that comes from a study is escaped, and a policy in the page allows no script but the two whose digests
    it names, and no connection to anywhere.
    """
    script, plotly = _own_script(), _plotly()
    policy = (
        f"default-src 'none'; script-src '{_digest(plotly)}' '{_digest(script)}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    slots = {
        **_texts(content),
        "policy": policy,
        "style": _part("page.css"),
        "data": embedded_json({**content.interactive, "history": _history(content)}),
        "plotly": plotly,
        "script": script,
        **{name: getattr(sections, name)(content) for name in _SECTIONS},
    }
    # in one pass, so that nothing within what is put in is taken for another slot
    return _SLOT.sub(lambda match: slots[match[1]], _part("page.html"))


_SECTIONS = ("notes", "summary", "targets", "contributions", "importance", "endings", "measured")


def _texts(content: Content) -> dict[str, str]:
    """Return the page's own texts, escaped."""
    data = content.interactive
    front = data["isFront"]
    behind = len(data["cloud"]["trial"])
    drawn = len(data["cloud"]["drawn"])
    some = f" ({drawn:,} of {behind:,} drawn)" if drawn < behind else ""
    hint = (
        "Accuracy is that of validation, by which points are chosen"
        f"{'; the table has test accuracy, which chose nothing' if data['onTest'] else ''}. Bars are 95 % intervals. "
        f"Faint: trials that other points beat; a cross breaks a bound{some}. Drag to select an area, double-click to "
        "leave it; click a point for its details."
    )
    lead = (
        "Every point is a file that was measured. Move a limit, and the plots and the table keep what fits."
        if front
        else "These candidates break a bound of the study, the first ones least."
    )
    last = content.history.volumes[-1] if content.history.volumes else 0.0
    texts = {
        "title": f"{content.title} · karui report",
        "heading": content.title,
        "status": content.status,
        "front_title": "The trade-off" if front else "The nearest candidates",
        "front_lead": lead,
        "plots_hint": hint,
        "table_title": "Points of the front" if front else "Nearest candidates",
        "growth_label": f"Hypervolume over the search; it ends at {last:.4f}",
        "footer": f"Written by karui {__version__}. This page is one file: it needs no network and sends nothing.",
    }
    return {name: escape(text) for name, text in texts.items()}


def _history(content: Content) -> dict[str, Any]:
    """Return the steps of the hypervolume: of thousands of trials, those at which it changed."""
    found = content.history
    kept = [
        index
        for index, volume in enumerate(found.volumes)
        if index in (0, len(found.volumes) - 1) or volume != found.volumes[index - 1]
    ]
    return {
        "counts": [found.counts[index] for index in kept],
        "hours": [round(found.hours[index], 5) for index in kept] if found.hours else [],
        "volumes": [round(found.volumes[index], 6) for index in kept],
    }


def embedded_json(plain: Any) -> str:
    """Return JSON that can stand within a script element: nothing in it can end that element.

    Raises:
        ValueError: On a number that JSON does not have.
    """
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: _UNSAFE[match[0]], text)


@cache
def _plotly() -> str:
    return _closed(files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8"))


@cache
def _own_script() -> str:
    parts = "\n".join(_part(name) for name in _SCRIPTS)
    return _closed(f'"use strict";\n(() => {{\n{parts}\n}})();')


def _closed(script: str) -> str:
    if re.search(r"</script|<!--", script, re.IGNORECASE):
        script = re.sub(r"<(/script|!--)", r"\\x3c\1", script, flags=re.IGNORECASE)
    return script


@cache
def _part(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
