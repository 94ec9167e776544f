"""Figures along time: the market with its liquidations, and margin by charge."""

from collections.abc import Callable
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import frames, text, theme
from .frequency import by_time, times
from .reader import Results
from .switches import switches


STABLE = ("USDT", "USDC", "DAI", "FDUSD", "TUSD", "BUSD", "USDD", "PYUSD", "USDE")
_STABLE_MOVE = 0.003  # a stablecoin is drawn when it is this far from 1 USD
_MOST_COINS = 4
_POINTS = 600
_BINS = 120
_STEPS = (1, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 4320, 10080, 20160, 43200)
_COIN_COLORS = (theme.INK, "#999999", "#56b4e9", "#cc79a7")


def shown_sets(results: Results) -> list[str]:
    """Sets that figures draw: the champion first, challengers up to the number of colours."""
    return [results.champion, *results.challengers][: theme.MOST_SETS]


def figure_timeline(results: Results) -> Figure:
    """Prices above liquidations: accounts at or below 100 %, episodes and their running total."""
    title = _timeline_title(results)
    if not len(times(results)):
        return theme.empty_figure(title, "No time was replayed")
    panels = _price_panels(results)
    ratios = [r for _, r in panels] + [1.0, 1.0, 0.9]
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(
            title, 1.2 + 1.35 * sum(ratios), len(ratios), sharex=True, height_ratios=ratios
        )
        axes = list(grid[:, 0])
        for axis, (draw, _) in zip(axes, panels, strict=False):
            draw(axis)
        share, episodes, cumulative = axes[len(panels) :]
        _draw_share(share, results)
        _draw_episodes(episodes, results)
        _draw_cumulative(cumulative, results)
        for axis in (share, episodes, cumulative):
            axis.set_ylim(0, max(axis.get_ylim()[1], 1e-3))
        for name in results.schedules:
            mark_switches(axes, results, name)
        theme.time_axis(axes[-1], _clock(results))
        figure.legend(*share.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _clock(results: Results) -> np.ndarray:
    """Times of the replay as UTC without a zone, as figures take them."""
    return times(results).tz_convert(None).to_numpy()


def starts_of(count: int, most: int = _POINTS) -> np.ndarray:
    """First positions of at most ``most`` runs of about equal length."""
    return np.unique(np.arange(min(count, most)) * count // max(1, min(count, most)))


def _timeline_title(results: Results) -> str:
    name = theme.quoted(results.champion)
    started = by_time(results, results.champion)["episodes_started"].to_numpy()
    if not started.sum():
        return f"No account is liquidated under {name}"
    first, steps = shortest_half(started)
    length = text.duration(steps * results.interval_seconds)
    return (
        f"Half of the {text.number(int(started.sum()))} episodes under {name} start within "
        f"{length}, from {text.time(times(results)[first])}"
    )


def shortest_half(counts: np.ndarray) -> tuple[int, int]:
    """First position and length of the shortest stretch that holds half of all counts.

    Example:
        >>> shortest_half(np.array([1, 0, 5, 4, 1, 1]))
        (2, 2)
    """
    total = np.concatenate([[0], np.cumsum(counts)])
    end = np.searchsorted(total, total[:-1] + total[-1] / 2, side="left")
    length = np.where(end < len(total), end - np.arange(len(counts)), len(counts) + 1)
    first = int(length.argmin())
    return first, int(length[first])


def _price_panels(results: Results) -> list[tuple[Callable[[Axes], None], float]]:
    """Drawers of prices with their relative heights; none where the run saved no prices."""
    if not results.has("index"):
        return []
    prices = results.index()
    wide = prices.pivot(index="time", columns="currency", values="usd").sort_index()
    clock = pd.DatetimeIndex(wide.index).tz_convert(None).to_numpy()
    paths = {str(c): frames.numbers(wide, str(c)) for c in wide.columns}
    panels: list[tuple[Callable[[Axes], None], float]] = []
    coins = _main_coins(paths)
    if coins:
        panels.append((lambda axis: _draw_coins(axis, clock, coins), 1.25))
    moved = {c: p for c, p in paths.items() if c in STABLE and _moved(p)}
    if moved:
        panels.append((lambda axis: _draw_stablecoins(axis, clock, moved), 0.6))
    return panels


def _moved(path: np.ndarray) -> bool:
    return bool((np.abs(path[np.isfinite(path)] - 1) > _STABLE_MOVE).any())


def _main_coins(paths: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Paths relative to the first price: BTC, ETH, then the coins that fall deepest."""
    relative: dict[str, np.ndarray] = {}
    for coin, path in paths.items():
        known = path[np.isfinite(path)]
        if coin not in STABLE and coin != "USD" and len(known):
            relative[coin] = path / known[0]
    main = [c for c in ("BTC", "ETH") if c in relative]
    others = [c for c in relative if c not in main]
    deepest = sorted(others, key=lambda c: float(np.nanmin(relative[c])))
    return {c: relative[c] for c in [*main, *deepest][:_MOST_COINS]}


def _draw_coins(axis: Axes, clock: np.ndarray, coins: dict[str, np.ndarray]) -> None:
    axis.set_title("Index price, start = 100 %")
    for (coin, path), color in zip(coins.items(), _COIN_COLORS, strict=False):
        lowest = theme.percent_tick(round(float(np.nanmin(path)), 3))
        name = f"{theme.label(coin, 12)} (low {lowest})"
        starts = starts_of(len(path))
        low, high = np.fmin.reduceat(path, starts), np.fmax.reduceat(path, starts)
        if len(starts) < len(path):
            axis.fill_between(clock[starts], low, high, color=color, alpha=0.35, linewidth=0)
        ends = np.append(starts[1:], len(path)) - 1
        axis.plot(clock[starts], path[ends], color=color, label=name, linewidth=1.3)
    theme.percent_axis(axis)
    theme.legend_above(axis)


def _draw_stablecoins(axis: Axes, clock: np.ndarray, moved: dict[str, np.ndarray]) -> None:
    axis.set_title("Stablecoins that left 1 USD, USD")
    for (coin, path), color in zip(moved.items(), ("#009e73", "#e69f00", "#cc79a7"), strict=False):
        name = f"{theme.label(coin, 12)} (low {np.nanmin(path):.4f})"
        starts = starts_of(len(path))
        axis.plot(clock[starts], np.fmin.reduceat(path, starts), color=color, label=name)
    axis.yaxis.set_major_formatter(lambda v, _: f"{v:.3f}")
    theme.legend_above(axis)


def _draw_share(axis: Axes, results: Results) -> None:
    axis.set_title("Accounts at or below 100 % margin level, share of scored accounts")
    clock, starts = _clock(results), starts_of(len(times(results)))
    for i, name in enumerate(shown_sets(results)):
        frame = by_time(results, name)
        low, scored = frames.numbers(frame, "at_or_below_100"), frames.numbers(frame, "scored")
        share = np.divide(low, scored, out=np.full_like(low, np.nan), where=scored > 0)
        axis.plot(
            clock[starts],
            np.fmax.reduceat(share, starts),
            color=theme.set_color(i),
            linestyle=theme.set_style(i),
            label=theme.label(name),
        )
    theme.percent_axis(axis)


def _bin_steps(results: Results) -> int:
    """Times in a bin of round length, so that bars are wide enough to see."""
    base = results.interval_seconds
    span = len(times(results)) * base
    options = [max(60.0 * m, base) for m in _STEPS]
    seconds = next((s for s in options if span / s <= _BINS), options[-1])
    return max(1, round(seconds / base))


def _draw_episodes(axis: Axes, results: Results) -> None:
    steps = _bin_steps(results)
    length = text.duration(steps * results.interval_seconds)
    axis.set_title(f"Liquidation episodes started, per {length}")
    clock = _clock(results)
    starts = np.arange(0, len(clock), steps)
    step = np.timedelta64(round(1e6 * results.interval_seconds), "us")
    edges = np.append(clock[starts], clock[-1] + step)
    for i, name in enumerate(shown_sets(results)):
        episodes = frames.numbers(by_time(results, name), "episodes_started")
        axis.stairs(
            np.add.reduceat(episodes, starts),
            edges,
            color=theme.set_color(i),
            fill=i == 0,
            alpha=0.45 if i == 0 else 1.0,
            linestyle="-" if i < 2 else theme.set_style(i),
            linewidth=1.3,
        )
    theme.count_axis(axis)


def _draw_cumulative(axis: Axes, results: Results) -> None:
    axis.set_title("Liquidation episodes, cumulative")
    clock = _clock(results)
    starts = starts_of(len(clock))
    ends = np.append(starts[1:], len(clock)) - 1
    for i, name in enumerate(shown_sets(results)):
        total = np.cumsum(frames.numbers(by_time(results, name), "episodes_started"))
        axis.step(
            clock[ends],
            total[ends],
            where="post",
            color=theme.set_color(i),
            linestyle=theme.set_style(i),
        )
    theme.count_axis(axis)


def figure_charges_by_time(results: Results) -> Figure:
    """Charges of all scored accounts through time, share of gross notional, stacked, per set.

    Sets with equal charges stand together above their legend.
    """
    sets = [
        s for s in shown_sets(results) if frames.total(by_time(results, s), "gross_notional_usd")
    ][:4]
    title = "Charges of all accounts through time, share of gross notional"
    if not sets:
        return theme.empty_figure(title, "No account with positions was scored")
    groups = results.alike(sets)
    sets = [name for group in groups for name in group]
    height = 1.3 + 1.6 * len(sets) + (0.65 * len(groups) if len(groups) > 1 else 0.0)
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, height, len(sets), sharex=True, sharey=True)
        panels: list[Axes] = grid[:, 0].tolist()
        for axis, name in zip(panels, sets, strict=True):
            _draw_charges(axis, results, name)
            axis.set_title(f"{theme.label(name)}: charges stacked, total MMR as line")
        panels[0].set_ylim(bottom=0)
        for axis, name in zip(panels, sets, strict=True):
            mark_switches([axis], results, name)
        theme.time_axis(panels[-1], _clock(results))
        if len(groups) > 1:  # a legend below the last panel of each group
            last = {group[-1] for group in groups}
            for axis, name in zip(panels, sets, strict=True):
                if name in last:
                    theme.legend_below(axis, 38 if axis is panels[-1] else 8, 4)
        else:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _draw_charges(axis: Axes, results: Results, name: str) -> None:
    frame, clock, charges = by_time(results, name), _clock(results), results.charges(name)
    starts = starts_of(len(clock))
    gross = np.add.reduceat(frames.numbers(frame, "gross_notional_usd"), starts)

    def share(column: str) -> np.ndarray:
        amount = np.add.reduceat(frames.numbers(frame, column), starts)
        return np.divide(amount, gross, out=np.zeros_like(amount), where=gross > 0)

    axis.stackplot(
        clock[starts],
        *(share(c.name) for c in charges),
        colors=[theme.charge_color(i) for i in range(len(charges))],
        labels=[c.label for c in charges],
        linewidth=0,
    )
    margin = share("total_mmr")
    axis.plot(clock[starts], margin, color=theme.PAPER, linewidth=2.8)
    axis.plot(clock[starts], margin, color=theme.INK, label="total MMR", linewidth=1.3)
    theme.percent_axis(axis)


def mark_switches(axes: list[Axes], results: Results, name: str, named: bool = True) -> None:
    """Thin lines at the dates on which a schedule changes its rules, named on the first panel."""
    found = switches(results, name)
    clock = _clock(results)
    if not found or len(clock) < 2:
        return
    span = (clock[-1] - clock[0]) / np.timedelta64(1, "us")
    at = [s.time.tz_convert(None).to_datetime64() for s in found]
    places = [float((t - clock[0]) / np.timedelta64(1, "us") / span) for t in at]
    for axis in axes:
        for time in at:
            # time axes take datetime64 where the annotations say float
            axis.axvline(
                cast("Any", time),
                color=theme.INK,
                linewidth=0.7,
                linestyle=(0, (1.5, 1.5)),
                zorder=4,
            )
    for k, side in enumerate(label_sides(places)):
        if not side or not named:
            continue
        axes[0].annotate(
            theme.label(found[k].after.name, 22),
            (places[k], 0.98),
            (2 if side == "right" else -2, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            rotation=90,
            ha="left" if side == "right" else "right",
            va="top",
            fontsize=6.3,
            color=theme.INK,
            bbox={"facecolor": theme.PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            zorder=6,
        )


def label_sides(places: list[float], width: float = 0.018) -> list[str]:
    """On which side of its line each label stands so that none covers another; "" = no room.

    Args:
        places: of the lines, shares of the panel's width, rising.
        width: of a label, share of the panel's width.
    """
    sides: list[str] = []
    taken = 0.0
    for k, place in enumerate(places):
        after = places[k + 1] if k + 1 < len(places) else 1.0
        if place + width <= min(after, 1.0):
            sides.append("right")
            taken = place + width
        elif place - width >= taken:
            sides.append("left")
            taken = place
        else:
            sides.append("")
    return sides
