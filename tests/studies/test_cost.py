"""What a choice saves: rates and prices as they are read, and the sum by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.errors import KaruiError
from karui.evaluators.measurement import Measurement
from karui.studies.choosing.cost import Price, Saving, describe_saving, parse_price, parse_requests, saving_of

MONTH_SECONDS = 365 * 24 * 3600 / 12


@pytest.mark.parametrize(
    ("text", "per_month"),
    [
        ("10M/month", 10e6),
        ("500/s", 500 * MONTH_SECONDS),
        ("2k/day", 2000 * 365 / 12),
        ("1.5G / year", 1.5e9 / 12),
        ("7/week", 365 / 12),
        (".5/h", 0.5 * 730),
        ("1e3/min", 1000 * 60 * 730),
    ],
)
def test_rates_are_read(text: str, per_month: float) -> None:
    assert parse_requests(text) == pytest.approx(per_month)


@pytest.mark.parametrize(
    ("text", "per_hour", "currency"),
    [
        ("0.04/core-hour", 0.04, ""),
        ("$0.04/core-hour", 0.04, "$"),
        ("30 EUR/core-month", 30 / 730, "EUR"),
        ("876 €/core-year", 0.1, "€"),
        ("0.00001/core-second", 0.036, ""),
    ],
)
def test_prices_are_read(text: str, per_hour: float, currency: str) -> None:
    price = parse_price(text)
    assert price.per_core_hour == pytest.approx(per_hour)
    assert price.currency == currency


@pytest.mark.parametrize(
    "text", ["", "10", "10M", "10m/month", "-3/s", "0/s", "10/fortnight", "ten/s", "1e400/s", "5T/s"]
)
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(KaruiError, match=r"--requests(?s:.*)got: '"):
        parse_requests(text)


@pytest.mark.parametrize("text", ["", "0.04", "0.04/hour", "0/core-hour", "$4EUR/core-hour", "-1/core-hour", "4/core-"])
def test_what_is_no_price_is_told(text: str) -> None:
    with pytest.raises(KaruiError, match=r"--price(?s:.*)got: '"):
        parse_price(text)


@given(
    requests=st.floats(1, 1e12),
    ratio=st.floats(0.01, 3),
    baseline_ms=st.floats(0.01, 1e3),
    threads=st.integers(1, 64),
)
def test_a_month_is_runs_times_time_times_threads(
    requests: float, ratio: float, baseline_ms: float, threads: int
) -> None:
    baseline = {"latency_ms": Measurement("latency_ms", baseline_ms, "ms", 0.0, 9, {"threads": threads})}
    saving = saving_of(pd.Series({"latency_ratio": ratio}), baseline, requests)
    expected = requests * threads * baseline_ms / 1000 / 3600
    assert saving.baseline_hours == pytest.approx(expected)
    assert saving.chosen_hours == pytest.approx(expected * ratio)
    assert saving.saved_hours == pytest.approx(expected * (1 - ratio), abs=1e-9 * expected)
    assert saving.saved_spread == 0


def test_both_spreads_count() -> None:
    conditions = {"threads": 1, "batch_size": 8, "processor": "P"}
    baseline = {"latency_ms": Measurement("latency_ms", 36.0, "ms", 3.6, 9, conditions)}
    row = pd.Series({"latency_ratio": 0.5, "latency_ratio_spread": 0.1})
    saving = saving_of(row, baseline, 1e5)  # one core-hour a month for the baseline
    assert saving.baseline_hours == pytest.approx(1.0)
    # d(b (1 - r)) = (1 - r) db - b dr
    assert saving.saved_spread == pytest.approx(math.hypot(0.5 * 0.1, 1.0 * 0.1))
    assert (saving.batch_size, saving.processor, saving.threads) == (8, "P", 1)


def test_the_sentences_say_what_is_saved_and_what_is_taken_for_granted() -> None:
    saving = Saving(73e6, 4, 1, "P", 1000.0, 270.0, 10.0)
    first, second = describe_saving(saving, Price(0.1, "EUR"))
    assert first == (
        "73,000,000 requests a month take 270 core-hours instead of 1,000 with your model: this file saves "
        "73.00 ± 1.00 EUR a month (73.0%)."
    )
    assert "one run of one input, as it was timed, alone on 4 cores of P" in second
    assert "0.37 of them are busy instead of 1.37" in second
    first, _ = describe_saving(Saving(1e6, 1, 1, "P", 100.0, 101.0, 10.0), Price(1.0))
    assert "costs 1.00 ± 10.00 a month more (1.0%). It is within noise." in first
