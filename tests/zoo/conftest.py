"""The networks of the zoo as fixtures: one after the other, each with the file that all of its treatments share."""

from __future__ import annotations

import pytest

from .animals import ZOO
from .case import Case


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The network of this name."""
    return Case(ZOO[request.param], tmp_path_factory.mktemp("zoo"))
