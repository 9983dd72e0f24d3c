"""What the sections of a study file are made of: strict, frozen, and lists of choices."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

T = TypeVar("T")


def count_or_auto(least: int, most: int) -> BeforeValidator:
    """Return the check of a value that is a count between two others, or ``auto``.

    Of two kinds of value, pydantic by itself would tell what is wrong with each.
    """

    def check(value: Any) -> Any:
        if value != "auto" and (type(value) is not int or value < least):
            raise ValueError(f"expected a count of {least} or more, or 'auto'")
        if value != "auto" and value > most:
            raise ValueError(f"expected a count of {most} or less, or 'auto'")
        return value

    return BeforeValidator(check)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL, which no path and no name can hold")
    return text


Text = Annotated[str, Field(max_length=4096), AfterValidator(_without_nul)]
"""A path, a name or an address."""

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
"""No keys but its own, never changed; a number is a finite number, and no text, no flag and no date is one."""


class Section(BaseModel):
    """A section of a study file: no keys but its own, and never changed."""

    model_config = STRICT


def _without_repeats(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("a value stands twice in the list")
    return values


MOST_CHOICES = 256

Choices = Annotated[
    tuple[T, ...], Field(min_length=1, max_length=MOST_CHOICES, strict=False), AfterValidator(_without_repeats)
]
"""A list from a study file: at least one value, none twice."""
