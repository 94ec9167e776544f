"""What a calibration says in words, and what it does not show."""

import math
from typing import Any

from backtest.calibration.config import ADAPTIVE, Objective
from backtest.calibration.saved import TITLES, Saved
from backtest.report import text


ENOUGH_BLOCKS = 10
"""Runs of blocks below which an interval from resampling them says little."""

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
    found = [("On the whole window", _whole(saved)), ("Out of sample", _out_of_sample(saved))]
    found += [("Constraints", _constraints(saved)), ("Bundle", _bundle(saved))]
    found.append(("Search", _meters(saved)))
    return [(title, words) for title, words in found if words]


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
    probability = summary["overfitting"]
    words = (
        f"{text.number(summary['frontier'])} of {text.number(summary['candidates'] + 1)} sets are "
        f"on the frontier, {text.number(summary['dominated'])} are dominated. "
    )
    if probability is not None:
        words += (
            f"Probability of overfitting {text.percent(probability)}: the share of halves of the "
            "window whose best set is below the middle on the other half. "
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
