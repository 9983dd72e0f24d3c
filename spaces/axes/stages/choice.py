"""A network of inverted-residual stages as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KERNELS = (3, 5, 7)
EXPANSIONS = (1, 3, 6)


@dataclass(frozen=True)
class Stage:
    """Equal inverted-residual blocks in a row; the first may halve height and width.

    Args:
        kernel: Height and width of the depthwise convolution, 3, 5 or 7.
        expansion: Channels of the depthwise convolution per input channel of the block, 1, 3 or 6.
        squeeze_excite: Whether the depthwise convolution is followed by a squeeze-and-excitation gate.
        depth: Blocks, 1 or more.

    Raises:
        ValueError: On a value without meaning.
    """

    kernel: int
    expansion: int
    squeeze_excite: bool
    depth: int

    def __post_init__(self) -> None:
        rules = (
            ("kernel", self.kernel in KERNELS, f"one of {KERNELS}"),
            ("expansion", self.expansion in EXPANSIONS, f"one of {EXPANSIONS}"),
            ("squeeze_excite", isinstance(self.squeeze_excite, bool), "True or False"),
            ("depth", self.depth >= 1, "1 or more"),
        )
        for name, holds, expected in rules:
            if not holds:
                raise ValueError(f"Stage.{name}: expected {expected}, got {getattr(self, name)!r}")

    def text(self) -> str:
        """Return a compact text such as ``k5 e6 se d1``."""
        gate = " se" if self.squeeze_excite else ""
        return f"k{self.kernel} e{self.expansion}{gate} d{self.depth}"


@dataclass(frozen=True)
class StageNetwork:
    """A network of inverted-residual stages.

    Args:
        channels: Channels of the first stage; each later stage has twice those of the one before.
        stages: The stages, at least one.

    Raises:
        ValueError: On a network without channels or stages.
    """

    channels: int
    stages: tuple[Stage, ...]

    kind = "stages"

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"StageNetwork.channels: expected 1 or more, got {self.channels!r}")
        if not self.stages:
            raise ValueError("StageNetwork.stages: expected at least one stage, got none")

    @property
    def channels_of_stages(self) -> tuple[int, ...]:
        """Channels at the output of each stage."""
        return tuple(self.channels * 2**position for position in range(len(self.stages)))

    def describe(self) -> str:
        """Return a short text such as ``stages 16ch [k3 e3 d2 | k5 e6 se d1]``."""
        return f"stages {self.channels}ch [{' | '.join(stage.text() for stage in self.stages)}]"

    def sentence(self) -> str:
        """Return what it is in words."""
        return f"inverted-residual stages: {self.describe()}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> StageNetwork:
        """Read what :meth:`to_dict` wrote; in JSON, tuples have become lists."""
        return cls(channels=int(plain["channels"]), stages=tuple(Stage(**stage) for stage in plain["stages"]))
