"""The sections of the report after the decision: what each shows, and how to read it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from . import cells, frames, tables, text
from .account_stats import LEVEL_GRID, account_stats
from .cells import Cell, Column, PageTable, page_table
from .compare import Pairing, flip_table, flipped_accounts, pairing
from .figures_time import shown_sets
from .quality import Check, checks, input_table, quarantine_table, unpriced_table
from .reader import CHARGES, Results
from .theme import CHARGE_NAMES
from .verdict import quote


@dataclass(frozen=True)
class Picture:
    """A figure by its name in the report folder, with the text below it."""

    name: str
    caption: str
    challenger: str | None = None


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    anchor: str
    title: str
    intro: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)


MOST_FLIPS = 4
_LEVEL_ROWS = (0.5, 1.0, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0)


def sections(results: Results) -> list[Section]:
    """All sections in reading order."""
    found = [time_section(results), segment_section(results)]
    found += [flip_section(results, c, i) for i, c in enumerate(results.challengers[:MOST_FLIPS])]
    found += [charge_section(results), level_section(results), break_even_section(results)]
    found += [loss_section(results), quality_section(results)]
    return found


def time_section(results: Results) -> Section:
    """Liquidations through time with the prices."""
    caption = (
        "Top: index prices. Below: share of accounts at or below 100 % at each time, episodes "
        "started, and their running total. An episode starts at 100 % or below and ends above "
        "110 %."
    )
    hidden = len(results.set_names) - len(shown_sets(results))
    if hidden > 0:
        more = text.plural(hidden, "further set is", "further sets are")
        caption += f" {more} in the tables only."
    intro = "When accounts are liquidated, and what the market did."
    return Section("time", "Liquidations through time", intro, [Picture("timeline", caption)])


def segment_section(results: Results) -> Section:
    """Liquidations by segment."""
    names = [results.champion, *results.challengers]
    headings = [("Segment", "", False), ("Scored", "accounts", True)]
    headings.append(("Gross notional", "at the start", True))
    headings += [(_head(n), "accounts liquidated", True) for n in names]
    headings += [(_head(n), "notional liquidated", True) for n in names]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for record in frames.records(tables.segment_table(results)):
        found.setdefault(record["segment"], {})[record["parameter_set"]] = record
    rows = [_segment_row(segment, by_set, names) for segment, by_set in sorted(found.items())]
    return Section(
        "segments",
        "By segment",
        "Segments are the labels of the dataset's accounts.",
        [Picture("segments", "Each mark is one parameter set; n counts scored accounts.")],
        [PageTable("Liquidations by segment", headings, rows)],
    )


def _segment_row(segment: str, by_set: dict[str, dict[str, Any]], names: list[str]) -> list[Cell]:
    scored = max(r["scored"] for r in by_set.values())
    gross = max(r["start_gross_usd"] for r in by_set.values())
    row = [Cell(segment, segment), _number(cells.count, scored), _number(cells.money, gross)]
    for name in names:
        record = by_set.get(name, {})
        count = f"{cells.count(record.get('liquidated'))} accounts"
        row.append(_number(cells.share, record.get("per_account_frac"), count))
    row += [_number(cells.share, by_set.get(n, {}).get("notional_frac")) for n in names]
    return row


def _head(name: str) -> str:
    """A set's name as a heading."""
    return text.shorten(name, 24)


def _number(show: Callable[[object], str], value: object, note: str = "") -> Cell:
    order = value if isinstance(value, int | float) and not text.is_missing(value) else None
    return Cell(show(value), order, note, "number")


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
    champion, challenger = _head(pair.champion), _head(pair.challenger)
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


def charge_section(results: Results) -> Section:
    """What the margin of those liquidated, and of everyone, consists of."""
    names = [results.champion, *results.challengers]
    found = {
        (r["parameter_set"], r["charge"]): r for r in frames.records(tables.charge_table(results))
    }
    rows = []
    for charge in CHARGES:
        mine = [found[name, charge] for name in names]
        shown = [
            _number(cells.money, r["usd"], f"{cells.share(r['of_total_mmr_frac'])} of MMR")
            for r in mine
        ]
        rows.append([Cell(CHARGE_NAMES[charge], charge), *shown])
    headings = [("Charge", "", False)] + [(_head(n), "at the worst time", True) for n in names]
    split = PageTable("Charges of liquidated accounts, summed", headings, rows)
    binding = page_table(
        frames.renamed(tables.trigger_table(results), "binding_charge", CHARGE_NAMES),
        _TRIGGERS,
        "What bound at the trigger: charge and scenario of the coin with the largest MMR",
        30,
        folded=True,
        empty="No liquidation.",
    )
    note = (
        "In each risk unit only the largest of MR1, MR2 and MR6 counts and MR7 is a floor, so the "
        "nine charges overlap and add up to more than total MMR."
    )
    pictures = [
        Picture("charges_of_liquidated", "Liquidated accounts only, at the worst time of each."),
        Picture(
            "charges_by_time", "All scored accounts; the stack dips where accounts are unpriced."
        ),
    ]
    return Section("charges", "What the margin consists of", note, pictures, [split, binding])


