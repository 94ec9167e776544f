import numpy as np
import pandas as pd
import pytest

from backtest.market.black import option_coin_price
from backtest.market_report import checks
from backtest.market_report.checks import Limits, StaleRuns


START = pd.Timestamp("2024-08-05T00:00Z")


def hours(count: int) -> pd.DatetimeIndex:
    return pd.date_range(START, periods=count, freq="h")


def chain(iv: float = 0.5, days: tuple[int, ...] = (10, 40)) -> pd.DataFrame:
    """Calls and puts at three strikes of two expiries, priced by their own volatility."""
    rows = [
        {
            "time": START,
            "instrument_id": f"BTC-{day}-{strike:.0f}-{side}",
            "coin": "BTC",
            "strike": strike,
            "option_type": side,
            "expiry": START + pd.Timedelta(days=day),
            "forward": 60_000.0,
            "mark_iv": iv,
        }
        for day in days
        for strike in (45_000.0, 60_000.0, 80_000.0)
        for side in ("C", "P")
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(mark_price=priced(frame))


def priced(frame: pd.DataFrame) -> np.ndarray:
    years = (frame["expiry"] - frame["time"]).dt.total_seconds().to_numpy(float) / (365 * 86_400)
    return option_coin_price(
        forwards=frame["forward"].to_numpy(float),
        strikes=frame["strike"].to_numpy(float),
        volatilities=frame["mark_iv"].to_numpy(float),
        years=years,
        is_call=frame["option_type"].to_numpy(object) == "C",
    )


def test_a_sound_chain_has_no_findings() -> None:
    limits = Limits()
    good = chain()
    assert checks.absurd_volatilities(good, limits).empty
    assert checks.against_the_model(good, limits.model_coins).empty
    assert checks.parity(good, limits.parity_coins).empty
    assert checks.calendar(good, limits.variance_frac).empty


def test_parity_is_of_call_and_put_at_one_strike() -> None:
    bad = chain()
    bad.loc[0, "mark_price"] += 0.01
    (found,) = checks.parity(bad, 0.002).to_dict(orient="records")
    assert found["subject"] == "BTC-10-45000-C"
    assert found["size"] == pytest.approx(0.01)
    (model,) = checks.against_the_model(bad, 0.002).to_dict(orient="records")
    assert model["size"] == pytest.approx(0.01)


def test_total_variance_may_not_fall() -> None:
    """0.9 for 10 days is a variance of 0.0222, 0.4 for 40 days 0.0175: 21 % less."""
    rows = chain()
    rows.loc[rows.index[:6], "mark_iv"] = 0.9
    rows.loc[rows.index[6:], "mark_iv"] = 0.4
    found = checks.calendar(rows, 0.02)
    assert set(found["subject"]) == {"BTC 2024-09-14"}
    assert found["size"].to_numpy(float) == pytest.approx(1 - 0.4**2 * 40 / (0.9**2 * 10))
    assert len(found) == 5


def test_absurd_and_crossed_volatilities() -> None:
    rows = chain().assign(bid_iv=0.4, ask_iv=0.6)
    rows.loc[0, "mark_iv"], rows.loc[1, "mark_iv"] = 0.001, 9.0
    rows.loc[2, "bid_iv"] = 0.7
    found = checks.absurd_volatilities(rows, Limits())
    assert found["detail"].tolist() == ["mark_iv 0.001", "mark_iv 9", "bid_iv 0.7 above ask_iv 0.6"]


def test_jumps_are_seen_over_the_bounds_of_windows() -> None:
    rows = pd.DataFrame({"time": hours(4), "name": "X", "price": [100.0, 101.0, 120.0, 119.0]})
    none = rows.iloc[:0]
    (found,) = checks.jumps(rows, none, "name", "price", 0.1).to_dict(orient="records")
    assert found["size"] == pytest.approx(120 / 101 - 1)
    assert found["detail"] == "101 to 120"
    late = checks.jumps(rows.iloc[2:], rows.iloc[1:2], "name", "price", 0.1)
    assert late["time"].tolist() == [rows["time"][2]]


@pytest.mark.parametrize("window", [1, 5, 40])
def test_stale_marks(window: int) -> None:
    """20 equal marks while the index moves; then 20 equal ones while it does not."""
    prices = np.r_[np.arange(5.0), np.full(20, 7.0), np.full(20, 8.0), 9.0]
    index = np.r_[np.arange(25.0), np.full(21, 25.0)]
    rows = pd.DataFrame(
        {"time": hours(46), "instrument_id": "X", "mark_price": prices, "index_usd": index}
    )
    runs = StaleRuns(12)
    for first in range(0, 46, window):
        runs.add(rows.iloc[first : first + window])
    (found,) = runs.result().to_dict(orient="records")
    assert (found["size"], found["time"], found["detail"]) == (20.0, hours(46)[5], "20 rows at 7")


def test_basis() -> None:
    rows = pd.DataFrame({"time": hours(3), "instrument_id": "X", "basis": [0.01, -0.2, np.nan]})
    (found,) = checks.off_the_index(rows, 0.05).to_dict(orient="records")
    assert (found["size"], found["detail"]) == (0.2, "mark -20.0 % of the index")
