"""Networks that are made for images and classes, and tasks that are not of that kind."""

from __future__ import annotations

from ...errors import SpaceError
from .named import Shapes

SHALLOWER_ONLY = "or keep only the family 'shallower' of [students]"


def check_images(section: str, input_shape: Shapes, output_shape: Shapes) -> None:
    """Check that a task has images and one row of outputs for each.

    Raises:
        SpaceError: Where it has something else, naming the section whose networks need them.
    """
    has_one_of_each = isinstance(input_shape, tuple) and isinstance(output_shape, tuple)
    if has_one_of_each and len(input_shape) == 3 and len(output_shape) == 1:
        return
    raise SpaceError(
        f"the axis [{section}] cannot make networks for this task",
        where=f"[{section}]",
        expected="inputs of shape (channels, height, width) and one row of outputs for each",
        got=f"inputs of shape {input_shape}, outputs of shape {output_shape}",
        remedy=f"leave the section [{section}] out, {SHALLOWER_ONLY}",
    )
