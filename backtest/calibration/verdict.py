"""What a calibration says in words, and what it does not show."""

import math
from typing import Any

import pandas as pd

from backtest.calibration.config import ADAPTIVE, Objective
from backtest.calibration.saved import OVERFITTING_ALONE, TITLES, Saved
from backtest.calibration.zones import NOT_MEASURED, overfitting_words
from backtest.report import frames, text


ENOUGH_BLOCKS = 10
"""Runs of blocks below which an interval from resampling them says little."""

_PLAIN = {
    "frequency": "accounts liquidated",
    "episodes": "liquidation episodes",
    "bad_debt": "bad debt",
    "margin": "maintenance margin",
}
DECIDED_BY_ONE = 0.5
"""Share of an objective in one block of time from which on the words name the block; assumed."""

_UNCLOSED = (
    "Nothing is closed and no price reacts: bad debt is what equity at the trigger does not cover,"
)
_ALWAYS = (
    (
        "Accounts keep what they hold whatever margin costs: nobody trades, deposits or leaves "
        "because of new rules, and old positions reflect old rules."
    ),
    (
        "Peak to trough has no interval. It is that of the accounts' margin over their notional, "
        "so it moves with what they hold as well as with the rules."
    ),
    (
        "A constraint holds on the bound of the window that was looked at. The trial stretches "
        "are the only numbers here that no choice has seen."
    ),
)


def show(objective: Objective, value: Any) -> str:
    """A value of an objective in its unit."""
    if value is None or text.is_missing(float(value)):
        return text.NONE
    if objective == "margin":
        return text.percent(float(value))
    if objective == "procyclicality":
        return f"{text.TIMES} {text.significant(float(value))}"
    return text.significant(float(value))


def sentence(saved: Saved) -> str:
    """The finding in one sentence."""
    summary = saved.summary
    if not summary["any_feasible"]:
        return (
            f"None of {text.number(summary['candidates'])} candidates within reach holds every "
            "constraint on its confidence bound: today's rules stay."
        )
    if summary["chosen"] == "today":
        return (
            f"Today's rules are the best of {text.number(summary['candidates'] + 1)} sets that "
            "hold every constraint: nothing to change."
        )
    moves = [
        f"{name} {text.significant(summary['now'][name])} to {text.significant(level)}"
        for name, level in summary["levels"].items()
        if level != summary["now"][name]
    ]
    return f"Step to {summary['chosen']}: {text.listing(moves, 8)}."


def points(saved: Saved) -> list[tuple[str, str]]:
    """What the finding rests on, by title."""
    found = [("Overfitting", _overfitting(saved)), ("Zone", _zone(saved))]
    found += [("On the whole window", _whole(saved)), ("Out of sample", _out_of_sample(saved))]
    found += [("Constraints", _constraints(saved)), ("Bundle", _bundle(saved))]
    found.append(("Search", _meters(saved)))
    return [(title, words) for title, words in found if words]


def facts(saved: Saved) -> list[tuple[str, str]]:
    """Probability of overfitting and zone of the choice, in a word or two."""
    probability, zone = saved.summary["overfitting"], _zone_name(saved)
    words = overfitting_words(probability)
    if words != NOT_MEASURED:
        words = f"{text.percent(probability)}, {words}"
    return [("Probability of overfitting", words), ("Zone of the choice", zone)]


def _overfitting(saved: Saved) -> str:
    probability = saved.summary["overfitting"]
    words = overfitting_words(probability)
    if words == NOT_MEASURED:
        return "Not measured: too few sets or blocks of time."
    halves = saved.summary.get("halves")
    of = f" of {text.number(halves)}" if halves else " of"
    meaning = {
        "low": "what is best on one half mostly stays above the middle on the other",
        "middling": "what is best on one half often falls below the middle on the other",
        "high": "what is best on one half does no better than chance on the other",
    }
    return (
        f"Probability {text.percent(probability)}, {words}: {meaning[words]} (share{of} halves of "
        "the window whose best set ranks below the middle on the half that it has not seen)."
        f"{_alone(saved)}"
    )


def _alone(saved: Saved) -> str:
    """The probability of each objective alone, and the one that a single block decides."""
    rows = frames.records(saved.tables.get(OVERFITTING_ALONE, pd.DataFrame()))
    if not rows:
        return ""
    each = [f"{_PLAIN[r['objective']]} {text.percent(r['probability'])}" for r in rows]
    words = f" Each objective alone: {text.listing(each, 8)}."
    for row in rows:
        if row["dearest_block_frac"] >= DECIDED_BY_ONE:
            words += (
                f" One block, {text.time(row['dearest_block'])}, holds "
                f"{text.percent(row['dearest_block_frac'])} of today's {_PLAIN[row['objective']]}."
            )
    return words


def _zone_name(saved: Saved) -> str:
    return (saved.summary.get("zone") or {}).get("zone") or "none"


