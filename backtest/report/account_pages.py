"""The page of one account: margin level, charges before and after, steps of its liquidation.

Everything comes from saved results: events, charges by unit, steps and legs of liquidations, and
full paths of the accounts that the run was told to trace.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from . import cells, frames, steps, text
from .account_path import LevelPath, level_picture
from .accounts import explain_command, level, with_pages
from .cells import Cell, Column, PageTable, page_table
from .figures_time import shown_sets
from .liquidations import has_liquidations
from .reader import Results
from .section import head, number_cell


MOST_EVENTS = 16
MOST_SPLITS = 3
"""Liquidations of a page and set whose charges are shown."""
MOST_STEPS = 20
MOST_LEGS = 24
"""Rows of the tables of one page; what is cut is in the results folder."""
_EXPIRY = re.compile(r"(\d{4}-\d\d-\d\d)T[\d:]+\+00:00")
"""Expiries in the targets of steps, of which the day is enough."""
_TABLES = ("accounts", "events", "event_units", "traces", "liquidated", "liquidations")


@dataclass(frozen=True)
class AccountPage:
    """What the page of an account shows; ``name`` is as the dataset has it, not escaped."""

    anchor: str
    name: str
    facts: list[tuple[str, str]]
    picture: Markup
    caption: str
    tables: list[PageTable]
    commands: list[str]


@dataclass(frozen=True)
class _Mine:
    """Rows of one account under one set by table; tables without any are empty."""

    results: Results
    name: str
    parameter_set: str
    position: int
    rows: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def triggers(self) -> pd.DataFrame:
        """Events at which a liquidation began, the first first."""
        return _of_kind(self.rows["events"], "liquidation")


def account_pages(results: Results) -> list[AccountPage]:
    """The pages of the accounts that have one, in the order of their fragments."""
    pages = with_pages(results)
    wanted = list(pages)
    if not wanted:
        return []
    by_account: dict[str, list[_Mine]] = {name: [] for name in wanted}
    for position, parameter_set in enumerate(shown_sets(results)):
        parts = {t: _by_account(results, t, parameter_set, wanted) for t in _TABLES}
        for name in wanted:
            rows = {t: parts[t].get(name, pd.DataFrame()) for t in _TABLES}
            by_account[name].append(_Mine(results, name, parameter_set, position, rows))
    return [_page(results, name, pages[name], by_account[name]) for name in wanted]


def _by_account(
    results: Results, table: str, parameter_set: str, wanted: Sequence[str]
) -> dict[str, pd.DataFrame]:
    frame = results.of_accounts(table, parameter_set, wanted)
    if not len(frame):
        return {}
    order = [c for c in ("time", "step", "unit") if c in frame]
    frame = frames.ordered(frame, order) if order else frame
    return {str(k): part.reset_index(drop=True) for k, part in frame.groupby("account_id")}


def _page(results: Results, name: str, anchor: str, sets: list[_Mine]) -> AccountPage:
    first = next((m.rows["accounts"] for m in sets if len(m.rows["accounts"])), pd.DataFrame())
    tables = [_events(results, sets)]
    for mine in sets:
        tables += _of_set(mine)
    commands = []
    for mine in sets:
        times = mine.rows["liquidated"] if len(mine.rows["liquidated"]) else mine.triggers
        if len(times):
            when = times["time"].iloc[0]
            commands.append(explain_command(results, name, when, mine.parameter_set))
    picture, caption = _picture(results, sets)
    return AccountPage(
        anchor, name, _facts(first), picture, caption, [t for t in tables if t.rows], commands
    )


def _facts(rows: pd.DataFrame) -> list[tuple[str, str]]:
    if not len(rows):
        return []
    row = frames.records(rows)[0]
    return [
        ("Segment", str(row["segment"])),
        ("Equity at the start", cells.money(row["start_equity_usd"])),
        ("Gross notional", cells.money(row["start_gross_notional_usd"])),
        ("Of it options", cells.money(row["start_option_notional_usd"])),
        ("Net delta", cells.money(row["start_net_delta_usd"])),
    ]


def _picture(results: Results, sets: list[_Mine]) -> tuple[Markup, str]:
    paths = [_path(mine) for mine in sets]
    paths = [p for p in paths if len(p.levels) or p.fixed]
    replay = results.manifest["replay"]
    start, end = (_utc(replay[k]) for k in ("start", "end"))
    length = (end - start).total_seconds()
    picture = level_picture(paths, start, length, results.levels(sets[0].parameter_set))
    caption = "Adjusted equity / maintenance margin, log scale; beyond the scale at its edge."
    if any(p.is_whole for p in paths):
        caption += " Lines: every time of the run."
    if not all(p.is_whole for p in paths):
        caption += (
            " Marks: the level at events and at its lowest; between them the run kept none "
            "(name the account in section [traces] of the configuration and it does)."
        )
    if any(p.fixed for p in paths):
        caption += " Arrows: from the level before a liquidation to that after it."
    return picture, caption


def _path(mine: _Mine) -> LevelPath:
    start = _utc(mine.results.manifest["replay"]["start"])
    known = [(r["time"], _number(r["margin_level"])) for r in _known(mine.rows["traces"])]
    is_whole = bool(known)
    if not is_whole:
        known = [(r["time"], _number(r["margin_level"])) for r in _known(mine.rows["events"])]
        lowest = [r for r in _known(mine.rows["accounts"]) if not text.is_missing(r["worst_time"])]
        known += [(r["worst_time"], _number(r["worst_margin_level"])) for r in lowest]
        known = sorted({k for k in known if not np.isnan(k[1])})
    fixed = [
        ((r["time"] - start).total_seconds(), _number(r["level_before"]), _number(r["level_after"]))
        for r in _known(mine.rows["liquidated"])
    ]
    seconds = np.asarray([(time - start).total_seconds() for time, _ in known])
    levels = np.asarray([value for _, value in known])
    return LevelPath(mine.parameter_set, mine.position, seconds, levels, is_whole, fixed)


def _known(events: pd.DataFrame) -> list[dict[str, Any]]:
    return frames.records(events) if len(events) else []


def _events(results: Results, sets: list[_Mine]) -> PageTable:
    """What happened to the account, in order of time."""
    parts = []
    for mine in sets:
        if len(mine.rows["events"]):
            names = {c.name: c.short for c in results.charges(mine.parameter_set)}
            parts.append(frames.renamed(mine.rows["events"], "binding_charge", names))
    columns = [c.key for c in _EVENTS]
    found = pd.concat([p[columns] for p in parts]) if parts else pd.DataFrame(columns=columns)
    if len(found):
        found = frames.ordered(found.reset_index(drop=True), "time")
    return _cut(found, _EVENTS, "What happened", MOST_EVENTS, "events/")


def _of_set(mine: _Mine) -> list[PageTable]:
    """Tables of the account under one set."""
    if not len(mine.triggers) and not len(mine.rows["liquidated"]):
        return []
    done = mine.rows["liquidations"]
    tables = [_split(mine), _units(mine)]
    if len(done):
        under = f" under {head(mine.parameter_set)}"
        table = _cut(_step_rows(done), _STEPS, f"Steps{under}", MOST_STEPS, "liquidations/")
        tables.append(table)
        legs = _leg_rows(done)
        tables.append(_cut(legs, _LEGS, f"Trades{under}", MOST_LEGS, "liquidations/", folded=True))
    return tables


def _cut(
    rows: pd.DataFrame,
    columns: Sequence[Column],
    caption: str,
    most: int,
    folder: str,
    folded: bool = False,
) -> PageTable:
    """The rows; of too many the first and the last, with a note that says so."""
    note = ""
    if len(rows) > most:
        last = most // 3
        note = (
            f"First {most - last} and last {last} of {text.number(len(rows))} rows; all are in "
            f"{folder} of the results."
        )
        rows = pd.concat([rows.head(most - last), rows.tail(last)], ignore_index=True)
    return page_table(rows, columns, caption, note=note, folded=folded)


def _split(mine: _Mine) -> PageTable:
    """Charges of the account before and after its liquidations, largest first of a row's kind."""
    results, name = mine.results, mine.parameter_set
    sides = _sides(mine)
    shown = sides[: MOST_SPLITS * (2 if has_liquidations(results) else 1)]
    headings = [("Charge", "", False), *((_when(time), side, True) for time, side, _ in shown)]
    rows = []
    for charge in results.charges(name):
        values = [_number(row.get(charge.name)) for _, _, row in shown]
        if not any(v > 0.0 for v in values):
            continue
        row = [Cell(charge.label, charge.name)]
        for value, (_, _, of) in zip(values, shown, strict=True):
            mmr = _number(of.get("mmr"))
            share = f"{text.percent(value / mmr)} of MMR" if mmr > 0.0 else ""
            row.append(number_cell(cells.money, value, share))
        rows.append(row)
    for key, label, show in _TOTALS:
        rows.append([Cell(label), *(number_cell(show, _number(s[2].get(key))) for s in shown)])
    note = results.how(name)
    if len(sides) > len(shown):
        note = f"The first {MOST_SPLITS} times of the account. {note}".strip()
    return PageTable(f"Charges under {head(name)}", headings, rows, note=note, sortable=False)


