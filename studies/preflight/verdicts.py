"""What a preflight found on a target, and what each axis wins there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...evaluators.probing import WINS_FROM, LikedMultiple, ProbeRow, is_faster, is_slower

if TYPE_CHECKING:
    from ...evaluators.training_speed import TrainingSpeed
    from ...spaces.rounding.settings import OperatorKind


@dataclass(frozen=True)
class Verdict:
    """What one variant wins on a target, over all layers that were tried.

    Args:
        axis: ``bits`` or ``sparsity``.
        variant: In words.
        size_ratio: Bytes over those of float32, layers weighed by their share.
        time_ratio: Time over that of float32, likewise; None where it cannot run.
        time_spread: Half the width of its 95 % interval.
    """

    axis: str
    variant: str
    size_ratio: float
    time_ratio: float | None
    time_spread: float

    @property
    def pays_in(self) -> str:
        """``size and speed``, ``speed``, ``size``, or ``nothing``."""
        if self.time_ratio is None:
            return "nothing"
        wins = [name for name, won in (("size", self.size_ratio < 1 - WINS_FROM), ("speed", self.is_faster)) if won]
        return " and ".join(wins) or "nothing"

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than float32 by more than the noise."""
        return self.time_ratio is not None and is_faster(self.time_ratio, self.time_spread)

    @property
    def is_slower(self) -> bool:
        """Whether it is slower than float32 by more than the noise."""
        return self.time_ratio is not None and is_slower(self.time_ratio, self.time_spread)


@dataclass(frozen=True)
class Preflight:
    """What was found on one target.

    Args:
        target: Its name.
        rows: A row per layer and variant.
        multiples: A row per layer whose channels were counted.
        conditions: What the target was.
        whole: A row per variant of the whole model, where that was timed.
        float_operators: Kinds of operators that had better stay float32 beside 8-bit activations.
    """

    target: str
    rows: tuple[ProbeRow, ...]
    multiples: tuple[LikedMultiple, ...]
    conditions: Mapping[str, Any]
    whole: tuple[ProbeRow, ...] = ()
    float_operators: tuple[OperatorKind, ...] = ()

    def verdicts(self) -> list[Verdict]:
        """Return a verdict for every variant, in the order in which they were tried: of the whole model where there is.

        Single layers promise what a whole model does not keep, where int8 stands between operators that stay float32.
        """
        by_variant: dict[str, list[ProbeRow]] = {}
        for row in self.rows:
            by_variant.setdefault(row.variant, []).append(row)
        by_variant |= {row.variant: [row] for row in self.whole}
        return [_verdict(rows) for rows in by_variant.values()]

    @property
    def multiple(self) -> int:
        """Of what number channels should be a multiple: what the layers that count most like; 1 where unknown."""
        shares: dict[int, float] = {}
        for row in self.multiples:
            shares[row.multiple] = shares.get(row.multiple, 0.0) + row.share
        return max(shares, key=lambda multiple: (shares[multiple], multiple), default=1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Preflight:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            plain["target"],
            tuple(ProbeRow(**row) for row in plain["rows"]),
            tuple(LikedMultiple(**row) for row in plain["multiples"]),
            plain["conditions"],
            tuple(ProbeRow(**row) for row in plain["whole"]),
            tuple(plain["float_operators"]),
        )


@dataclass(frozen=True)
class Findings:
    """All that a preflight found.

    Args:
        targets: What was found on each target.
        training: What training in bfloat16 takes on this machine; None where it does not work.
    """

    targets: tuple[Preflight, ...]
    training: TrainingSpeed | None = None

    @property
    def float_operators(self) -> tuple[OperatorKind, ...]:
        """Kinds of operators that had better stay float32 beside 8-bit activations, on the first target."""
        return self.targets[0].float_operators if self.targets else ()

    @property
    def multiple(self) -> int:
        """Of what number channels should be a multiple: one that suits every target."""
        return math.lcm(*(found.multiple for found in self.targets))


def _verdict(rows: Sequence[ProbeRow]) -> Verdict:
    """Weigh the layers by their share of the multiply-adds; what one of them cannot run, the variant cannot."""
    whole = sum(row.share for row in rows)
    size_ratio = sum(row.share * row.size_ratio for row in rows) / whole
    times = [row.time_ratio for row in rows if row.time_ratio is not None]
    if len(times) < len(rows):
        return Verdict(rows[0].axis, rows[0].variant, size_ratio, None, 0.0)
    time_ratio = sum(row.share * time for row, time in zip(rows, times, strict=True)) / whole
    spread = math.hypot(*(row.share * row.time_spread for row in rows)) / whole
    return Verdict(rows[0].axis, rows[0].variant, size_ratio, time_ratio, spread)