_TRIGGERS = (
    Column("parameter_set", "Set"),
    Column("binding_charge", "Binding charge"),
    Column("binding_unit", "Coin"),
    Column("binding_price_move", "Price move", cells.share),
    Column("binding_vol", "Volatility"),
    Column("events", "Liquidations", cells.count),
    Column("gross_notional_usd", "Gross notional", cells.money),
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
            row.append(_number(cells.share, share, f"{text.number(count)} accounts"))
        rows.append(row)
    headings = [("Worst level at or below", "", False)]
    headings += [(_head(n), "share of scored accounts", True) for n in names]
    without = ", ".join(
        f"{text.number(account_stats(results, n).without_level)} under {quote(n)}"
        for n in names[:4]
    )
    caption = (
        "Levels at or below 10 %, negative ones too, are counted at the left edge. Accounts "
        f"without any margin requirement have no level and stay above every mark: {without}."
    )
    return Section(
        "levels",
        "How far margin levels fall",
        "The lowest margin level of each account in the window.",
        [Picture("worst_margin_levels", caption)],
        [PageTable("Worst margin level of the window", headings, rows)],
    )


def break_even_section(results: Results) -> Section:
    """How close accounts are to the trigger, charge by charge."""
    frame = frames.renamed(tables.break_even_points(results), "charge", CHARGE_NAMES)
    columns = [Column("parameter_set", "Set"), Column("charge", "Charge")]
    columns += [
        Column(f"at_{m:g}", f"{text.TIMES} {m:g}", cells.share) for m in tables.BREAK_EVEN_POINTS
    ]
    columns.append(Column("elasticity", "Elasticity", cells.ratio))
    table = page_table(frame, columns, "Share of accounts liquidated at multiples of one charge")
    failed = [c for c in checks(results) if "F(1)" in c.name and c.holds is False]
    agree = (
        "At multiplier 1 all nine curves equal the share liquidated by the run: checked, they do."
        if not failed
        else "At multiplier 1 all curves must equal the share liquidated; some do not, see checks."
    )
    caption = (
        f"{agree} Left of 1 the charge is lowered, right of 1 raised. Exact for parameters that "
        "scale a charge linearly; price moves of option books do not."
    )
    return Section(
        "break-even",
        "How close the rest were",
        "For each account the run keeps the multiplier of each charge that just liquidates it; "
        "the curves are their distribution. Elasticity: percent more accounts liquidated for one "
        f"percent more of the charge, between {text.TIMES} 0.9 and {text.TIMES} 1.1.",
        [Picture("break_even", caption)],
        [table],
    )


def loss_section(results: Results) -> Section:
    """The accounts with the largest losses."""
    stats = account_stats(results, results.champion)
    rows = [r | {"largest": _largest_charge(r)} for r in frames.records(stats.losses)]
    table = page_table(
        pd.DataFrame(rows, columns=[c.key for c in _LOSSES]),
        _LOSSES,
        f"Largest bad debt under {quote(results.champion)}",
        25,
        empty="No account has equity below zero.",
    )
    intro = "Accounts whose equity falls furthest below zero if nothing is closed."
    return Section("losses", "Largest losses", intro, tables=[table])


def _largest_charge(record: dict[str, Any]) -> str:
    return max(CHARGES, key=lambda c: record[f"worst_{c}"]).upper()


_LOSSES = (
    Column("account_id", "Account"),
    Column("segment", "Segment"),
    Column("bad_debt_usd", "Bad debt", cells.money),
    Column("start_gross_notional_usd", "Gross notional", cells.money, "at the start"),
    Column("first_liquidation_time", "First liquidated", cells.moment, "UTC"),
    Column("worst_time", "Worst time", cells.moment, "UTC"),
    Column("worst_total_mmr", "Total MMR", cells.money, "at the worst time"),
    Column("largest", "Largest charge"),
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
