"""Sections of rules that are not constant: dated changes, and parameters that follow the market."""

from collections.abc import Callable
from typing import Any

from . import cells, dated, frames, text
from .cells import Cell, Column, PageTable, page_table
from .dated import constant_sets
from .paths import MOST_PATHS, moving, path_table, paths, sets_with_paths
from .reader import Results
from .section import Picture, Section, head, number_cell
from .verdict import quote


def schedule_section(results: Results) -> Section:
    """What each dated change of the rules did, for runs that have a schedule."""
    shown: list[PageTable] = []
    by_period = frames.records(dated.period_table(results))
    by_switch = frames.records(dated.switch_table(results))
    for name in results.schedules:
        mine = [r for r in by_period if r["schedule"] == name]
        shown.append(_period_page(results, name, mine))
        changes = [r for r in by_switch if r["schedule"] == name]
        shown.append(_switch_page(results, name, changes))
    named = text.listing([quote(n) for n in results.schedules], 4)
    others = text.listing([quote(n) for n in constant_sets(results)], 4)
    intro = (
        f"{named} {'takes' if len(results.schedules) == 1 else 'take'} the rules that were in "
        "force on each day."
    )
    intro += (
        f" Under {others} the rules stay the same all the time, on the same accounts and prices: "
        "what changes there from one period to the next is the market, and the ratio between the "
        "two is what the rules did."
        if others
        else " The run has no set of constant rules, so nothing here separates the change of the "
        "rules from that of the market."
    )
    return Section("dated-changes", "What each dated change did", intro, tables=shown)


def _period_page(results: Results, schedule: str, records: list[dict[str, Any]]) -> PageTable:
    headings = [("Set", "", False), ("Account-days", "scored", True)]
    headings += [("Episodes", "started, per account-day", True)]
    headings += [("Newly liquidated", "accounts, first episode", True)]
    headings += [("Average MMR", "of gross notional", True)]
    headings += [("Average IMR", "of gross notional", True)]
    rows = [_period_row(r) for r in records]
    groups = [_period_name(r) for r in records]
    note = (
        "The second line in the rows of a constant set is the schedule's number as a multiple of "
        "that set's. Accounts count as newly liquidated in the period of their first episode, so "
        "one that an earlier period has liquidated is not there to be liquidated again."
        if constant_sets(results)
        else ""
    )
    return PageTable(
        f"{quote(schedule)} by rule period",
        headings,
        rows,
        note=note,
        sortable=False,
        groups=groups,
        plain_groups=True,
        empty="No time was replayed under these rules.",
    )


def _period_name(record: dict[str, Any]) -> str:
    days = f"{text.significant(record['days'])} {'day' if record['days'] == 1 else 'days'}"
    span = f"{cells.moment(record['from'])} to {cells.moment(record['to'])}"
    return f"{record['period']}. {record['rules']}: {span}, {days}"


def _period_row(record: dict[str, Any]) -> list[Cell]:
    shown: tuple[tuple[str, Callable[[object], str]], ...] = (
        ("episodes_per_account_day", cells.ratio),
        ("newly_liquidated", cells.count),
        ("mmr_frac", cells.share),
        ("imr_frac", cells.share),
    )
    name = str(record["parameter_set"])
    row = [Cell(head(name), name, note="as scheduled" if _scheduled(record) else "constant")]
    row.append(number_cell(cells.count, record["account_days"]))
    for key, show in shown:
        row.append(number_cell(show, record[key], _multiple(record[f"{key}_ratio"])))
    return row


def _scheduled(record: dict[str, Any]) -> bool:
    return record["role"] == "schedule"


def _multiple(ratio: float) -> str:
    return (
        "" if text.is_missing(ratio) else f"schedule {text.TIMES}{text.SPACE}{cells.ratio(ratio)}"
    )


