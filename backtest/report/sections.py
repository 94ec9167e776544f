"""The sections of the report after the decision: what each shows, and how to read it."""

from typing import Any

import pandas as pd

from . import cells, frames, tables, text, theme
from .account_stats import LEVEL_GRID, account_stats
from .accounts import accounts_section, with_pages
from .attribution import attribution_section
from .break_even import has_break_even
from .cells import Cell, Column, PageTable, page_table
from .compare import Pairing, flip_table, flipped_accounts, pairing
from .concentration import concentration_section
from .figures_time import shown_sets
from .impact import has_impact, impact_section
from .liquidation_calendar import calendar_section
from .liquidations import has_liquidations
from .paths import sets_with_paths
from .procyclicality import has_benchmarks, procyclicality_section
from .profile import profile_section
from .quality import Check, checks, input_table, quarantine_table, unpriced_table
from .reader import Results
from .reverse import has_reverse_stress, reverse_section
from .section import Picture, Section, head, number_cell
from .sections_liquidation import classifier_section, liquidation_section
from .sections_margin import break_even_section, charge_section, loss_section
from .sections_schedule import path_section, schedule_section
from .survival import CAPTION as SURVIVAL
from .verdict import quote


MOST_FLIPS = 4
_LEVEL_ROWS = (0.5, 1.0, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0)


def sections(results: Results) -> list[Section]:
    """All sections in reading order."""
    found = [time_section(results), calendar_section(results)]
    if has_liquidations(results):
        found.append(liquidation_section(results))
        found += [impact_section(results)] if has_impact(results) else []
    else:
        found.append(classifier_section(results))
    found += [concentration_section(results), accounts_section(results)]
    if results.schedules:
        found.append(schedule_section(results))
    found.append(segment_section(results))
    found += [flip_section(results, c, i) for i, c in enumerate(results.challengers[:MOST_FLIPS])]
    found += [
        charge_section(results),
        attribution_section(results),
        level_section(results),
    ]
    if has_break_even(results):
        found.append(break_even_section(results))
    if sets_with_paths(results):
        found.append(path_section(results))
    if has_benchmarks(results):
        found.append(procyclicality_section(results))
    found.append(profile_section(results))
    if has_reverse_stress(results):
        found.append(reverse_section(results))
    found += [loss_section(results), quality_section(results)]
    return found


def time_section(results: Results) -> Section:
    """Liquidations through time with the prices."""
    caption = (
        "Top: index prices. Below: share of accounts at or below 100 % at each time, episodes "
        "started, and their running total. An episode starts at 100 % or below and "
        f"{_ends(results)}."
    )
    if results.schedules:
        caption += " Dotted lines: the rules of a schedule change, to those named."
    hidden = len(results.set_names) - len(shown_sets(results))
    if hidden > 0:
        more = text.plural(hidden, "further set is", "further sets are")
        caption += f" {more} in the tables only."
    intro = "When accounts are liquidated, and what the market did."
    return Section("time", "Liquidations through time", intro, [Picture("timeline", caption)])


def _ends(results: Results) -> str:
    """When an episode ends, by set where they differ."""
    names = [results.champion, *results.challengers]
    safe = {n: results.levels(n).safe for n in names}
    known = {n: theme.percent_tick(round(v, 3)) for n, v in safe.items() if v is not None}
    if len(known) < len(names):
        return "ends above the safe level of its parameter set"
    levels = dict.fromkeys(known.values())
    if len(levels) == 1:
        return f"ends above {known[names[0]]}"
    under = {v: text.listing([quote(n) for n in names if known[n] == v], 3) for v in levels}
    return "ends above " + "; ".join(f"{level} under {who}" for level, who in under.items())


