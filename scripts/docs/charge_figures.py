"""Pictures of the page about the charges: what each answers to, from the float64 reference."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import backtest
from backtest.report import theme


PARAMS = backtest.PROJECT_ROOT / "configs" / "params" / "okx-merged-2025-01-21.toml"
NOW = datetime(2025, 3, 1, 8, tzinfo=UTC)
PRICE_USD, VOLATILITY = 100_000.0, 0.6
Lines = dict[str, list[float]]


def perpetual(contracts: float, settle: str = "USDT") -> dict[str, Any]:
    """Linear perpetual of 1 BTC a contract: terms and position in one."""
    return {
        "instrument_id": f"BTC-{settle}-SWAP",
        "kind": "perpetual",
        "coin": "BTC",
        "settle": settle,
        "style": "linear",
        "multiplier": 1.0,
        "contracts": contracts,
        "mark_price": PRICE_USD,
        "entry_price": PRICE_USD,
    }


def dated(contracts: float, days: float) -> dict[str, Any]:
    """Linear future of 1 BTC a contract."""
    expiry = (NOW + timedelta(days=days)).isoformat()
    name = f"BTC-USDT-{days:g}d"
    return perpetual(contracts) | {"instrument_id": name, "kind": "future", "expiry": expiry}


def option(contracts: float, days: float, strike: float, kind: str = "C") -> dict[str, Any]:
    """Coin-settled option of 1 BTC a contract."""
    return {
        "instrument_id": f"BTC-{days:g}d-{strike:g}-{kind}",
        "kind": "option",
        "coin": "BTC",
        "settle": "BTC",
        "style": "inverse",
        "multiplier": 1.0,
        "strike": strike,
        "option_type": kind,
        "expiry": (NOW + timedelta(days=days)).isoformat(),
        "contracts": contracts,
        "mark_price": 0.05,
        "entry_price": 0.05,
        "mark_iv": VOLATILITY,
        "forward": PRICE_USD,
    }


def margin(*legs: dict[str, Any], usdt: float = 1e9, usdc_usd: float = 1.0) -> backtest.Margin:
    """Margin of a book at 100,000 USD a BTC under today's set."""
    terms = ("instrument_id", "kind", "coin", "settle", "style", "multiplier", "strike")
    held = ("instrument_id", "contracts", "mark_price", "entry_price", "mark_iv", "forward")
    empty = dict.fromkeys(("strike", "option_type", "expiry", "mark_iv", "forward"))
    rows = [empty | leg for leg in legs]
    portfolio = {
        "time": NOW.isoformat(),
        "index_usd": {"BTC": PRICE_USD, "USDT": 1.0, "USDC": usdc_usd},
        "instruments": [{k: r[k] for k in (*terms, "option_type", "expiry")} for r in rows],
        "positions": [{k: r[k] for k in held} for r in rows],
        "balances": {"USDT": usdt, "USDC": 0.0, "BTC": 0.0},
        "spot_limits": {},
        "borrow_mode": "auto",
        "spot_mode": None,
        "orders": [],
    }
    return backtest.reference_margin(portfolio, _numbers())


def _numbers() -> dict[str, Any]:
    return backtest.load_params(PARAMS).numbers()


def charge(name: str, *legs: dict[str, Any], **market: float) -> float:
    """One charge of a book, USD; that of the account for ``mr8``."""
    answer = margin(*legs, **market).answer
    if name == "mr8":
        return answer["account"]["mr8"]
    return sum(unit[name] for unit in answer["units"].values())


def _strangle(days: float, distance: float) -> list[dict[str, Any]]:
    up, down = PRICE_USD * (1 + distance), PRICE_USD * (1 - distance)
    return [option(-1.0, days, up), option(-1.0, days, down, "P")]


def _lines(title: str, x: Iterable[float], lines: Lines, across: str, up: str) -> Figure:
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(title, 2.5)
        panel = axes[0, 0]
        for k, (label, values) in enumerate(lines.items()):
            style, color = theme.set_style(k), theme.set_color(k)
            panel.plot(list(x), values, label=label, linestyle=style, color=color)
        panel.set_xlabel(across)
        panel.set_ylabel(up)
        if len(lines) > 1:
            panel.legend()
    return figure


def mr1() -> Figure:
    """The scenarios of a short strangle."""
    cells: Any = margin(*_strangle(30.0, 0.1)).scenarios()
    moves = sorted(set(cells["price_move"]))
    lines = {
        f"volatility {state}": cells[cells["vol"] == state]
        .sort_values("price_move")["pnl_usd"]
        .tolist()
        for state in ("down", "same", "up")
    }
    title = "MR1: a short strangle loses most where price and volatility rise together"
    return _lines(title, [100 * x for x in moves], lines, "price move, %", "profit, USD")


