"""Accounts that came to the trigger: the largest ones, and which of them have a page.

A page is a part of the report that a link opens, so their number is bounded; of any other account
``pmstress explain`` tells the same.
"""

import shlex
from collections.abc import Iterable

import numpy as np
import pandas as pd

from . import cells, frames, text
from .account_stats import account_stats
from .cells import Column, page_table
from .compare import flipped_accounts
from .figures_time import shown_sets
from .liquidations import has_liquidations
from .reader import Results
from .section import Section


MOST_LISTED = 40
"""Rows of the table of accounts that came to the trigger, over all parameter sets."""
MOST_PAGES = 60
"""Accounts with a page: those of that table, then of the largest losses and of flips."""

_EVENT = ["account_id", "segment", "time", "margin_level", "gross_notional_usd", "binding_charge"]
_TOTALS = ("notional_usd", "fee_usd", "slippage_usd", "bad_debt_usd")


def triggered(results: Results, name: str) -> pd.DataFrame:
    """One row an account that came to the trigger under a set, the largest first.

    Columns: parameter_set, account_id, segment, first_time, triggers (their number),
    gross_notional_usd, margin_level and binding_charge at the first; where liquidations were
    simulated also what was traded, fees, slippage, bad debt (USD) and the last status. Largest:
    by what was traded, else by gross notional.
    """
    key = ("triggered", name)
    if key not in results.memo:
        results.memo[key] = _triggered(results, name)
    return results.memo[key]


def _triggered(results: Results, name: str) -> pd.DataFrame:
    columns = [*_EVENT[:2], "first_time", *_EVENT[3:], "triggers"]
    found = pd.DataFrame(columns=columns)
    if results.has("events"):
        events = frames.ordered(results.events(_EVENT, name, "liquidation"), "time")
        found = events.drop_duplicates("account_id").rename(columns={"time": "first_time"})
        counts = frames.counted(events["account_id"]).to_dict()
        found = found.assign(triggers=[counts[a] for a in found["account_id"]])
    by = "gross_notional_usd"
    if has_liquidations(results):
        totals = results.simulated("liquidation_totals", name)
        wanted = ["account_id", *_TOTALS, "last_status"]
        found = found.merge(totals[wanted], on="account_id", how="outer")
        by = "notional_usd"
    found = found.assign(parameter_set=name)
    return frames.ordered(found, [by, "account_id"], [False, True])


def listed(results: Results) -> pd.DataFrame:
    """The largest accounts that came to the trigger, equally many of each set that is shown."""
    names = [n for n in shown_sets(results) if len(triggered(results, n))]
    if not names:
        return triggered(results, results.champion)
    parts = [triggered(results, n).head(MOST_LISTED // len(names)) for n in names]
    return pd.concat(parts, ignore_index=True)


def with_pages(results: Results) -> dict[str, str]:
    """The fragment of the page of every account that has one, in the order of the pages.

    Fragments are numbers, so they are safe whatever an account is called.
    """
    key = ("with_pages",)
    if key not in results.memo:
        found = dict.fromkeys(str(a) for a in _wanted(results))
        chosen = list(found)[:MOST_PAGES]
        results.memo[key] = {a: f"account-{k}" for k, a in enumerate(chosen, start=1)}
    return results.memo[key]


def _wanted(results: Results) -> Iterable[str]:
    """Accounts that the report names and that came to the trigger, the most important first."""
    yield from listed(results)["account_id"]
    known: set[str] = set()
    for name in shown_sets(results):
        known |= set(triggered(results, name)["account_id"])
    losses = account_stats(results, results.champion).losses
    if len(losses):
        yield from (a for a in losses["account_id"] if a in known)
    for challenger in results.challengers:
        flipped = flipped_accounts(results, results.champion, challenger)
        yield from (a for a in flipped["account_id"].head(MOST_PAGES) if a in known)


def explain_command(results: Results, account: str, time: object, name: str) -> str:
    """The command that prints every step of the account's margin at a time, ready for a shell."""
    when = pd.Timestamp(str(time)).tz_convert("UTC")
    parts = ["pmstress", "explain", str(results.path), f"{account}@{when:%Y-%m-%dT%H:%MZ}"]
    return shlex.join([*parts, "--set", name])


def accounts_section(results: Results) -> Section:
    """The largest accounts that came to the trigger, each with a link to its page."""
    rows = listed(results)
    names = {c.name: c.short for n in results.set_names for c in results.charges(n)}
    shown = frames.renamed(rows, "binding_charge", names) if len(rows) else rows
    simulated = has_liquidations(results)
    if simulated:
        shown = shown.assign(slipped=[text.usd(v) for v in frames.numbers(shown, "slippage_usd")])
    by = "what was traded" if simulated else "gross notional"
    table = page_table(
        shown,
        [*_LISTED, *(_SIMULATED if simulated else ())],
        f"The largest by {by}",
        links=with_pages(results),
        empty="No account came to the trigger.",
    )
    counts = [
        f"{text.number(len(triggered(results, n)))} under {text.shorten(n)}"
        for n in shown_sets(results)
    ]
    intro = (
        f"Accounts at or below 100 %: {', '.join(counts)}. {_pages(results)} A link opens the "
        "page of its account: its margin level through the window, its charges at the trigger"
        + (", and every step of its liquidation." if simulated else ".")
    )
    return Section("accounts", "Account by account", intro, tables=[table])


def _pages(results: Results) -> str:
    """How many accounts have a page, and how to see any other."""
    have = len(with_pages(results))
    every: set[str] = set()
    for name in shown_sets(results):
        every |= set(triggered(results, name)["account_id"])
    if have == len(every):
        return "Every one of them has a page here."
    pages = f"{text.number(have)} of {text.plural(len(every), 'account')} have a page here"
    command = f"pmstress explain {shlex.quote(str(results.path))} ACCOUNT@TIME"
    return f"{pages}; of any other `{command}` tells the same."


def level(value: object) -> str:
    """A margin level as percent."""
    number = float(str(value)) if not text.is_missing(value) else np.nan
    return text.percent(number)


_LISTED = (
    Column("account_id", "Account"),
    Column("parameter_set", "Set"),
    Column("segment", "Segment"),
    Column("first_time", "First trigger", cells.moment, "UTC"),
    Column("triggers", "Triggers", cells.count),
    Column("margin_level", "Margin level", level, "at the first"),
    Column("gross_notional_usd", "Gross notional", cells.money, "at the first"),
    Column("binding_charge", "Largest charge", None, "at the first"),
)
_SIMULATED = (
    Column("notional_usd", "Traded", cells.money),
    Column("fee_usd", "Fees", cells.money, "and slippage", under="slipped"),
    Column("bad_debt_usd", "Bad debt", cells.money),
    Column("last_status", "Ended"),
)