def segment_section(results: Results) -> Section:
    """Liquidations by segment."""
    names = [results.champion, *results.challengers]
    headings = [("Segment", "", False), ("Scored", "accounts", True)]
    headings.append(("Gross notional", "at the start", True))
    headings += [(head(n), "accounts liquidated", True) for n in names]
    headings += [(head(n), "notional liquidated", True) for n in names]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for record in frames.records(tables.segment_table(results)):
        found.setdefault(record["segment"], {})[record["parameter_set"]] = record
    rows = [_segment_row(segment, by_set, names) for segment, by_set in sorted(found.items())]
    return Section(
        "segments",
        "By segment",
        "Segments are the labels of the dataset's accounts.",
        [
            Picture("segments", "Each mark is one parameter set; n counts scored accounts."),
            Picture("survival", SURVIVAL),
        ],
        [PageTable("Liquidations by segment", headings, rows)],
    )


def _segment_row(segment: str, by_set: dict[str, dict[str, Any]], names: list[str]) -> list[Cell]:
    scored = max(r["scored"] for r in by_set.values())
    gross = max(r["start_gross_usd"] for r in by_set.values())
    row = [
        Cell(segment, segment),
        number_cell(cells.count, scored),
        number_cell(cells.money, gross),
    ]
    for name in names:
        record = by_set.get(name, {})
        count = f"{cells.count(record.get('liquidated'))} accounts"
        row.append(number_cell(cells.share, record.get("per_account_frac"), count))
    row += [number_cell(cells.share, by_set.get(n, {}).get("notional_frac")) for n in names]
    return row


def flip_section(results: Results, challenger: str, position: int) -> Section:
    """Who flips between the champion and one challenger."""
    champion = results.champion
    pair = pairing(results, champion, challenger)
    groups = flip_table(results, champion, challenger)
    who = page_table(groups, _WHO, "Who they are, at the start of the window", folded=True)
    flipped = flipped_accounts(results, champion, challenger)
    words = {"only_champion": "saved", "only_challenger": "newly liquidated"}
    flipped = frames.renamed(flipped, "outcome", words)
    listed = page_table(
        flipped,
        _FLIPPED,
        "Accounts that flip, the largest first",
        50,
        links=with_pages(results),
        folded=True,
        empty="No account flips.",
    )
    suffix = f"-{position + 1}" if position else ""
    return Section(
        f"flips{suffix}",
        f"Who flips: {champion} to {challenger}",
        "The same accounts on the same prices. Saved: only the champion liquidates them. Newly "
        "liquidated: only the challenger does.",
        [
            Picture(
                f"flips{suffix}", "Accounts that flip, by what they held at the start.", challenger
            )
        ],
        [_flip_square(pair), who, listed],
    )


def _flip_square(pair: Pairing) -> PageTable:
    """The two-by-two table of paired accounts."""
    champion, challenger = head(pair.champion), head(pair.challenger)
    headings = [("", "", False), (f"{challenger}: liquidated", "", True)]
    headings.append((f"{challenger}: not", "", True))
    saved, new = pair.only_champion, pair.only_challenger
    return PageTable(
        "Paired accounts",
        headings,
        [
            [Cell(f"{champion}: liquidated"), _pair(pair.both, "both"), _pair(saved, "saved")],
            [
                Cell(f"{champion}: not"),
                _pair(new, "newly liquidated"),
                _pair(pair.neither, "neither"),
            ],
        ],
        note=f"{text.number(pair.pairs)} accounts scored under both; "
        f"{text.number(pair.not_paired)} not.",
        sortable=False,
    )


def _pair(value: int, note: str) -> Cell:
    return Cell(text.number(value), value, note, "number")


