"""Sections of margin: what it consists of, how close the rest were, the largest losses."""

from typing import Any

import pandas as pd

from . import cells, frames, tables, text
from .account_stats import account_stats
from .accounts import with_pages
from .break_even import MOST_ACCOUNTS, near_flips, near_groups
from .cells import Cell, Column, PageTable, page_table
from .liquidations import has_liquidations
from .quality import checks
from .reader import Results
from .section import Picture, Section, head, number_cell
from .verdict import quote


def charge_section(results: Results) -> Section:
    """What the margin of those liquidated, and of everyone, consists of."""
    groups = results.alike([results.champion, *results.challengers])
    split = [_charge_split(results, names, len(groups) > 1) for names in groups]
    binding = page_table(
        tables.trigger_table(results),
        _TRIGGERS,
        "What bound at the trigger: charge and scenario of the coin with the largest MMR",
        30,
        folded=True,
        empty="No liquidation.",
    )
    how = [_how(results, names, len(groups) > 1) for names in groups]
    captions = (
        "Liquidated accounts only, at the worst time of each.",
        "All scored accounts; the stack dips where accounts are unpriced.",
    )
    pictures = [
        Picture(name, " ".join(w for w in (caption, *how) if w))
        for name, caption in zip(
            ("charges_of_liquidated", "charges_by_time"), captions, strict=True
        )
    ]
    intro = "Margin by charge: of accounts liquidated, and of all accounts through time."
    if len(groups) > 1:
        intro += " Sets whose charges differ are shown apart, each with its own."
    return Section(
        "charges",
        "What the margin consists of",
        intro,
        pictures,
        [*split, binding],
    )


def _how(results: Results, names: list[str], apart: bool) -> str:
    """How the charges of sets with equal charges add up, as the run saved it."""
    said = dict.fromkeys(results.how(n) for n in names if results.how(n))
    words = " ".join(w if w.endswith(".") else f"{w}." for w in said)
    return f"{text.listing([quote(n) for n in names], 3)}: {words}" if words and apart else words


def _charge_split(results: Results, names: list[str], apart: bool) -> PageTable:
    """Charges of liquidated accounts under sets with equal charges, one column a set."""
    found = {
        (r["parameter_set"], r["charge"]): r for r in frames.records(tables.charge_table(results))
    }
    rows = []
    for charge in results.charges(names[0]):
        mine = [found[name, charge.name] for name in names]
        shown = [
            number_cell(cells.money, r["usd"], f"{cells.share(r['of_total_mmr_frac'])} of MMR")
            for r in mine
        ]
        rows.append([Cell(charge.label, charge.name), *shown])
    headings = [("Charge", "", False)] + [(head(n), "at the worst time", True) for n in names]
    caption = "Charges of liquidated accounts, summed"
    if apart:
        caption += f": {text.listing([quote(n) for n in names], 3)}"
    return PageTable(caption, headings, rows)


_TRIGGERS = (
    Column("parameter_set", "Set"),
    Column("label", "Binding charge"),
    Column("binding_unit", "Coin"),
    Column("binding_price_move", "Price move", cells.share),
    Column("binding_vol", "Volatility"),
    Column("events", "Liquidations", cells.count),
    Column("gross_notional_usd", "Gross notional", cells.money),
)


def break_even_section(results: Results) -> Section:
    """How close accounts are to the trigger, charge by charge, and which ones are closest."""
    columns = [Column("parameter_set", "Set"), Column("label", "Charge")]
    columns += [
        Column(f"at_{m:g}", f"{text.TIMES} {m:g}", cells.share) for m in tables.BREAK_EVEN_POINTS
    ]
    columns.append(Column("elasticity", "Elasticity", cells.ratio))
    table = page_table(
        tables.break_even_points(results),
        columns,
        "Share of accounts liquidated at multiples of one charge",
    )
    failed = [c for c in checks(results) if "F(1)" in c.name and c.holds is False]
    agree = (
        "At multiplier 1 all curves of a set equal the share that the run liquidates: checked, "
        "they do."
        if not failed
        else "At multiplier 1 all curves must equal the share liquidated; some do not, see checks."
    )
    caption = (
        f"{agree} Left of 1 the charge is lowered, right of 1 raised. Exact for parameters that "
        "scale a charge linearly; price moves of option books do not, nor does any charge of an "
        "account whose open orders decide which of its portfolios binds."
    )
    return Section(
        "break-even",
        "How close the rest were",
        "For each account the run keeps the multiplier of each charge that just liquidates it; "
        "the curves are their distribution. Elasticity: percent more accounts liquidated for one "
        f"percent more of the charge, between {text.TIMES} 0.9 and {text.TIMES} 1.1.",
        [
            Picture("break_even", caption),
            Picture("elasticities", "Read off the curves; every other charge stays as it is."),
        ],
        [table, *_about_to_flip(results)],
    )


def _about_to_flip(results: Results) -> list[PageTable]:
    """Accounts of the champion nearest to the trigger, and who they are."""
    name = results.champion
    found = near_flips(results, name)
    labels = {c.name: c.label for c in results.charges(name)}
    groups = near_groups(results)
    return [
        page_table(
            frames.rows(groups, groups["parameter_set"] == name),
            _NEAR_GROUPS,
            f"Who flips under {quote(name)} if one charge changes by at most a tenth",
            folded=True,
            empty="No account is that close.",
        ),
        page_table(
            frames.renamed(found, "charge", labels).head(MOST_ACCOUNTS),
            _NEAR,
            f"Accounts about to flip under {quote(name)}, the nearest first",
            50,
            links=with_pages(results),
            folded=True,
            empty="No account is that close.",
        ),
    ]


_NEAR_GROUPS = (
    Column("dimension", "Dimension"),
    Column("group", "Group"),
    Column("newly_liquidated", "Newly liquidated", cells.count, "a charge raised"),
    Column("saved", "Saved", cells.count, "a charge lowered"),
)
_NEAR = (
    Column("account_id", "Account"),
    Column("segment", "Segment"),
    Column("direction", "Flips to"),
    Column("charge", "Charge", None, "nearest to its break-even"),
    Column("multiplier", "Multiplier", cells.ratio, "of that charge"),
    Column("start_gross_notional_usd", "Gross notional", cells.money),
    Column("start_equity_usd", "Equity", cells.money),
    Column("start_option_notional_usd", "Options", cells.money),
    Column("start_net_delta_usd", "Net delta", cells.money),
    Column("worst_time", "Worst time", cells.moment, "UTC"),
)


def loss_section(results: Results) -> Section:
    """The accounts with the largest losses."""
    stats, simulated = account_stats(results, results.champion), has_liquidations(results)
    rows = [r | {"largest": _largest_charge(results, r)} for r in frames.records(stats.losses)]
    table = page_table(
        pd.DataFrame(rows, columns=[c.key for c in _LOSSES]),
        _LOSSES,
        f"Largest bad debt under {quote(results.champion)}",
        25,
        links=with_pages(results),
        empty="No account owes anything after liquidation."
        if simulated
        else "No account has equity below zero.",
    )
    intro = (
        "Accounts whose liquidation left most unpaid, before fund and deleveraging."
        if simulated
        else "Accounts whose equity falls furthest below zero if nothing is closed."
    )
    return Section("losses", "Largest losses", intro, tables=[table])


def _largest_charge(results: Results, record: dict[str, Any]) -> str:
    charges = results.charges(results.champion)
    return max(charges, key=lambda c: record[f"worst_{c.name}"]).short


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
