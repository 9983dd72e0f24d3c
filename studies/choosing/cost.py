"""What a choice saves: requests a month, times core-hours a request, times the price of a core-hour."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import KaruiError

if TYPE_CHECKING:
    import pandas as pd

    from ...evaluators.measurement import Measurement

_SECONDS = {
    **{"s": 1.0, "sec": 1.0, "second": 1.0},
    **{"min": 60.0, "minute": 60.0},
    **{"h": 3600.0, "hour": 3600.0},
    **{"d": 86_400.0, "day": 86_400.0, "week": 604_800.0},
    **{"month": 2_628_000.0, "year": 31_536_000.0},
}
"""Seconds of each unit of time; a year has 365 days, a month is a twelfth of it (730 hours)."""

_MULTIPLES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_NUMBER = r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)"
_REQUESTS = re.compile(rf"\s*{_NUMBER}\s*([A-Za-z]?)\s*/\s*([a-z]+)\s*")
_PRICE = re.compile(rf"\s*([^\s\d./-]*)\s*{_NUMBER}\s*([^\s\d./-]*)\s*/\s*core-([a-z]+)\s*")
_MOST = 1e30
_HOUR = 3600.0
_MONTH = _SECONDS["month"]


@dataclass(frozen=True)
class Price:
    """What a core costs.

    Args:
        per_core_hour: In whatever currency.
        currency: As it was written; empty where it was not.
    """

    per_core_hour: float
    currency: str = ""

    def text(self, amount: float, spread: float | None = None) -> str:
        """Return an amount of money, rounded to what matters beside its spread."""
        digits = 2 if abs(amount) >= 1 else 4
        about = "" if spread is None else f" ± {spread:,.{digits}f}"
        return f"{amount:,.{digits}f}{about} {self.currency}".rstrip()


@dataclass(frozen=True)
class Saving:
    """Core-hours a month of two files, each request being one run that has ``threads`` cores to itself.

    Args:
        requests_per_month: How many.
        threads: Cores that a run keeps busy.
        batch_size: Inputs of a run.
        processor: On which a core-hour was timed.
        baseline_hours: Core-hours a month of the baseline.
        chosen_hours: Core-hours a month of the chosen file.
        saved_spread: Half the width of the 95 % interval of what is saved, in core-hours a month.
    """

    requests_per_month: float
    threads: int
    batch_size: int
    processor: str
    baseline_hours: float
    chosen_hours: float
    saved_spread: float

    @property
    def saved_hours(self) -> float:
        """Core-hours a month that the choice saves; negative where it costs more."""
        return self.baseline_hours - self.chosen_hours


def parse_requests(text: str) -> float:
    """Return how many requests a month ``500/s``, ``10M/month`` or ``2k/day`` are.

    Raises:
        KaruiError: Where the text is no such rate, or not positive.
    """
    match = _REQUESTS.fullmatch(text)
    if match is None or match[2] not in _MULTIPLES or match[3] not in _SECONDS or not float(match[1]) > 0:
        raise KaruiError(
            "a number of requests cannot be read",
            where="--requests",
            expected="a positive number, if need be k, M or G (thousand, million, thousand million), and a time, such "
            "as 500/s, 2k/day or 10M/month",
            got=repr(text),
        )
    return _finite(float(match[1]) * _MULTIPLES[match[2]] * _MONTH / _SECONDS[match[3]], "--requests", text)


def parse_price(text: str) -> Price:
    """Return the price that ``0.04/core-hour``, ``$0.04/core-hour`` or ``30 EUR/core-month`` says.

    Raises:
        KaruiError: Where the text is no such price, or not positive.
    """
    match = _PRICE.fullmatch(text)
    if match is None or match[4] not in _SECONDS or (match[1] and match[3]) or not float(match[2]) > 0:
        raise KaruiError(
            "a price cannot be read",
            where="--price",
            expected="a positive number, if need be a currency, and /core- with a time, such as 0.04/core-hour or "
            "30EUR/core-month",
            got=repr(text),
        )
    amount = _finite(float(match[2]), "--price", text)
    return Price(amount * _HOUR / _SECONDS[match[4]], match[1] or match[3])


def _finite(number: float, where: str, text: str) -> float:
    if not number < _MOST:
        raise KaruiError("a number is too large", where=where, expected="a number that means something", got=repr(text))
    return number


def saving_of(row: pd.Series[Any], baseline: Mapping[str, Measurement], requests_per_month: float) -> Saving:
    """Return what a point of a front saves against the baseline.

    Only the ratio of the two latencies and the baseline's own latency were measured: of the saving, which is the
    baseline's latency times one less the ratio, the spreads of both are put together.

    Args:
        row: The point; its ``latency_ratio`` and, where there is one, its spread are read.
        baseline: The baseline's measurements by name; ``latency_ms`` says with how many threads it was timed.
        requests_per_month: How many.
    """
    latency = baseline["latency_ms"]
    threads, ratio = int(latency.conditions.get("threads", 1)), float(row["latency_ratio"])
    ratio_spread = float(row.get("latency_ratio_spread", 0.0))
    hours_per_ms = requests_per_month * threads / (1000.0 * _HOUR)
    spread = math.hypot(
        latency.value * (0.0 if math.isnan(ratio_spread) else ratio_spread), (1 - ratio) * latency.spread
    )
    return Saving(
        requests_per_month=requests_per_month,
        threads=threads,
        batch_size=int(latency.conditions.get("batch_size", 1)),
        processor=str(latency.conditions.get("processor", "the device that was measured")),
        baseline_hours=hours_per_ms * latency.value,
        chosen_hours=hours_per_ms * ratio * latency.value,
        saved_spread=hours_per_ms * spread,
    )


def describe_saving(saving: Saving, price: Price) -> list[str]:
    """Return in sentences what is saved, and what that takes for granted."""
    saved, share = saving.saved_hours, saving.saved_hours / saving.baseline_hours
    money = price.text(abs(saved) * price.per_core_hour, saving.saved_spread * price.per_core_hour)
    verb, more = ("saves", "") if saved >= 0 else ("costs", " more")
    noise = " It is within noise." if abs(saved) <= saving.saved_spread else ""
    busy = [hours * _HOUR / _MONTH for hours in (saving.baseline_hours, saving.chosen_hours)]
    inputs = "one input" if saving.batch_size == 1 else f"a batch of {saving.batch_size} inputs"
    cores = "one core" if saving.threads == 1 else f"{saving.threads} cores"
    return [
        f"{saving.requests_per_month:,.0f} requests a month take {_short(saving.chosen_hours)} core-hours instead of "
        f"{_short(saving.baseline_hours)} with your model: this file {verb} {money} a month{more} "
        f"({abs(share):.1%}).{noise}",
        f"That takes for granted that a request is one run of {inputs}, as it was timed, alone on {cores} of "
        f"{saving.processor}; that nothing else about a request (network, preparation) changes; and that cores are "
        f"paid by use. On average {_short(busy[1])} of them are busy instead of {_short(busy[0])}: what is paid for "
        "idle cores is not saved.",
    ]


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
