"""Networks of blocks in any order, drawn by hypothesis."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from .case import Case
from .generated import animals
from .judge import judge
from .registry import Animal

TREATMENTS = ("export", "w8 a8", "channels")


def all_hold(animal: Animal) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case = Case(animal, Path(folder))
        for treatment in TREATMENTS:
            verdict = judge(case, treatment)
            assert verdict.kind != "refused" or treatment == "channels", verdict.words


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(animals())
def test_blocks_in_any_order(animal: Animal) -> None:
    all_hold(animal)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(animals())
def test_many_blocks_in_any_order(animal: Animal) -> None:
    all_hold(animal)
