"""Every network of the zoo as a file: exported, stored in 16 bits, rounded, zeroed, packed."""

from __future__ import annotations

import pytest

from .animals import ZOO
from .case import Case
from .holding import holds, most_in_slow

OF_CHANNELS = [name for name, animal in ZOO.items() if animal.subject in ("heads", "wirings")]
"""Networks of the same operators as others: what differs is which channels go together."""

FILES = [pytest.param(name, marks=pytest.mark.slow) if name in OF_CHANNELS else name for name in ZOO]


@pytest.mark.parametrize("case", FILES, indirect=True)
@pytest.mark.parametrize("treatment", ["export", "w8 a8"])
def test_file_is_right_or_refused(case: Case, treatment: str) -> None:
    holds(case, treatment)


@pytest.mark.parametrize("case", most_in_slow(ZOO), indirect=True)
@pytest.mark.parametrize("treatment", ["float16", "w4 a32", "w4 a8", "zeros", "packing"])
def test_further_file_is_right_or_refused(case: Case, treatment: str) -> None:
    holds(case, treatment)
