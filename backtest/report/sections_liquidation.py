"""The section on liquidations as they happened, of a run that simulated them."""

from . import cells, text
from .cells import Column, page_table
from .liquidations import concentration, ledger, outcomes, over_sets, risk, stages
from .reader import Results
from .section import Picture, Section


SET = Column("parameter_set", "Set")


def liquidation_section(results: Results) -> Section:
    """Stages, costs, fund, survival and concentration of the liquidations."""
    intro = (
        "Accounts at the trigger were worked through the stages of their margin model and went on "
        "with what was left. Slices, fees and slippage are parameters, most of them assumed."
    )
    tables = [
        page_table(over_sets(results, outcomes), _OUTCOMES, "What became of liquidated accounts"),
        page_table(over_sets(results, stages), _STAGES, "By stage", empty="Nobody was liquidated."),
        page_table(
            over_sets(results, ledger),
            _LEDGER,
            "Who paid",
            note="Loss = fund + deleveraging + unfunded, to the cent at every time.",
        ),
        page_table(
            over_sets(results, risk),
            _RISK,
            "Bad debt and liquidated notional of a day",
            note="Quantiles over the days of the window: with few days they are its worst ones.",
        ),
        page_table(over_sets(results, concentration), _CONCENTRATION, "Concentration"),
    ]
    pictures = [
        Picture(
            "fund",
            "The fund after every time with liquidations; below, who paid the losses of the time.",
        ),
        Picture(
            "survival",
            "Share of accounts not liquidated yet (Kaplan and Meier); accounts that leave or are "
            "never liquidated are censored when they were last scored.",
        ),
    ]
    return Section("liquidations", "Liquidations", intro, pictures, tables)


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
    Column("q95_usd", "95 %", cells.money),
    Column("q99_usd", "99 %", cells.money),
    Column("worst_usd", "Worst day", cells.money),
)
_CONCENTRATION = (
    SET,
    Column("of", "Of"),
    Column("accounts", "Accounts", cells.count),
    Column("top_1", "Largest", cells.share),
    Column("top_10", "10 largest", cells.share),
    Column("top_100", "100 largest", cells.share),
)