def _zone(saved: Saved) -> str:
    found = saved.summary.get("zone")
    if found is None:
        return "None: this calibration was saved before it had one."
    if found["zone"] is None:
        return f"None: {found['target_is']} is no accounts at all, against which nothing is tested."
    meaning = {
        "green": "no more accounts than chance allows",
        "yellow": "more than chance allows in 95 % of cases, not in 99.99 %",
        "red": "more than chance allows in 99.99 % of cases",
    }
    # less than one effective observation has no colour
    words = meaning.get(found["zone"], "too little was seen")
    return (
        f"{found['zone'].capitalize()}: the choice liquidates "
        f"{text.plural(found['liquidated'], 'account')}, {text.significant(found['expected'])} are "
        f"expected at {found['target_is']}: {words}, counted with effective observations."
    )


def _whole(saved: Saved) -> str:
    now = saved.row("candidates", "candidate", "today")
    then = saved.row("candidates", "candidate", saved.summary["chosen"])
    parts = [
        f"{TITLES[name].lower()} {show(name, now[name])} to {show(name, then[name])}"
        for name in TITLES
    ]
    return f"Today to the choice: {'; '.join(parts)}."


def _out_of_sample(saved: Saved) -> str:
    parts = []
    for row in saved.tables["out_of_sample"].to_dict("records"):
        name: Objective = row["objective"]
        low, high = row["difference_low"], row["difference_high"]
        words = (
            f"{TITLES[name].lower()} {show(name, row['walk'])} (today {show(name, row['today'])}"
        )
        if math.isfinite(low) and math.isfinite(high):
            sign = "holds" if low <= 0.0 <= high else "leaves out"
            words += f"; the 95{text.SPACE}% interval of the difference {sign} zero"
        parts.append(words + ")")
    walk = saved.tables["walk_forward"]
    folds = text.plural(len(walk), "fold")
    return f"Chosen on each stretch and tried on the next, {folds}: {'; '.join(parts)}."


def _constraints(saved: Saved) -> str:
    rules = saved.config["constraints"]
    if not rules:
        return "None was set: the choice is the cheapest, whoever is liquidated."
    parts = []
    for k, rule in enumerate(rules):
        name: Objective = rule["objective"]
        found = saved.row("candidates", "candidate", saved.summary["chosen"])
        bound = found[f"bound_{k + 1}_{name}"]
        if rule["most"] is None:
            limit = f"{text.TIMES} {text.significant(rule['of_today'])} of today's"
            at = f"{text.TIMES} {text.significant(bound)}"
        else:
            limit, at = show(name, rule["most"]), show(name, bound)
        what = "point" if name == "procyclicality" else f"{text.percent(rule['confidence'])} bound"
        parts.append(f"{TITLES[name].lower()} at most {limit}: the {what} of the choice is {at}")
    return "; ".join(parts) + "."


def _bundle(saved: Saved) -> str:
    frame = saved.tables["bundle"]
    if len(frame) < 3:
        return ""
    name: Objective = saved.config["objectives"]["minimise"]
    change = frame[f"{name}_change"].to_numpy(float)
    together, alone = (text.significant(float(x)) for x in (change[1], change[2:].sum()))
    return (
        f"Replayed jointly, the moves change {TITLES[name].lower()} by {together}; one at a time "
        f"they add up to {alone}."
    )


def _meters(saved: Saved) -> str:
    summary = saved.summary
    words = (
        f"{text.number(summary['frontier'])} of {text.number(summary['candidates'] + 1)} sets are "
        f"on the frontier, {text.number(summary['dominated'])} are dominated. "
    )
    return words + (
        f"{text.number(summary['in_confidence_set'])} sets cannot be told from the best one."
    )


def caveats(saved: Saved) -> list[str]:
    """What the calibration does not show."""
    summary, config = saved.summary, saved.config
    blocks, mean = summary["blocks"], summary["mean_block"] or 1
    notes = []
    if blocks / mean < ENOUGH_BLOCKS:
        notes.append(
            f"The window holds {text.number(blocks / mean, 1)} independent stretches "
            f"({text.number(blocks)} blocks, mean run {text.number(mean)}): bounds from so few say "
            "little about the next crash."
        )
    probability = summary["overfitting"]
    if probability is not None and probability >= 0.5:
        notes.append(
            "The choice does no better than chance on the half of the window that it has not seen."
        )
    cost = text.percent(config["objectives"]["closing_cost_frac"])
    notes += [
        f"{_UNCLOSED} with an assumed closing cost of {cost} of gross notional.",
        *_ALWAYS,
    ]
    if config["search"]["method"] in ADAPTIVE:
        notes.append(
            "The search was guided by the first training stretch only; candidates for later ones "
            "were not looked for with what was known then."
        )
    if config["trust_region"] is not None:
        step = text.percent(config["trust_region"]["step_frac"])
        notes.append(f"No step moves a parameter by more than {step}; the best set may be further.")
    return notes
