"""The worst windows of a run, one figure each: price, what is liquidated, the fund."""

from dataclasses import dataclass, replace

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import cells, frames, text, theme
from .cells import Column
from .figures_time import shown_sets
from .frequency import times
from .fund import fund_balances
from .liquidations import fund_path, has_liquidations, traded, usd_by_time
from .reader import Results


MOST_WINDOWS = 3
LEAST_SHARE = 0.05
"""A further window holds at least this share of what is liquidated in the run."""
WINDOW_SECONDS = 86_400.0
LEAST_TIMES = 12
"""Times of a window at least, where the grid is coarse."""
MARGIN_FRAC = 0.25
"""Of a window's length, drawn before and after it."""
WINDOW_RULE = (
    "Windows of a day (at least 12 times) in which most USD are liquidated under the champion, "
    "none overlapping; a second and a third one only if each holds 5 % of all that is liquidated."
)
PRICE_COLUMNS = ["time", "usd"]


@dataclass(frozen=True)
class EventWindow:
    """Times ``first`` to ``stop`` (excluded) of the run; ``usd`` is liquidated under ``of``."""

    number: int
    first: int
    stop: int
    usd: float
    of: str

    def widened(self, count: int) -> "EventWindow":
        """With the times before and after it that a figure shows, of a run of some times."""
        margin = round(MARGIN_FRAC * (self.stop - self.first))
        stop = min(count, self.stop + margin)
        return replace(self, first=max(0, self.first - margin), stop=stop)


def picture_name(number: int) -> str:
    """File name of the figure of a window."""
    return f"worst_window-{number}"


def event_windows(results: Results) -> list[EventWindow]:
    """The worst windows of the champion, or of the set with most where it liquidates nothing."""
    key = ("event_windows",)
    if key not in results.memo:
        names = [results.champion, *results.challengers]
        amounts = {name: usd_by_time(results, name) for name in names}
        of = names[0] if amounts[names[0]].any() else max(names, key=lambda n: amounts[n].sum())
        length = max(LEAST_TIMES, round(WINDOW_SECONDS / results.interval_seconds))
        found = worst_stretches(amounts[of], length)
        results.memo[key] = [
            EventWindow(k, first, stop, float(amounts[of][first:stop].sum()), of)
            for k, (first, stop) in enumerate(found, start=1)
        ]
    return results.memo[key]


