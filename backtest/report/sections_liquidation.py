"""Sections on liquidations: as they happened where a run simulated them, else as a classifier."""

from . import cells, policies, text
from .cells import Column, page_table
from .classifier import classifier_table, horizon_of
from .fund import adl_rules
from .liquidations import ledger, outcomes, over_sets, risk, stages
from .reader import Results
from .section import Picture, Section
from .steps import explained
from .verdict import quote


SET = Column("parameter_set", "Set")


def liquidation_section(results: Results) -> Section:
    """Stages, costs and fund of the liquidations."""
    intro = (
        "Accounts at the trigger were worked through the stages of their margin model and went on "
        "with what was left. Slices, fees and slippage are parameters, most of them assumed."
    )
    by_stage = over_sets(results, stages)
    tables = [
        page_table(over_sets(results, outcomes), _OUTCOMES, "What became of liquidated accounts"),
        page_table(
            by_stage,
            _STAGES,
            "By stage",
            note=explained(by_stage["stage"].astype(str)),
            empty="Nobody was liquidated.",
        ),
        page_table(
            over_sets(results, ledger),
            _LEDGER,
            "Who paid",
            note="Loss = fund + deleveraging + unfunded, to the cent at every time."
            + ("" if results.has(policies.TABLE) else f" {policies.NOT_COMPARED}"),
        ),
        page_table(
            over_sets(results, risk),
            _RISK,
            "Bad debt and liquidated notional of a day",
            note="Quantiles over the days of the window: with few days they are its worst ones.",
        ),
    ]
    pictures = [Picture("fund", _fund_caption(results))]
    if policies.has_policies(results):
        pictures.insert(1, Picture(policies.TABLE, policies.CAPTION))
        compared = over_sets(results, policies.policies)
        tables.insert(3, page_table(compared, policies.COLUMNS, "Ways to deleverage"))
    return Section("liquidations", "Liquidations", intro, pictures, tables)


def _fund_caption(results: Results) -> str:
    """What the fund figure shows, and when deleveraging is due."""
    rules = {n: adl_rules(results, n) for n in (results.champion, *results.challengers)}
    words = {name: rule.words for name, rule in rules.items() if rule is not None}
    caption = "The fund after every time; below, who paid the losses of each time."
    if len(set(words.values())) == 1:
        due = next(iter(words.values()))
        return f"{caption} Dotted: the balance at which deleveraging is due ({due})."
    if words:
        each = "; ".join(f"{quote(name)}: {word}" for name, word in words.items())
        return f"{caption} Dotted: the balance at which deleveraging is due. {each}."
    return f"{caption} When deleveraging is due was not saved, or nobody is ever deleveraged."


def classifier_section(results: Results) -> Section:
    """Whether triggers singled out the accounts that would have failed."""
    horizon = horizon_of(results)
    watched = "the end of the run" if horizon is None else text.duration(horizon)
    until = f"until {watched}" if horizon is None else f"for {watched}"
    intro = (
        f"Nobody was liquidated in this run, so every account is watched {until} after its first "
        "trigger. It goes below zero (the trigger was right) or recovers untouched (a false alarm)."
    )
    table = page_table(
        classifier_table(results),
        _CLASSIFIER,
        "Triggers and what became of the accounts untouched",
        note="Missed: below zero with no trigger, or with one at the same time only. Undecided: "
        "neither below zero nor recovered yet; they are in neither rate.",
    )
    caption = (
        "One point a parameter set; the higher and the further left, the better. The line joins "
        "them with a trigger that is never and one that is always on."
    )
    return Section(
        "classifier", "Right triggers and false alarms", intro, [Picture("roc", caption)], [table]
    )


def _duration(value: object) -> str:
    return text.NONE if text.is_missing(value) else text.duration(float(str(value)))


_OUTCOMES = (
    SET,
    Column("accounts", "Accounts", cells.count, "liquidated"),
    Column("solvent", "Solvent", cells.count),
    Column("bankrupt", "Bankrupt", cells.count),
    Column("repeats", "Repeats", cells.count),
    Column("notional_usd", "Size traded", cells.money),
    Column("fee_usd", "Fees", cells.money),
    Column("slippage_usd", "Slippage", cells.money),
    Column("bad_debt_usd", "Bad debt", cells.money),
    Column("median_steps", "Steps", cells.ratio, "median"),
    Column("median_seconds", "Time to safety", _duration, "median"),
    Column("longest_seconds", "Time to safety", _duration, "longest"),
)
_CLASSIFIER = (
    SET,
    Column("true_positives", "Right", cells.count, "went below zero later"),
    Column("false_positives", "False alarms", cells.count, "recovered untouched"),
    Column("late", "Missed", cells.count, "trigger too late"),
    Column("unseen", "Missed", cells.count, "no trigger"),
    Column("undecided", "Undecided", cells.count),
    Column("true_positive_rate_frac", "Right triggers", cells.share, "of accounts that failed"),
    Column("false_positive_rate_frac", "False alarms", cells.share, "of accounts that did not"),
    Column("precision_frac", "Precision", cells.share),
    Column("false_alarm_notional_usd", "Gross notional", cells.money, "of false alarms"),
)
_STAGES = (
    SET,
    Column("stage", "Stage"),
    Column("steps", "Steps", cells.count),
    Column("slices", "Slices", cells.count),
    Column("accounts", "Accounts", cells.count),
    Column("notional_usd", "Size traded", cells.money),
    Column("fee_usd", "Fees", cells.money),
    Column("slippage_usd", "Slippage", cells.money),
    Column("ended", "Ended", cells.count, "liquidations"),
)
_LEDGER = (
    SET,
    Column("fund_start_usd", "Fund", cells.money, "at the start"),
    Column("revenue_usd", "Income", cells.money, "fees and surplus"),
    Column("loss_usd", "Losses", cells.money),
    Column("from_fund_usd", "Paid by the fund", cells.money),
    Column("from_adl_usd", "Deleveraging", cells.money),
    Column("unfunded_usd", "Unfunded", cells.money),
    Column("fund_lowest_usd", "Fund", cells.money, "lowest"),
    Column("fund_end_usd", "Fund", cells.money, "at the end"),
    Column("deleveraged", "Deleveraged", cells.count, "account-times"),
    Column("overshoot", "Overshoot", cells.ratio, "taken over needed"),
)
_RISK = (
    SET,
    Column("measure", "Measure"),
    Column("days", "Days", cells.count),
    Column("q50_usd", "50 %", cells.money),
    Column("q95_usd", "95 %", cells.money),
    Column("q99_usd", "99 %", cells.money),
    Column("worst_usd", "Worst day", cells.money),
)