def _sides(mine: _Mine) -> list[tuple[pd.Timestamp, str, dict[str, Any]]]:
    """Charges and totals at each trigger; of simulated liquidations before and after."""
    charges = [c.name for c in mine.results.charges(mine.parameter_set)]
    found: list[tuple[pd.Timestamp, str, dict[str, Any]]] = []
    done = mine.rows["liquidations"]
    if len(done):
        for time, part in done.groupby("time", sort=True):
            of_time = frames.records(part)
            for side, row in (("before", of_time[0]), ("after", of_time[-1])):
                values = {c: row[f"{c}_{side}"] for c in charges}
                values |= {"mmr": row[f"mmr_usd_{side}"], "equity": row[f"equity_usd_{side}"]}
                found.append((_utc(time), side, values | {"level": row[f"level_{side}"]}))
        return found
    for row in _known(mine.triggers):
        totals = {
            "mmr": row["total_mmr"],
            "equity": row["equity_usd"],
            "level": row["margin_level"],
        }
        found.append((row["time"], "at the trigger", {c: row[c] for c in charges} | totals))
    return found


def _units(mine: _Mine) -> PageTable:
    """Charges by risk unit at the first trigger."""
    units, charges = mine.rows["event_units"], mine.results.charges(mine.parameter_set)
    caption = f"By risk unit at the first trigger under {head(mine.parameter_set)}"
    if not len(units):
        return PageTable(caption, [], [])
    mine_first = frames.rows(units, units["time"] == units["time"].min())
    used = [c for c in charges if frames.total(mine_first, c.name) > 0.0]
    columns = [Column("unit", "Unit"), *(Column(c.name, c.short, cells.money) for c in used)]
    return _cut(mine_first, columns, caption, MOST_EVENTS, "event_units/", folded=True)


