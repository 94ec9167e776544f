"""Which charges made the margin of liquidated accounts, and which one brought them down (K11-K13).

A risk unit takes the largest of some charges and a floor, so its charges need not add up to what it
requires. Shapley's values do, and depend on no order. They are exact: every subset of the charges
is put together again, unit by unit, from the charges that the run saved at each liquidation.
"""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from backtest.statistics.attribution import (
    Charges,
    Requirement,
    liquidation_shapley,
    okx_requirement,
    shapley,
    summed_requirement,
)

from . import cells, frames, text, theme
from .cells import Cell, PageTable
from .figures_time import shown_sets
from .frequency import by_time
from .reader import Results
from .section import Picture, Section, head, number_cell


NEAR = 1e-9
"""Rounding within which units add up to what the run saved, and a level counts as reached."""
MOST_DAYS = 62
"""Days of the figure of day-on-day changes; the last ones of a longer run."""


def has_units(results: Results) -> bool:
    """Whether the run saved charges of risk units and somebody was liquidated."""
    return results.has("event_units") and results.has("events")


def liquidation_attribution(results: Results, name: str) -> pd.DataFrame:
    """Each liquidation's margin and cause by charge, one row an event of a set.

    Columns: ``account_id``, ``time``, ``gross_notional_usd``, ``total_mmr``; of each charge its
    share of that margin ``{}_usd`` and of the liquidation ``{}_cause`` (0 to 1; all of an event add
    up to 1, or to 0 where no equity was left to require anything of); ``residual_usd`` is what no
    charge explains: 0 but where the set adds up charges in a way of its own.
    """
    key = ("liquidation_attribution", name)
    if key not in results.memo:
        results.memo[key] = _attribution(results, name)
    return results.memo[key]


def _attribution(results: Results, name: str) -> pd.DataFrame:
    charges = [c.name for c in results.charges(name)]
    columns = ["account_id", "time", "gross_notional_usd", "total_mmr", "adjusted_equity"]
    events = results.events([*columns, "margin_level", *charges], name, "liquidation")
    events = frames.ordered(events, ["account_id", "time"])
    units = results.event_units(name)
    row = _place(events).get_indexer(_place(units))
    by_unit = {c: frames.numbers(units, c) for c in charges}
    # The debts of an account stand in no unit: a unit of their own adds them up.
    whole = np.concatenate([row, np.arange(len(events))])
    debt = {c: frames.numbers(events, c) for c in charges if not by_unit[c].any()}
    each = {c: np.concatenate([by_unit[c], debt.get(c, np.zeros(len(events)))]) for c in charges}
    requirement = _requirement(
        results.model(name), each, whole, frames.numbers(events, "total_mmr")
    )
    found = pd.DataFrame({c: events[c] for c in columns[:4]})
    margin = shapley(each, requirement)
    found["residual_usd"] = frames.numbers(events, "total_mmr") - np.sum(
        list(margin.values()), axis=0
    )
    cause = liquidation_shapley(each, _available(events), requirement)
    for charge in charges:
        found[f"{charge}_usd"], found[f"{charge}_cause"] = margin[charge], cause[charge]
    return found


