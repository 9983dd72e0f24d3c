"""Networks that are made for images and classes, and tasks that are not of that kind."""

from __future__ import annotations

from ...errors import SpaceError

SHALLOWER_ONLY = "or keep only the family 'shallower' of [students]"


def check_images(section: str, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
    """Check that a task has images and one row of outputs for each.

    Raises:
        SpaceError: Where it has something else, naming the section whose networks need them.
    """
    if len(input_shape) == 3 and len(output_shape) == 1:
        return
    raise SpaceError(
        f"the axis [{section}] cannot make networks for this task",
        where=f"[{section}]",
        expected="inputs of shape (channels, height, width) and one row of outputs for each",
        got=f"inputs of shape {input_shape}, outputs of shape {output_shape}",
        remedy=f"leave the section [{section}] out, {SHALLOWER_ONLY}",
    )
