"""What is held of every network: right, or refused for the reason that is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from .case import Case
from .judge import judge

EVERY = 6
"""One network of so many goes through the treatments that seldom go wrong; the others do in the slow part."""


def holds(case: Case, treatment: str) -> None:
    """Judge a treatment; a refusal that is not expected of this network is a fault, as is one that no longer comes."""
    refused = case.animal.refused
    if treatment != "export" and "export" in refused:
        return  # there is no file of it
    verdict = judge(case, treatment)
    if treatment in refused:
        assert verdict.kind == "refused", f"expected to be refused ({refused[treatment]}), it is {verdict.kind}"
        assert refused[treatment] in verdict.words[0]
    else:
        assert verdict.kind != "refused", verdict.words[0]


def most_in_slow(names: Iterable[str]) -> list[Any]:
    """Return the names as parameters, most of them for the slow part."""
    return [
        name if number % EVERY == 0 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(names)
    ]