def worst_stretches(amounts: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Stretches of a length with the largest sums, none overlapping: first and stop of each.

    Of equal ones the middle one. A stretch after the first has ``LEAST_SHARE`` of the whole.

    Example:
        >>> worst_stretches(np.array([0, 0, 9, 0, 0, 0, 0, 4, 0, 0.0]), 3)
        [(1, 4), (6, 9)]
    """
    length = min(length, len(amounts))
    total, left = float(amounts.sum()), amounts.astype(float)
    taken = np.zeros(len(amounts), bool)
    found: list[tuple[int, int]] = []
    while len(found) < MOST_WINDOWS and total > 0.0:
        sums = _rolling(left, length)
        sums[_rolling(taken.astype(float), length) > 0.0] = -1.0
        best = float(sums.max(initial=-1.0))
        if best <= 0.0 or (found and best < LEAST_SHARE * total):
            break
        ties = np.flatnonzero(sums >= best * (1.0 - 1e-12))
        # The first run of neighbours among the best: its middle.
        run = ties[: int(np.argmax(np.append(np.diff(ties) > 1, True))) + 1]
        first = int(run[(len(run) - 1) // 2])
        found.append((first, first + length))
        taken[first : first + length] = True
        left[first : first + length] = 0.0
    return found


def _rolling(values: np.ndarray, length: int) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(values)])
    return total[length:] - total[:-length]


def liquidated_coins(results: Results, window: EventWindow) -> dict[str, float]:
    """USD by coin in a window under its set, the largest first.

    Cash delta bought or sold where liquidations are simulated; else, and where only options and
    spot were traded, gross notional at the trigger by the coin that binds.
    """
    sums: dict[str, float] = {}
    if has_liquidations(results):
        rows = _inside(results, traded(results, window.of), window)
        for coins, deltas in zip(rows["sold_coins"], rows["sold_delta_usd"], strict=True):
            for coin, usd in zip(coins, deltas, strict=True):
                sums[str(coin)] = sums.get(str(coin), 0.0) + abs(float(usd))
    if not sums and results.has("events"):
        columns = ["time", "binding_unit", "gross_notional_usd"]
        rows = _inside(results, results.events(columns, window.of, "liquidation"), window)
        usd = frames.numbers(rows, "gross_notional_usd")
        for coin, amount in zip(rows["binding_unit"].astype(str), usd.tolist(), strict=True):
            sums[coin] = sums.get(coin, 0.0) + amount
    return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))


def _inside(results: Results, rows: pd.DataFrame, window: EventWindow) -> pd.DataFrame:
    when = times(results)[window.first : window.stop]
    moments = pd.DatetimeIndex(pd.to_datetime(rows["time"], utc=True))
    return frames.rows(rows, (moments >= when[0]) & (moments <= when[-1]))


def price_path(results: Results, window: EventWindow, coin: str | None) -> pd.DataFrame:
    """Index price of a coin in a window: time, usd; no rows where the run saved none."""
    if coin is None or not results.has("index"):
        return pd.DataFrame({c: [] for c in PRICE_COLUMNS})
    rows = results.index()
    mine = _inside(results, frames.rows(rows, rows["currency"].astype(str) == coin), window)
    return frames.ordered(mine.reindex(columns=PRICE_COLUMNS), "time")


def furthest_move(price: np.ndarray) -> float:
    """The furthest that a price gets from its first known one, a fraction; NaN without a price."""
    known = price[np.isfinite(price)]
    if not len(known):
        return float("nan")
    moves = known / known[0] - 1.0
    return float(moves[int(np.abs(moves).argmax())])


def window_table(results: Results) -> pd.DataFrame:
    """One row a window and set: when, which coin, how far its index got, what was liquidated."""
    found = []
    when = times(results)
    for window in event_windows(results):
        coin = next(iter(liquidated_coins(results, window)), None)
        price = frames.numbers(price_path(results, window, coin), "usd")
        for name in (results.champion, *results.challengers):
            row = {
                "window": window.number,
                "parameter_set": name,
                "start": when[window.first],
                "end": when[window.stop - 1],
                "coin": coin or "",
                "index_move_frac": furthest_move(price),
                "liquidated_usd": float(
                    usd_by_time(results, name)[window.first : window.stop].sum()
                ),
            }
            if has_liquidations(results):
                rows = _inside(results, traded(results, name), window)
                paid = _inside(results, fund_path(results, name), window)
                row |= {
                    "accounts": len(set(rows["account_id"].tolist())),
                    "bad_debt_usd": frames.total(rows, "bad_debt_usd"),
                    "from_fund_usd": frames.total(paid, "from_fund_usd"),
                }
            found.append(row)
    return pd.DataFrame(found)


def window_columns(results: Results) -> list[Column]:
    """How a page shows ``window_table``."""
    columns = [
        Column("window", "Window", cells.count),
        Column("parameter_set", "Set"),
        Column("start", "From", cells.moment, "UTC"),
        Column("end", "To", cells.moment, "UTC"),
        Column("coin", "Coin", None, "liquidated most"),
        Column("index_move_frac", "Index", cells.share, "furthest from its first"),
        Column("liquidated_usd", "Liquidated", cells.money),
    ]
    if has_liquidations(results):
        columns += [
            Column("accounts", "Accounts", cells.count, "liquidated"),
            Column("bad_debt_usd", "Bad debt", cells.money),
            Column("from_fund_usd", "Paid by the fund", cells.money),
        ]
    return columns


def figure_window(results: Results, number: int) -> Figure:
    """One of the worst windows: price, USD liquidated under every set, the fund."""
    window = event_windows(results)[number - 1]
    coin = next(iter(liquidated_coins(results, window)), None)
    inside = price_path(results, window, coin)
    drawn = window.widened(len(times(results)))
    prices = price_path(results, drawn, coin)
    has_fund = has_liquidations(results) and results.has("waterfall")
    panels = [bool(len(prices)), True, has_fund]
    with mpl.rc_context(theme.style()):
        title = _title(results, window, coin, inside)
        count = sum(panels)
        figure, axes = theme.new_figure(title, 1.0 + 1.5 * count, count, sharex=True)
        each = iter(axes[:, 0].tolist())
        clock = _clock(times(results))[drawn.first : drawn.stop]
        if len(prices):
            _draw_price(next(each), results, drawn, str(coin), prices)
        _draw_liquidated(next(each), results, drawn, clock)
        if has_fund:
            _draw_fund(next(each), results, drawn, clock)
        bounds = _edges(results, _clock(times(results))[window.first : window.stop])[[0, -1]]
        for axis in axes[:, 0].tolist():
            for moment in bounds:
                axis.axvline(moment, color=theme.MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        theme.time_axis(axes[-1, 0], _edges(results, clock))
    return figure


def _edges(results: Results, clock: np.ndarray) -> np.ndarray:
    """The times with the end of the last interval."""
    step = np.timedelta64(round(1e6 * results.interval_seconds), "us")
    return np.append(clock, clock[-1] + step)


def _clock(moments: pd.DatetimeIndex) -> np.ndarray:
    return moments.tz_convert(None).to_numpy()


def _title(results: Results, window: EventWindow, coin: str | None, prices: pd.DataFrame) -> str:
    when = times(results)[window.first]
    words = f"From {text.time(when)}: {text.usd(window.usd)} liquidated under "
    words += theme.quoted(window.of)
    move = furthest_move(frames.numbers(prices, "usd"))
    if text.is_missing(move) or coin is None:
        return words
    way = "falls" if move < 0 else "rises"
    return f"{words} while {theme.label(coin, 12)} {way} by up to {text.percent(abs(move))}"


def _draw_price(
    axis: Axes, results: Results, window: EventWindow, coin: str, prices: pd.DataFrame
) -> None:
    clock = _clock(pd.DatetimeIndex(pd.to_datetime(prices["time"], utc=True)))
    usd = frames.numbers(prices, "usd")
    axis.plot(clock, usd, color=theme.INK, label="index")
    if results.has("impact"):
        rows = _inside(results, results.simulated("impact", window.of), window)
        rows = frames.ordered(frames.rows(rows, rows["coin"].astype(str) == coin), "time")
        if len(rows):
            moved = frames.numbers(rows, "index_usd") * (1.0 + frames.numbers(rows, "move_frac"))
            at = _clock(pd.DatetimeIndex(pd.to_datetime(rows["time"], utc=True)))
            axis.plot(at, moved, color=theme.SET_COLORS[1], linestyle=":", label="as moved")
            theme.legend_above(axis)
    axis.set_ylabel("USD")
    axis.yaxis.set_major_formatter(lambda v, _: f"{v:,.6g}")
    axis.set_title(f"{theme.label(coin, 12)}, index price")


def _draw_liquidated(axis: Axes, results: Results, window: EventWindow, clock: np.ndarray) -> None:
    edges = _edges(results, clock)
    for k, name in enumerate(shown_sets(results)):
        axis.stairs(
            usd_by_time(results, name)[window.first : window.stop],
            edges,
            color=theme.set_color(k),
            fill=k == 0,
            alpha=0.45 if k == 0 else 1.0,
            linestyle="-" if k < 2 else theme.set_style(k),
            linewidth=1.3,
            label=theme.label(name),
        )
    axis.set_ylabel("USD")
    axis.set_title(f"Liquidated, each {text.duration(results.interval_seconds)}")
    axis.yaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
    theme.legend_above(axis)


def _draw_fund(axis: Axes, results: Results, window: EventWindow, clock: np.ndarray) -> None:
    edges = _edges(results, clock)
    for k, name in enumerate(shown_sets(results)):
        balance = fund_balances(results, name)[window.first : window.stop]
        if np.isfinite(balance).all():
            axis.step(
                edges,
                np.append(balance, balance[-1]),
                where="post",
                color=theme.set_color(k),
                linestyle=theme.set_style(k),
            )
    axis.set_ylabel("USD")
    axis.set_title("Fund after each time")
    axis.yaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
