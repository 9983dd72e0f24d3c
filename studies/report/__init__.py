"""The report of a study: one page that opens from disk, and its plots as pictures."""

from __future__ import annotations

from .write import write_report as write_report

__all__ = ["write_report"]
