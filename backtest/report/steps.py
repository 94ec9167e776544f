"""Words of a liquidation: its stages, why a step was chosen and why it ended, what became of it."""

from collections.abc import Iterable

from . import text


STAGES = {
    "cancel": "open orders are cancelled",
    "ddh1": "positions that hedge each other in two stablecoins are closed on both sides",
    "ddh2": "futures and perpetuals are traded against the net delta",
    "basis": "positions of opposite sign in two maturities are closed together",
    "reduction": "the leg that frees most margin for its cost is closed",
    "partial": "the position that frees most margin for its cost is closed",
    "repay": "a debt is repaid by selling assets",
    "bankruptcy": "nothing is left and equity is below zero; what is missing is paid elsewhere",
}
"""What each stage of any margin model does."""

ENDED = {
    "safe": "the account is safe",
    "limit": "the slices of one time are used up",
    "nothing_left": "nothing is left to close",
    "other_stage": "an earlier stage has something to do",
    "not_largest": "its charge is not the largest of any unit",
    "no_gain": "a further slice would not lower the margin",
    "no_orders": "no orders are open",
    "no_opposite": "no positions of opposite sign in two maturities",
    "no_debt": "no debt, or nothing to repay it with",
    "not_due": "the margin level is above the trigger",
    "no_stable_pairs": "there is no charge for stablecoins",
    "too_small": "the net delta is below the least size of a slice",
    "paid_elsewhere": "the fund and other accounts take the loss",
}
"""Why a step ended, by its code in ``liquidations``."""

_CHOSEN = {
    "ddh1": "the stablecoin charge leads its unit",
    "ddh2": "a charge of price moves leads its unit",
    "basis": "the highest basis charge",
    "reduction": "margin freed by the first slice",
    "partial": "margin freed by the first slice",
    "repay": "owed",
    "bankruptcy": "missing",
}


def explained(stages: Iterable[str]) -> str:
    """What each of some stages does, in the order in which they are given."""
    known = [f"{stage}: {STAGES[stage]}" for stage in dict.fromkeys(stages) if stage in STAGES]
    return "; ".join(known) + "." if known else ""


def chosen(stage: str, target_usd: float) -> str:
    """Why a step was chosen, with the amount that led to it, USD; empty where nothing says so."""
    if stage not in _CHOSEN or text.is_missing(target_usd):
        return STAGES.get(stage, "")
    return f"{_CHOSEN[stage]}: {text.usd(target_usd)}"