def _step_rows(done: pd.DataFrame) -> pd.DataFrame:
    rows = [row | _words(row) for row in frames.records(done)]
    return pd.DataFrame(rows)


def _words(row: dict[str, Any]) -> dict[str, str]:
    """What a step's codes and pairs of numbers say."""
    before, after = row["mmr_usd_before"], row["mmr_usd_after"]
    return {
        "chosen": steps.chosen(str(row["stage"]), _number(row["target_usd"])),
        "ended": steps.ENDED.get(str(row["ended"]), str(row["ended"])),
        "level": f"{level(row['level_before'])} to {level(row['level_after'])}",
        "mmr": f"MMR {text.usd(before)} to {text.usd(after)}",
        "slipped": text.usd(row["slippage_usd"]),
        "in_slices": text.plural(int(row["slices"]), "slice"),
        "target": _EXPIRY.sub(r"\1", str(row["target"])),
    }


def _leg_rows(done: pd.DataFrame) -> pd.DataFrame:
    """One row a trade of a step."""
    lists = [c.key for c in _LEGS[2:]]
    rows = []
    for row in frames.records(done):
        for legs in zip(*(row[c] for c in lists), strict=True):
            of_leg = dict(zip(lists, legs, strict=True))
            rows.append({"time": row["time"], "step": row["step"], **of_leg})
    return pd.DataFrame(rows, columns=[c.key for c in _LEGS])


def _of_kind(events: pd.DataFrame, kind: str) -> pd.DataFrame:
    return frames.rows(events, events["event"] == kind) if len(events) else events


def _number(value: object) -> float:
    return np.nan if value is None or text.is_missing(value) else float(str(value))


def _utc(value: object) -> pd.Timestamp:
    time: Any = pd.Timestamp(str(value))
    return time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")


def _when(time: pd.Timestamp) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


_TOTALS = (
    ("mmr", "Maintenance margin", cells.money),
    ("equity", "Equity", cells.money),
    ("level", "Margin level", level),
)
_EVENTS = (
    Column("time", "Time", cells.moment, "UTC"),
    Column("parameter_set", "Set"),
    Column("event", "Event"),
    Column("margin_level", "Margin level", level),
    Column("equity_usd", "Equity", cells.money),
    Column("total_mmr", "MMR", cells.money),
    Column("gross_notional_usd", "Gross notional", cells.money),
    Column("binding_unit", "Coin", None, "with the largest MMR"),
    Column("binding_charge", "Largest charge", None, "of that coin"),
    Column("binding_price_move", "Price move", cells.share, "that binds"),
    Column("binding_vol", "Volatility", None, "that binds"),
)
_STEPS = (
    Column("time", "Time", cells.moment, "UTC"),
    Column("step", "Step", cells.count),
    Column("stage", "Stage"),
    Column("target", "On"),
    Column("chosen", "Why chosen"),
    Column("notional_usd", "Size", cells.money, under="in_slices"),
    Column("fee_usd", "Fee", cells.money, "and slippage", under="slipped"),
    Column("level", "Margin level", under="mmr"),
    Column("ended", "Why ended"),
)
_LEGS = (
    Column("time", "Time", cells.moment, "UTC"),
    Column("step", "Step", cells.count),
    Column("instruments", "Instrument"),
    Column("leg_contracts", "Size", cells.ratio, "contracts or coins"),
    Column("leg_mark", "Mark", cells.ratio),
    Column("leg_price", "Price", cells.ratio, "average"),
    Column("leg_notional_usd", "Notional", cells.money),
    Column("leg_fee_usd", "Fee", cells.money),
    Column("leg_slippage_usd", "Slippage", cells.money),
)
