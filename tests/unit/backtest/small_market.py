"""A hand-made hourly market: four coins, options on two of them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr


START = pd.Timestamp("2024-08-01T00:00:00Z")
SPOT = {"BTC": 64_000.0, "ETH": 3_200.0, "SOL": 170.0, "DOGE": 0.12}
STABLE = {"USDT": 0.9995, "USDC": 1.0001, "USD": 1.0}
LOT = {"BTC": 0.01, "ETH": 0.1, "SOL": 1.0, "DOGE": 1000.0}
FUTURE_DAYS = (8, 57, 148)
OPTION_DAYS = (0.5, 2, 8, 29, 57, 148)


@dataclass(frozen=True)
class SmallMarket:
    instruments: pd.DataFrame
    index: pd.DataFrame
    marks: pd.DataFrame
    times: pd.DatetimeIndex


def small_market(
    hours: int = 24, coins: tuple[str, ...] = tuple(SPOT), options: bool = True, drop: float = 0.0
) -> SmallMarket:
    """Prices drift a little; ``drop`` is the fall of all coins from the first to the last hour."""
    times = pd.date_range(START, periods=hours + 1, freq="h")
    rows = [r for coin in coins for r in _instruments(coin, options and coin in ("BTC", "ETH"))]
    instruments = pd.DataFrame(rows)
    for name in ("listed", "expiry"):
        instruments[name] = pd.to_datetime(instruments[name], utc=True)
    path = {c: _path(SPOT[c], k, len(times), drop) for k, c in enumerate(SPOT)}
    index = pd.concat(
        [pd.DataFrame({"time": times, "currency": c, "usd": path[c]}) for c in coins]
        + [pd.DataFrame({"time": times, "currency": c, "usd": v}) for c, v in STABLE.items()],
        ignore_index=True,
    )
    return SmallMarket(instruments, index, _all_marks(rows, times, path), times)


def _all_marks(
    rows: list[dict[str, object]], times: pd.DatetimeIndex, path: dict[str, np.ndarray]
) -> pd.DataFrame:
    columns = [_marks(row, path[str(row["coin"])], _years(row["expiry"], times)) for row in rows]
    names = ["mark_price", "forward", "mark_iv", "funding_rate"]
    frame = pd.DataFrame(
        {name: np.concatenate([c[k] for c in columns]) for k, name in enumerate(names)}
    )
    frame.insert(0, "time", times.take(np.tile(np.arange(len(times)), len(rows))))
    frame.insert(1, "instrument_id", np.repeat([str(r["instrument_id"]) for r in rows], len(times)))
    frame[["low", "high"]] = np.nan
    return frame.dropna(subset="mark_price").reset_index(drop=True)


def _years(expiry: object, times: pd.DatetimeIndex) -> np.ndarray:
    if expiry is None:
        return np.zeros(len(times))
    return (pd.Timestamp(str(expiry)).value - times.as_unit("ns").asi8) / (365 * 86_400e9)


def _path(start: float, k: int, count: int, drop: float) -> np.ndarray:
    steps = np.random.default_rng(k).normal(0.0, 0.003, count)
    steps[0] = 0.0
    return start * np.exp(np.cumsum(steps)) * np.linspace(1.0, 1.0 - drop, count)


def _row(
    name: str, kind: str, coin: str, settle: str, style: str, multiplier: float, **more: object
) -> dict[str, object]:
    base = {
        "instrument_id": name,
        "kind": kind,
        "coin": coin,
        "settle": settle,
        "style": style,
        "multiplier": multiplier,
    }
    return base | {"strike": np.nan, "option_type": None, "listed": None, "expiry": None} | more


def _instruments(coin: str, options: bool) -> list[dict[str, object]]:
    lot = LOT[coin]
    rows = [_row(f"{coin}-{q}-SWAP", "perpetual", coin, q, "linear", lot) for q in ("USDT", "USDC")]
    rows.append(_row(f"{coin}-USDT", "spot", coin, "USDT", "linear", 1.0))
    if coin == "DOGE":
        return rows
    rows.append(_row(f"{coin}-USD-SWAP", "perpetual", coin, coin, "inverse", 100.0))
    for days in FUTURE_DAYS:
        expiry = START + pd.Timedelta(days=days, hours=8)
        tag = f"{expiry:%y%m%d}"
        rows.append(
            _row(f"{coin}-USD-{tag}", "future", coin, coin, "inverse", 100.0, expiry=expiry)
        )
        rows.append(
            _row(f"{coin}-USDT-{tag}", "future", coin, "USDT", "linear", lot, expiry=expiry)
        )
    for days in OPTION_DAYS if options else ():
        expiry = START + pd.Timedelta(days=days, hours=8)
        for step in range(-8, 9):
            strike = float(f"{SPOT[coin] * (1 + 0.05 * step):.3g}")
            for side in ("C", "P"):
                name = f"{coin}-USD-{expiry:%y%m%d%H}-{strike:.0f}-{side}"
                rows.append(
                    _row(
                        name,
                        "option",
                        coin,
                        coin,
                        "inverse",
                        lot,
                        expiry=expiry,
                        strike=strike,
                        option_type=side,
                    )
                )
    return rows


def _marks(row: dict[str, object], spot: np.ndarray, years: np.ndarray) -> list[np.ndarray]:
    """mark_price, forward, mark_iv and funding_rate of one instrument at every time."""
    none = np.full(len(spot), np.nan)
    if row["kind"] == "spot":
        return [none, none, none, none]
    if row["kind"] == "perpetual":
        return [spot * 1.0002, none, none, np.full(len(spot), 1e-5)]
    alive = years > 0
    forward = spot * np.exp(0.08 * years)
    if row["kind"] == "future":
        return [np.where(alive, forward, np.nan), none, none, none]
    strike, sign = float(str(row["strike"])), 1.0 if row["option_type"] == "C" else -1.0
    iv = 0.55 + 0.4 * np.log(strike / forward) ** 2
    width = iv * np.sqrt(np.where(alive, years, 1.0))
    d1 = np.log(forward / strike) / width + 0.5 * width
    value = sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * (d1 - width)))
    return [np.where(alive, value / forward, np.nan), forward, iv, none]
