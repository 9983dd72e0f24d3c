"""Every network of the zoo with fewer channels and fewer blocks."""

from __future__ import annotations

import pytest

from .animals import ZOO
from .case import Case
from .holding import holds

BLOCKS = [name for name, animal in ZOO.items() if animal.subject == "structures"]
"""Where blocks are that repeat."""


@pytest.mark.parametrize("case", ZOO, indirect=True)
def test_network_of_fewer_channels_is_right_or_refused(case: Case) -> None:
    holds(case, "channels")


@pytest.mark.parametrize("case", BLOCKS, indirect=True)
def test_network_of_fewer_blocks_is_right_or_refused(case: Case) -> None:
    holds(case, "depth")


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted({*ZOO} - {*BLOCKS}), indirect=True)
def test_network_without_blocks_stays_or_is_right(case: Case) -> None:
    holds(case, "depth")