def _place(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([rows["account_id"], rows["time"]])


def _available(events: pd.DataFrame) -> np.ndarray:
    """Equity that charges are measured by: less the borrowing fee, which is no charge."""
    equity, level = (frames.numbers(events, c) for c in ("adjusted_equity", "margin_level"))
    with np.errstate(divide="ignore", invalid="ignore"):
        fee = equity / level - frames.numbers(events, "total_mmr")
    known = np.isfinite(fee) & (equity > 0.0)
    return np.where(known, (equity - np.where(known, fee, 0.0)) * (1.0 - NEAR), equity)


def _requirement(model: str, each: Charges, row: np.ndarray, total: np.ndarray) -> Requirement:
    """How charges of units make the margin of accounts: the way that gives what was saved."""

    def by_account(of_unit: Requirement) -> Requirement:
        return lambda some: np.bincount(row, of_unit(some), len(total))

    ways = [summed_requirement]
    if model in ("okx", ""):
        ways = [okx_requirement(), okx_requirement(worst=("mr1",)), *ways]
    found = [by_account(way) for way in ways]
    off = [float(np.abs(way(each) - total).sum()) for way in found]
    return found[int(np.argmin(off))]


def attribution_table(results: Results) -> pd.DataFrame:
    """Shapley shares of all liquidations by set and charge.

    ``margin_usd`` and ``margin_frac``: share of their margin; ``cause_frac``: mean share of the
    liquidations; ``cause_by_notional_frac``: weighted by gross notional; ``charge_usd``: the charge
    itself, which need not add up.
    """
    rows = []
    for name in results.set_names:
        found = liquidation_attribution(results, name)
        charges = results.charges(name)
        own = results.events([c.name for c in charges], name, "liquidation")
        weight = frames.numbers(found, "gross_notional_usd")
        total = frames.total(found, "total_mmr")
        for charge in charges:
            cause = frames.numbers(found, f"{charge.name}_cause")
            usd = frames.total(found, f"{charge.name}_usd")
            rows.append(
                {
                    "parameter_set": name,
                    "charge": charge.name,
                    "label": charge.label,
                    "liquidations": len(found),
                    "charge_usd": frames.total(own, charge.name),
                    "margin_usd": usd,
                    "margin_frac": usd / total if total else np.nan,
                    "cause_frac": float(cause.mean()) if len(cause) else np.nan,
                    "cause_by_notional_frac": _weighted(cause, weight),
                }
            )
    return pd.DataFrame(rows)


def _weighted(values: np.ndarray, weight: np.ndarray) -> float:
    return float(values @ weight / weight.sum()) if weight.sum() > 0 else float("nan")


def daily_change_table(results: Results) -> pd.DataFrame:
    """Day-on-day change of margin of all scored accounts by charge, USD, per set.

    Of the last time of each day less that of the day before; ``residual_usd`` is what the charges
    do not add up to: only the largest of those that compete counts, and a floor may bind.
    """
    parts = []
    for name in results.set_names:
        charges = [c.name for c in results.charges(name)]
        frame = by_time(results, name)[[*charges, "total_mmr"]]
        last: Any = frame.groupby(pd.DatetimeIndex(frame.index).floor("D")).last()
        change = last.diff().iloc[1:].add_suffix("_change_usd")
        change = change.rename(columns={"total_mmr_change_usd": "margin_change_usd"})
        explained = change[[f"{c}_change_usd" for c in charges]].sum(axis=1)
        change["residual_usd"] = change["margin_change_usd"] - explained
        change.insert(0, "margin_usd", last["total_mmr"].iloc[1:])
        change.insert(0, "parameter_set", name)
        parts.append(change.rename_axis("day").reset_index())
    return pd.concat(parts, ignore_index=True)


def attribution_section(results: Results) -> Section:
    """What margin was made of and what brought accounts down, in shares that add up."""
    groups = results.alike([results.champion, *results.challengers])
    table = attribution_table(results) if has_units(results) else None
    shown = [] if table is None else [_shares(results, table, names) for names in groups]
    pictures = [
        Picture(
            "daily_change",
            "Change of the sum over all scored accounts since the day before, by charge, under the "
            "champion. Residual: what the charges do not add up to.",
        )
    ]
    if table is not None:
        pictures.insert(
            0,
            Picture(
                "shapley",
                "Top: share of each charge in the event that the account is at the liquidation "
                "level, mean over liquidations; missing to 100 %: accounts whose equity is gone "
                "without any charge. Below: its share of their margin.",
            ),
        )
    return Section(
        "attribution",
        "Which charge is to blame",
        "Charges compete and have a floor, so they do not add up to margin. Shapley's shares do: "
        "the mean, over all orders in which charges might be asked for, of what each one adds.",
        pictures,
        shown,
    )


def _shares(results: Results, table: pd.DataFrame, names: list[str]) -> PageTable:
    found = {(r["parameter_set"], r["charge"]): r for r in frames.records(table)}
    rows = []
    for charge in results.charges(names[0]):
        mine = [found[n, charge.name] for n in names]
        row = [Cell(charge.label, charge.name)]
        row += [number_cell(cells.share, r["cause_frac"]) for r in mine]
        row += [
            number_cell(cells.share, r["margin_frac"], cells.money(r["margin_usd"])) for r in mine
        ]
        rows.append(row)
    headings = [("Charge", "", False)]
    headings += [(head(n), "of what liquidated", True) for n in names]
    headings += [(head(n), "of the margin then", True) for n in names]
    counts = {n: int(found[n, results.charges(n)[0].name]["liquidations"]) for n in names}
    note = "Liquidations: " + "; ".join(f"{n} {text.number(k)}" for n, k in counts.items()) + "."
    return PageTable("Shapley's shares of liquidations", headings, rows, note=note)


def figure_shapley(results: Results) -> Figure:
    """Shares of the charges in liquidations and in their margin, one bar a set."""
    table = attribution_table(results)
    names = [n for n in shown_sets(results) if _count(table, n)]
    if not names:
        return theme.empty_figure("Which charge is to blame", "No account is liquidated")
    panels = (
        ("cause_frac", "Share of what brought accounts to the liquidation level"),
        ("margin_frac", "Share of their margin then"),
    )
    shares = {(r["parameter_set"], r["charge"]): r for r in frames.records(table)}
    of_first = [shares[names[0], c.name] for c in results.charges(names[0])]
    largest = max(of_first, key=lambda r: r["cause_frac"])
    title = (
        f"{theme.label(largest['label'], 40)} is {text.percent(largest['cause_frac'])} "
        f"of what brings accounts down under {theme.quoted(names[0])}"
    )
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 1.7 + 0.8 * len(names), 2, sharex=True)
        for axis, (column, heading) in zip(grid[:, 0], panels, strict=True):
            for y, name in enumerate(names):
                left = 0.0
                for i, charge in enumerate(results.charges(name)):
                    share = float(shares[name, charge.name][column])
                    color = theme.charge_color(i)
                    axis.barh(y, share, left=left, color=color, height=0.6, label=charge.label)
                    if share > 0.07:
                        words, ink = charge.short, theme.on_charge(i)
                        at = left + share / 2
                        axis.text(at, y, words, ha="center", va="center", fontsize=7.5, color=ink)
                    left += share
            axis.set_yticks(range(len(names)), [theme.label(n, 18) for n in names])
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.set_title(heading)
            axis.grid(visible=False, axis="y")
            theme.percent_axis(axis, "x")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3)
    return figure


