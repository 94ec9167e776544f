from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
import QuantLib as ql

from backtest.market.black import YEAR_US, option_coin_price
from backtest.market.config import OptionsConfig
from backtest.market.expiries import expiry_calendar
from backtest.market.listing import list_options, listed_strikes, strike_step
from backtest.market.series import DAY_US, HOUR_US, microseconds_of, timestamps
from backtest.market.surface import default_surface


START_US = microseconds_of(datetime(2024, 8, 1, tzinfo=UTC))
CASES = [
    (60_000.0, 50_000.0, 0.55, 0.25, False),
    (60_000.0, 60_000.0, 0.80, 1 / 365, True),
    (60_000.0, 90_000.0, 0.65, 1.0, True),
    (2_000.0, 1_000.0, 1.50, 0.02, False),
]


@pytest.mark.parametrize(("forward", "strike", "iv", "years", "call"), CASES)
def test_price_agrees_with_quantlib(
    forward: float, strike: float, iv: float, years: float, call: bool
) -> None:
    kind = ql.Option.Call if call else ql.Option.Put
    expected = ql.blackFormula(kind, strike, forward, iv * np.sqrt(years)) / forward
    got = option_coin_price(
        forwards=np.array([forward]),
        strikes=np.array([strike]),
        volatilities=np.array([iv]),
        years=np.array([years]),
        is_call=np.array([call]),
    )
    assert got[0] == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_price_without_time_or_volatility_is_intrinsic() -> None:
    one = np.ones(4)
    got = option_coin_price(
        forwards=100 * one,
        strikes=np.array([80.0, 80.0, 120.0, 120.0]),
        volatilities=np.array([0.5, 0.0, 0.5, 0.0]),
        years=np.array([0.0, 1.0, 0.0, 1.0]),
        is_call=np.array([True, True, False, False]),
    )
    np.testing.assert_allclose(got, [0.2, 0.2, 0.2, 0.2])


def test_calendar_of_a_known_week() -> None:
    start = datetime(2024, 8, 1, tzinfo=UTC)
    frame: Any = expiry_calendar(start, start, daily=2, weekly=2, monthly=2, quarterly=2)
    found = {e.strftime("%y%m%d"): f.strftime("%y%m%d") for e, f in frame.itertuples(index=False)}
    assert found == {
        "240801": "240730",
        "240802": "240719",  # Friday
        "240809": "240726",
        "240830": "240628",  # last Friday of August
        "240927": "240329",  # quarter, as the second next
        "241227": "240628",
    }
    assert (frame["expiry"].dt.hour == 8).all()


def test_calendar_does_not_depend_on_the_end() -> None:
    start, middle = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 3, tzinfo=UTC)
    counts = {"daily": 3, "weekly": 3, "monthly": 3, "quarterly": 3}
    short = expiry_calendar(start, middle, **counts)
    long: Any = expiry_calendar(start, datetime(2024, 7, 1, tzinfo=UTC), **counts)
    pd.testing.assert_frame_equal(
        short, long[long["listed"] <= pd.Timestamp(middle)].reset_index(drop=True)
    )


def test_strike_steps_are_round_and_wider_for_long_tenors() -> None:
    days = np.array([1.0, 7.0, 30.0, 200.0])
    assert strike_step(np.full(4, 60_000.0), days).tolist() == [500, 1000, 2000, 5000]
    assert strike_step(np.full(4, 2_500.0), days).tolist() == [20, 50, 100, 200]


def test_strikes_are_listed_when_spot_gets_near_and_stay() -> None:
    hours = np.arange(48)
    times = START_US + hours * HOUR_US
    spot = np.where(hours < 24, 60_000.0, 50_000.0)
    expiry = START_US + 5 * DAY_US
    config = OptionsConfig(strikes_a_side=3, wing_strikes_a_side=0)
    strikes, listed = listed_strikes(times, spot, expiry, config)
    first = strikes[listed == times[0]]
    later = strikes[listed == times[24]]
    assert first.tolist() == [57_000, 58_000, 59_000, 60_000, 61_000, 62_000, 63_000]
    assert later.tolist() == [47_000, 48_000, 49_000, 50_000, 51_000, 52_000, 53_000]
    assert len(strikes) == len(first) + len(later)


def test_listing_uses_the_past_only() -> None:
    times = START_US + np.arange(200) * HOUR_US
    spot = 60_000.0 * np.exp(np.cumsum(np.random.default_rng(0).standard_normal(200) * 0.01))
    whole: Any = list_options("BTC", times, spot, OptionsConfig())
    short = list_options("BTC", times[:90], spot[:90], OptionsConfig())
    known = whole.listed <= times[89]
    assert known.sum() < len(known)
    pd.testing.assert_frame_equal(
        short.instruments, whole.instruments[known].reset_index(drop=True)
    )


def test_missing_prices_list_nothing() -> None:
    times = START_US + np.arange(5) * HOUR_US
    found = list_options("BTC", times, np.full(5, np.nan), OptionsConfig())
    assert found.instruments.empty


def test_instrument_ids_and_multipliers() -> None:
    times = START_US + np.arange(3) * HOUR_US
    frame = list_options("ETH", times, np.full(3, 3000.0), OptionsConfig()).instruments
    frame = frame.set_index("instrument_id")
    row = frame.loc["ETH-USD-240830-3000-C"]
    assert (row["settle"], row["style"], row["multiplier"]) == ("ETH", "inverse", 0.1)
    assert row["expiry"] == pd.Timestamp("2024-08-30T08:00Z")
    assert 100 < len(frame) < 300


@pytest.mark.parametrize("coin", ["BTC", "ETH"])
@pytest.mark.parametrize("level", [0.3, 0.5, 0.9, 1.6])
def test_surface_has_no_arbitrage_on_the_ladder(coin: str, level: float) -> None:
    surface = default_surface().coins[coin]
    before = 0.0
    for days in (0.5, 1, 3, 7, 30, 90, 365):
        years = days / 365
        flat, reference = np.full(1, level), np.full(1, 0.5)
        atm = surface.atm(level=flat, reference=reference, years=np.full(1, years))[0]
        assert atm**2 * years > before  # total variance grows
        before = atm**2 * years
        width = 6 * atm * np.sqrt(years)
        strikes = np.exp(np.linspace(max(-width, np.log(0.2)), min(width, np.log(4.0)), 801))
        one = np.ones(801)
        iv = surface.implied(
            level=level * one,
            reference=0.5 * one,
            years=years * one,
            log_moneyness=np.log(strikes),
        )
        calls = option_coin_price(
            forwards=one,
            strikes=strikes,
            volatilities=iv,
            years=years * one,
            is_call=one > 0,
        )
        inside = iv < 5.0  # where the volatility is not capped
        slope = np.diff(calls[inside]) / np.diff(strikes[inside])
        assert (slope <= 1e-12).all()
        assert (np.diff(slope) >= -1e-9).all()


def test_surface_at_thirty_days_is_the_level() -> None:
    for surface in default_surface().coins.values():
        years = np.full(1, 30 / 365)
        level = np.full(1, 0.7)
        iv = surface.implied(
            level=level, reference=level * 0.8, years=years, log_moneyness=np.zeros(1)
        )
        assert iv[0] == pytest.approx(0.7, rel=1e-12)


def test_years_are_of_365_days() -> None:
    span: Any = timestamps(np.array([START_US, START_US + YEAR_US]))
    assert span[1] - span[0] == pd.Timedelta(days=365)