def _switch_page(results: Results, schedule: str, records: list[dict[str, Any]]) -> PageTable:
    headings = [("Set", "", False), ("MMR before", "of gross notional", True)]
    headings += [("MMR after", "of gross notional", True), ("Change of MMR", "", True)]
    headings += [("Change of IMR", "", True)]
    columns = (
        ("mmr_before_frac", cells.share),
        ("mmr_after_frac", cells.share),
        ("mmr_change_frac", _relative),
        ("imr_change_frac", _relative),
    )
    rows: list[list[Cell]] = []
    for record in records:
        name = str(record["parameter_set"])
        row = [Cell(head(name), name, note="as scheduled" if _scheduled(record) else "constant")]
        for key, show in columns:
            beyond = record.get(key.replace("_change", "_rule_change"))
            note = "" if "change" not in key or text.is_missing(beyond) else _beyond(beyond)
            row.append(number_cell(show, record[key], note))
        rows.append(row)
    interval = text.duration(results.interval_seconds)
    note = (
        f"Last time before and first time after the change, {interval} apart as a rule. "
        "The change under a constant set is the market's; the second line of its row is what is "
        "left of the schedule's change once that is taken out, as far as both react to the market "
        "alike."
        if constant_sets(results)
        else f"Last time before and first time after the change, {interval} apart as a rule; the "
        "move of the market is in the change."
    )
    return PageTable(
        f"{quote(schedule)}: margin just before and just after each change",
        headings,
        rows,
        note=note,
        sortable=False,
        groups=[_switch_name(r) for r in records],
        plain_groups=True,
        empty="No change falls inside the window.",
    )


def _switch_name(record: dict[str, Any]) -> str:
    return f"{cells.moment(record['time'])}: {record['rules_before']} to {record['rules_after']}"


def _relative(value: object) -> str:
    """A signed relative change in percent."""
    if not isinstance(value, float) or text.is_missing(value):
        return text.NONE
    return f"{'+' if value > 0 else ''}{text.percent(value)}"


def _beyond(value: object) -> str:
    return f"rules alone {_relative(value)}"


def step_page(results: Results) -> PageTable | None:
    """All dated steps of the run's schedules; None where it has none."""
    frame = dated.step_table(results)
    if not len(frame):
        return None
    frame["from"] = [_start(v) for v in frame["from"].tolist()]
    return page_table(frame.assign(hash=frame["hash"].str[:16]), _STEPS, "Dated steps of schedules")


def _start(value: object) -> str:
    return "the beginning" if text.is_missing(value) else cells.moment(value)


_STEPS = (
    Column("parameter_set", "Set"),
    Column("from", "From (UTC)"),
    Column("rules", "Rules"),
    Column("era", "Era"),
    Column("hash", "Hash"),
)


def path_section(results: Results) -> Section:
    """Parameters that a rule sets from the market, for runs that saved their paths."""
    names = sets_with_paths(results)
    pictures: list[Picture] = []
    for i, name in enumerate(names):
        count, total = len(moving(results, name)), len(paths(results, name))
        words = f"{quote(name)}: {text.number(count)} of {text.number(total)} parameters change."
        if count > MOST_PATHS:
            words += f" The {MOST_PATHS} that change most are drawn; all are in the table."
        pictures.append(Picture(path_picture(i), words))
    table = page_table(
        path_table(results), _PATHS, "Parameters that follow the market", 100, folded=True
    )
    return Section(
        "parameter-paths",
        "Parameters that follow the market",
        "Some rules set a parameter from the market. Shown is the value in force at each time, "
        "from what was known by then; nothing later enters.",
        pictures,
        [table],
    )


def path_picture(position: int) -> str:
    """Name of the figure of the n-th set with paths."""
    return "parameter_paths" if not position else f"parameter_paths-{position + 1}"


_PATHS = (
    Column("parameter_set", "Set"),
    Column("key", "Parameter"),
    Column("first", "First", cells.ratio),
    Column("last", "Last", cells.ratio),
    Column("lowest", "Lowest", cells.ratio),
    Column("highest", "Highest", cells.ratio),
    Column("changes", "Changes", cells.count),
)