def mr2() -> Figure:
    """A day of a long straddle, by time to expiry."""
    days = [1.0, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 90]
    legs = [[option(1.0, d, PRICE_USD), option(1.0, d, PRICE_USD, "P")] for d in days]
    lines = {"long straddle": [charge("mr2", *pair) for pair in legs]}
    return _lines("MR2: a day costs most near expiry", days, lines, "days to expiry", "MR2, USD")


def mr3() -> Figure:
    """A calendar spread, by the size of its short leg."""
    sizes = list(np.linspace(0.0, 3.0, 31))
    long = option(1.0, 90.0, PRICE_USD)
    calls = [option(-n, 30.0, PRICE_USD) for n in sizes]
    lines = {"short 30 days": [charge("mr3", long, call) for call in calls]}
    title = "MR3: charged is the vega that one expiry hedges of another"
    return _lines(title, sizes, lines, "30-day calls sold against one of 90 days", "MR3, USD")


def mr4() -> Figure:
    """Cash and carry, by the expiry of the future."""
    days = list(np.linspace(1.0, 270.0, 28))
    lines = {
        "long future, short perpetual": [
            charge("mr4", dated(1.0, d), perpetual(-1.0)) for d in days
        ],
        "perpetual alone": [charge("mr4", perpetual(-1.0)) for _ in days],
    }
    title = "MR4: both legs of a basis trade pay, the dated one more the longer it runs"
    return _lines(title, days, lines, "days to expiry", "MR4, USD")


def mr5() -> Figure:
    """Interest rate risk of options, by time to expiry."""
    days = list(np.linspace(7.0, 360.0, 28))
    lines = {
        "long call at 100,000": [charge("mr5", option(1.0, d, PRICE_USD)) for d in days],
        "long call at 130,000": [charge("mr5", option(1.0, d, 1.3 * PRICE_USD)) for d in days],
    }
    return _lines(
        "MR5: rates move the forward, the more the longer an option runs",
        days,
        lines,
        "days to expiry",
        "MR5, USD",
    )


def mr6() -> Figure:
    """MR1 and MR6 of a short straddle, by time to expiry."""
    days = [1.0, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 90]
    books = [margin(*_strangle(d, 0.0)).charges().loc["BTC"] for d in days]
    lines = {name.upper(): [float(b[name]) for b in books] for name in ("mr1", "mr6")}
    title = "MR6: half of the loss at twice the move, without a move of volatility"
    across = "days to expiry of a short straddle"
    return _lines(title, days, lines, across, "charge, USD")


def mr7() -> Figure:
    """The minimum charge of a perpetual, by its size."""
    sizes = list(np.geomspace(1.0, 20_000.0, 40))
    rates = [100 * charge("mr7", perpetual(n)) / (n * PRICE_USD) for n in sizes]
    title = "MR7: the minimum charge grows faster than the position"
    millions = [n * PRICE_USD / 1e6 for n in sizes]
    figure = _lines(title, millions, {"perpetual": rates}, "position, USD m", "MR7 / notional, %")
    figure.axes[0].set_xscale("log")
    return figure


def mr8() -> Figure:
    """Borrowing, by the debt."""
    debts = list(np.geomspace(1e5, 3e8, 60))
    rates = [100 * charge("mr8", usdt=-debt) / debt for debt in debts]
    title = "MR8: the whole debt pays the rate of the tier that it falls in"
    millions = [debt / 1e6 for debt in debts]
    figure = _lines(title, millions, {"USDT": rates}, "debt, USDT m", "MR8 / debt, %")
    figure.axes[0].set_xscale("log")
    return figure


def mr9() -> Figure:
    """A book long in one stablecoin and short in another, by the index."""
    prices = list(np.linspace(0.80, 1.0, 81))
    lines = {
        f"{n:,.0f} BTC": [
            100 * charge("mr9", perpetual(n), perpetual(-n, "USDC"), usdc_usd=p) / (n * PRICE_USD)
            for p in prices
        ]
        for n in (1.0, 30.0, 200.0)
    }
    title = "MR9: long in USDT against short in USDC costs by the index of USDC"
    return _lines(title, prices, lines, "USDC, USD", "MR9 / hedged notional, %")


FIGURES: dict[str, Callable[[], Figure]] = {
    f.__name__: f for f in (mr1, mr2, mr3, mr4, mr5, mr6, mr7, mr8, mr9)
}
"""One figure a charge."""
