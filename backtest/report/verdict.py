"""The decision in plain words: one verdict for each challenger, and what to keep in mind."""

import math
from dataclasses import dataclass

from . import text
from .account_stats import account_stats
from .bootstrap import MIN_TIMES, Estimate
from .compare import pairing
from .frequency import (
    average_margin,
    block_plan,
    by_time,
    effective_accounts,
    rate_differences,
)
from .impact import sets_with_impact
from .liquidations import has_liquidations
from .quality import checks, row_counts
from .reader import Results
from .text import number, percent
from .triggers import trigger_stats


LOOSER, STRICTER, MIXED, SAME, UNKNOWN = "looser", "stricter", "mixed", "no change", "no answer"
_MARGIN_STEP = 0.005  # a relative change of average margin below this is called no change

SEEN_ERRORS = 2.8
"""Standard errors of a difference that is seen at 5 % four times in five: 1.96 + 0.84."""


@dataclass(frozen=True)
class Verdict:
    """What changes from the champion to one challenger.

    Attributes:
        challenger: The set judged.
        label: ``looser`` (fewer liquidations, no more margin), ``stricter``, ``mixed``,
            ``no change`` or ``no answer`` (nothing was scored under both).
        sentence: The finding in one sentence.
        points: Title and sentence of each thing that the finding rests on.
    """

    challenger: str
    label: str
    sentence: str
    points: tuple[tuple[str, str], ...]


def verdicts(results: Results) -> list[Verdict]:
    """One verdict for each challenger, in order; empty for a run of one set."""
    return [verdict(results, results.champion, name) for name in results.challengers]


def verdict(results: Results, champion: str, challenger: str) -> Verdict:
    """The verdict on one challenger against the champion."""
    pair = pairing(results, champion, challenger)
    if not pair.pairs:
        sentence = f"No account was scored under both {quote(champion)} and {quote(challenger)}."
        return Verdict(challenger, UNKNOWN, sentence, ())
    net = pair.only_challenger - pair.only_champion
    margin = _relative(results, champion, challenger)
    points = (
        ("Who flips", _flips(results, champion, challenger)),
        ("Margin", _margin(results, champion, challenger)),
        ("At the trigger", _trigger(results, champion, challenger)),
        ("Bad debt", _debt(results, champion, challenger)),
        ("Evidence", _evidence(results, champion, challenger)),
    )
    return Verdict(
        challenger,
        _label(net, pair.only_champion + pair.only_challenger, margin),
        _sentence(results, champion, challenger),
        tuple(p for p in points if p[1]),
    )


def quote(name: str) -> str:
    """A name as it stands in a sentence."""
    return f"“{name}”"


def _relative(results: Results, champion: str, challenger: str) -> float:
    """Relative change of the average margin; NaN without positions."""
    before, after = average_margin(results, champion), average_margin(results, challenger)
    return after / before - 1 if before > 0 else float("nan")


def _label(net: int, flips: int, margin: float) -> str:
    cheaper = margin < -_MARGIN_STEP
    dearer = margin > _MARGIN_STEP
    if not flips and not cheaper and not dearer:
        return SAME
    if net <= 0 and not dearer:
        return LOOSER if net < 0 or cheaper else MIXED
    if net >= 0 and not cheaper:
        return STRICTER if net > 0 or dearer else MIXED
    return MIXED


def _sentence(results: Results, champion: str, challenger: str) -> str:
    a, b = account_stats(results, champion), account_stats(results, challenger)
    pair = pairing(results, champion, challenger)
    net = pair.only_challenger - pair.only_champion
    if net:
        word = f"{'more' if net > 0 else 'fewer'} {'account' if abs(net) == 1 else 'accounts'}"
        change = f"{number(abs(net))} {word} than {quote(champion)}"
        shares = f"{percent(b.share)} of {number(b.scored)} instead of {percent(a.share)}"
    else:
        change = f"as many accounts as {quote(champion)}"
        shares = f"{number(b.liquidated)} of {number(b.scored)}, {percent(b.share)}"
    margin = _relative(results, champion, challenger)
    asks = "" if math.isnan(margin) else f", and asks {_change(margin)} margin on average"
    return f"{quote(challenger)} liquidates {change} ({shares}){asks}."


def _change(margin: float) -> str:
    if abs(margin) <= _MARGIN_STEP:
        return "about the same"
    return f"{percent(abs(margin))} {'more' if margin > 0 else 'less'}"