_WHO = (
    Column("dimension", "Dimension"),
    Column("group", "Group"),
    Column("accounts", "Accounts", cells.count),
    Column("both", "Both", cells.count),
    Column("only_champion", "Saved", cells.count),
    Column("only_challenger", "Newly liquidated", cells.count),
    Column("neither", "Neither", cells.count),
    Column("net", "Net", cells.change, "new less saved"),
)
_FLIPPED = (
    Column("account_id", "Account"),
    Column("outcome", "Outcome"),
    Column("segment", "Segment"),
    Column("start_gross_notional_usd", "Gross notional", cells.money),
    Column("start_equity_usd", "Equity", cells.money),
    Column("start_option_notional_usd", "Options", cells.money),
    Column("start_net_delta_usd", "Net delta", cells.money),
    Column("level_champion", "Worst level, champion", cells.share),
    Column("level_challenger", "Worst level, challenger", cells.share),
)


def level_section(results: Results) -> Section:
    """How far accounts fall."""
    names = [results.champion, *results.challengers]
    rows = []
    for level in _LEVEL_ROWS:
        at = int((level * (1 + 1e-9) >= LEVEL_GRID).sum()) - 1
        row = [Cell(f"{text.number(100 * level)}{text.SPACE}%", level)]
        for name in names:
            stats = account_stats(results, name)
            count = int(stats.level_counts[at])
            share = count / stats.scored if stats.scored else None
            row.append(number_cell(cells.share, share, f"{text.number(count)} accounts"))
        rows.append(row)
    headings = [("Worst level at or below", "", False)]
    headings += [(head(n), "share of scored accounts", True) for n in names]
    without = ", ".join(
        f"{text.number(account_stats(results, n).without_level)} under {quote(n)}"
        for n in names[:4]
    )
    caption = (
        "Levels at or below 10 %, negative ones too, are counted at the left edge. Accounts "
        f"without any margin requirement have no level and stay above every mark: {without}."
    )
    if len({results.levels(n) for n in names}) > 1:
        caption += f" Marked are the levels of {quote(results.champion)}; others differ."
    return Section(
        "levels",
        "How far margin levels fall",
        "The lowest margin level of each account in the window.",
        [Picture("worst_margin_levels", caption)],
        [PageTable("Worst margin level of the window", headings, rows)],
    )


def quality_section(results: Results) -> Section:
    """What could not be scored, and checks of the saved numbers."""
    found = checks(results)
    listed = pd.DataFrame(
        results.manifest.get("quarantined") or [], columns=[c.key for c in _EXAMPLES]
    )
    holds = "holds" if found[0].holds else "does not hold"
    return Section(
        "quality",
        "Data quality and checks",
        f"Every account-time is scored, unpriced or quarantined: {found[0].detail}. The identity "
        f"{holds}.",
        tables=[
            _check_table(found),
            page_table(
                input_table(results), _INPUT, "Rows read from the dataset", empty="Not recorded."
            ),
            page_table(quarantine_table(results), _QUARANTINE, "Quarantined rows by reason", 50),
            page_table(unpriced_table(results), _UNPRICED, "Instruments without a usable mark", 50),
            page_table(listed, _EXAMPLES, "Quarantined rows", 50, folded=True),
        ],
    )


def _check_table(found: list[Check]) -> PageTable:
    words = {True: "✓ holds", False: "✗ fails", None: "not checked"}
    rows = [
        [
            Cell(c.name, c.name),
            Cell(words[c.holds], words[c.holds], role="bad" if c.holds is False else "good"),
            Cell(c.detail, c.detail),
        ]
        for c in found
    ]
    headings = [("Check", "", False), ("Result", "", False), ("Numbers", "", False)]
    return PageTable("Checks of the saved numbers", headings, rows)


_INPUT = (
    Column("table", "Table"),
    Column("rows", "Rows", cells.count),
    Column("quarantined", "Quarantined", cells.count),
)
_QUARANTINE = (
    Column("table", "Table"),
    Column("reason", "Reason"),
    Column("rows", "Rows", cells.count),
)
_UNPRICED = (Column("instrument_id", "Instrument"), Column("times", "Times needed", cells.count))
_EXAMPLES = (
    Column("table", "Table"),
    Column("file", "File"),
    Column("row", "Row", cells.count),
    Column("key", "Key"),
    Column("reason", "Reason"),
)