def _count(table: pd.DataFrame, name: str) -> int:
    mine = frames.rows(table, table["parameter_set"] == name)
    return int(frames.numbers(mine, "liquidations").max())


def figure_daily_change(results: Results) -> Figure:
    """Day-on-day change of the champion's margin, stacked by charge, with what is left over."""
    name = results.champion
    table = daily_change_table(results)
    mine = frames.rows(table, table["parameter_set"] == name).tail(MOST_DAYS)
    if not len(mine):
        return theme.empty_figure("Change of margin by day", "The window holds one day")
    total = frames.numbers(mine, "margin_change_usd")
    most = int(np.abs(total).argmax())
    day = f"{pd.DatetimeIndex(mine['day'])[most]:%Y-%m-%d}"
    grows = "grows" if total[most] > 0 else "falls"
    title = (
        f"Margin under {theme.quoted(name)} {grows} most on {day}: by {text.usd(abs(total[most]))}"
    )
    columns = [(c.label, f"{c.name}_change_usd") for c in results.charges(name)]
    columns.append(("residual", "residual_usd"))
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 3.4)
        axis = grid[0, 0]
        place = np.arange(len(mine))
        up, down = np.zeros(len(mine)), np.zeros(len(mine))
        for i, (label, column) in enumerate(columns):
            change = frames.numbers(mine, column)
            base = np.where(change > 0, up, down)
            is_rest = column == "residual_usd"
            look: dict[str, Any] = {"color": theme.charge_color(i)}
            if is_rest:
                look = {"facecolor": "none", "edgecolor": theme.MUTED, "hatch": "///"}
            axis.bar(place, change, 0.8, base, label=label, **look)
            up, down = up + np.maximum(change, 0.0), down + np.minimum(change, 0.0)
        axis.plot(place, total, "_", color=theme.INK, markersize=11, label="margin")
        axis.axhline(0.0, color=theme.MUTED, linewidth=0.9)
        step = max(1, len(mine) // 9)
        days = [f"{d:%d %b}" for d in pd.DatetimeIndex(mine["day"])]
        axis.set_xticks(place[::step], days[::step])
        axis.set_title("Change since the day before, USD")
        axis.yaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