def _flips(results: Results, champion: str, challenger: str) -> str:
    pair = pairing(results, champion, challenger)
    difference = rate_differences(results, champion, challenger).per_account
    saved = text.plural(pair.only_champion, "account is", "accounts are")
    return (
        f"{saved} saved, {number(pair.only_challenger)} newly liquidated, {number(pair.both)} "
        f"liquidated under both, {number(pair.neither)} under neither: {_difference(difference)}."
    )


def _difference(difference: Estimate) -> str:
    if difference.value == 0 or math.isnan(difference.value):
        return "no difference in the share liquidated"
    found = f"{text.points(difference.value)} of accounts"
    if difference.low is None or difference.high is None:
        return found
    span = text.interval(difference.low, difference.high, "points")
    return f"{found}, 95{text.SPACE}% interval {span}"


def _margin(results: Results, champion: str, challenger: str) -> str:
    before, after = average_margin(results, champion), average_margin(results, challenger)
    if math.isnan(before) or math.isnan(after):
        return ""
    return f"{percent(after)} of gross notional on average ({quote(champion)}: {percent(before)})."


def _trigger(results: Results, champion: str, challenger: str) -> str:
    a, b = trigger_stats(results, champion), trigger_stats(results, challenger)
    if not a.accounts or not b.accounts:
        return ""
    left = (
        f"The median account has equity of {percent(b.cushion_median)} of its gross notional left "
        f"to be closed with ({quote(champion)}: {percent(a.cushion_median)})."
    )
    if not a.shortfall_accounts and not b.shortfall_accounts:
        return f"{left} No account is below zero already, under either set."
    late = text.plural(b.shortfall_accounts, "account is", "accounts are")
    return (
        f"{left} {late} below zero already, by {text.usd(b.shortfall_usd)} ({quote(champion)}: "
        f"{number(a.shortfall_accounts)}, {text.usd(a.shortfall_usd)})."
    )


def _debt(results: Results, champion: str, challenger: str) -> str:
    a = account_stats(results, champion).bad_debt_usd
    b = account_stats(results, challenger).bad_debt_usd
    same = math.isclose(a, b, rel_tol=1e-9, abs_tol=0.01)
    if same and not b:
        return "None under either set."
    if same and not has_liquidations(results):
        return f"{text.usd(b)} under both: nothing is closed on the way, so equity is the same."
    left = " after liquidation" if has_liquidations(results) else ""
    return f"{text.usd(b)}{left} ({quote(champion)}: {text.usd(a)})."


def _evidence(results: Results, champion: str, challenger: str) -> str:
    pair = pairing(results, champion, challenger)
    difference = rate_differences(results, champion, challenger).per_account
    if not pair.only_champion + pair.only_challenger:
        return "Not one account flips, so there is no difference to test."
    p = text.p_value(pair.test.p_value)
    p = p if p.startswith("<") else f"= {p}"
    statistic = number(pair.test.statistic, 1)
    mcnemar = (
        f"McNemar chi-square {statistic}, p {p}, if accounts were independent, which they are not."
    )
    if difference.low is None:
        return f"The window is too short for an interval. {mcnemar}"
    if difference.excludes_zero:
        return f"The interval from blocks of time leaves out zero. {mcnemar}"
    return (
        "The interval from blocks of time holds zero: this window alone cannot tell the two sets "
        f"apart. {mcnemar}"
    )


def caveats(results: Results) -> list[str]:
    """What a reader must know before acting on the numbers, the gravest first."""
    notes = [*_failed(results), *_gaps(results), *_start(results)]
    notes += [_assumed(results), _models(results), _model(results), _uncertainty(results)]
    notes.append(_power(results))
    return [n for n in notes if n]


def _failed(results: Results) -> list[str]:
    notes = [
        f"A check of the saved numbers fails. {c.name}: {c.detail}."
        for c in checks(results)
        if c.holds is False
    ]
    failed = int((results.manifest.get("cells") or {}).get("failed") or 0)
    if failed:
        cells = text.plural(failed, "cell")
        notes.insert(0, f"{cells} of the run failed: their accounts are missing here.")
    return notes


