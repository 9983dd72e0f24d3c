"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file (.toml), or a bundled study: digits, fashion.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Results folder.", show_default="runs/<study>")]
Artifacts = Annotated[
    str | None,
    typer.Option(metavar="LOCATION", help="Files of all machines: a folder they share, or an fsspec URL (s3://...)."),
]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Optuna storage URL.", show_default="sqlite:///<out>/study.db")
]


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    json = "json"


class Prefer(StrEnum):
    """What is preferred among the points that keep a budget."""

    recommended = "recommended"
    size = "size"
    latency = "latency"
    accuracy = "accuracy"
    knee = "knee"
