"""Published networks with random weights."""

from __future__ import annotations

import pytest

from .case import Case
from .holding import holds
from .published import PUBLISHED

pytestmark = pytest.mark.slow
ROUNDED = [
    "torchvision_resnet18", "timm_convnext_atto", "timm_vit_tiny_patch16_224", "timm_regnety_002",
    "torchvision_small_densenet",
]  # fmt: skip
"""Convolutions, convolutions and linear layers, attention, groups, concatenations: rounding one takes half a minute."""


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(PUBLISHED[request.param], tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("case", PUBLISHED, indirect=True)
@pytest.mark.parametrize("treatment", ["export", "channels", "depth"])
def test_published_network_is_right_or_refused(case: Case, treatment: str) -> None:
    holds(case, treatment)


@pytest.mark.parametrize("case", ROUNDED, indirect=True)
def test_published_network_is_right_when_rounded(case: Case) -> None:
    holds(case, "w8 a8")