def _gaps(results: Results) -> list[str]:
    rows = row_counts(results)
    total = rows["in"] or 1
    notes: list[str] = []
    if rows["unpriced"]:
        listed = results.manifest.get("unpriced_instruments") or []
        names = text.listing((str(i.get("instrument_id")) for i in listed), 3)
        notes.append(
            f"{number(rows['unpriced'])} account-times ({percent(rows['unpriced'] / total)}) are "
            "unpriced for want of a usable mark and left out of every rate"
            + (f": {names}." if names else ".")
        )
    if rows["quarantined"]:
        notes.append(
            f"{number(rows['quarantined'])} account-times "
            f"({percent(rows['quarantined'] / total)}) are quarantined because of bad rows in the "
            "dataset and left out of every rate."
        )
    return notes or ["No gaps: every account-time of the run was scored."]


def _start(results: Results) -> list[str]:
    """Accounts that start in liquidation: no stress result."""
    parts: list[str] = []
    for name in results.set_names:
        first = by_time(results, name)["first_liquidations"].tolist()[:1]
        if first and first[0]:
            total = account_stats(results, name).liquidated
            parts.append(f"{number(int(first[0]))} of {number(total)} under {quote(name)}")
    if not parts:
        return []
    listed = text.listing(parts, 4)
    why = "by the portfolio they start with and not by the market"
    return [f"Liquidated at the first time already, {why}: {listed}."]


def _assumed(results: Results) -> str:
    parts = []
    for entry in results.manifest["parameter_sets"]:
        counts = {k: int(v) for k, v in (entry.get("label_counts") or {}).items()}
        if counts:
            name = quote(str(entry["name"]))
            parts.append(f"{counts.get('A', 0)} of {sum(counts.values())} in {name}")
    if not parts:
        return ""
    listed = text.listing(parts, 4)
    return f"Parameter values that are assumed, because no source states them: {listed}."


def _models(results: Results) -> str:
    """Sets of different margin models: what a comparison of them says and what not."""
    if len(results.alike(results.set_names)) < 2:
        return ""
    groups: dict[str, list[str]] = {}
    for name in results.set_names:
        groups.setdefault(results.model(name), []).append(quote(name))
    named = "; ".join(
        f"{model or 'not named'}: {text.listing(names, 4)}" for model, names in groups.items()
    )
    return (
        f"The sets have different charges (model {named}). Liquidations, losses and total margin "
        "compare account by account; single charges have no counterpart and are shown apart."
    )


def _model(results: Results) -> str:
    parts: list[str] = []
    if (results.manifest.get("replay") or {}).get("mode") == "frozen":
        parts.append(
            "The portfolio of one snapshot is held over the whole window: nobody trades, tops up "
            "or withdraws."
        )
    if has_liquidations(results):
        parts.append(
            "Accounts are liquidated at the trigger, so bad debt is what that leaves unpaid, "
            "before fund and deleveraging."
        )
    else:
        parts.append(
            "Nothing is closed when an account is triggered, so bad debt is what the account would "
            "lose if left alone."
        )
    moving = sets_with_impact(results)
    if moving:
        still = [name for name in results.set_names if name not in moving]
        alone = f" of {text.listing(map(quote, moving), 4)}" if still else ""
        parts.append(f"Liquidations{alone} move prices by assumed parameters.")
    else:
        parts.append("No price reacts to liquidations: with that feedback tails are worse.")
    return " ".join(parts)


def _uncertainty(results: Results) -> str:
    plan = block_plan(results)
    if plan.times < MIN_TIMES:
        return f"No intervals: {text.plural(plan.times, 'time')} is too short a window for them."
    block = text.duration(plan.block * results.interval_seconds)
    effective = effective_accounts(results, results.champion)
    note = (
        f"Intervals are 95{text.SPACE}% stationary-bootstrap intervals: n = {number(plan.times)} "
        f"times, mean block {text.plural(plan.block, 'time')} ({block}), about "
        f"{number(plan.blocks, 1)} blocks, {number(plan.resamples)} resamples. A window with one "
        "crash is one observation of a crash, however many accounts it holds"
    )
    if effective is None:
        return f"{note}."
    scored = number(account_stats(results, results.champion).scored)
    return (
        f"{note}: the {scored} accounts tell as much as about {number(effective)} independent ones."
    )


def _power(results: Results) -> str:
    """The smallest difference that a window like this one would have shown."""
    found = []
    for name in results.challengers:
        error = rate_differences(results, results.champion, name).per_account.std_error
        if error:
            found.append(f"{text.points(SEEN_ERRORS * error, signed=False)} for {quote(name)}")
    if not found:
        return ""
    return (
        "Power: a difference in the share of accounts liquidated that is smaller than this would "
        f"be missed more often than one time in five: {text.listing(found, 4)}."
    )
