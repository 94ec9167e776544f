"""Liquidation rules and the instrument axis as kernel records."""

from typing import Any

import numpy as np

from backtest import precision as precision
from backtest.leg_lists import Terms
from backtest.model_records import Currencies
from kernels.liquidation.bybit import NUM_GROUPS
from kernels.liquidation.records import (
    AVERAGE,
    NO_MULTIPLIER,
    NO_PLACE,
    OF_TIER,
    LiquidationRules,
    Listing,
)
from kernels.records import NUM_QUOTES, PERPETUAL, QUOTES, Contract


GROUPS = ("perpetuals_and_futures", "short_options", "long_options")
"""Groups of legs in the order of the kernels."""
MULTIPLIERS = {"tier": OF_TIER, "average": AVERAGE, "none": NO_MULTIPLIER}
IN_COIN = "COIN"
"""Family of perpetuals that settle in their coin."""


def liquidation_record(
    rules: dict[str, Any], numbers: dict[str, Any], currencies: Currencies
) -> LiquidationRules:
    """Kernel record of a liquidation file, with what the parameter set says of it.

    Args:
        rules: ``Liquidation.numbers()``.
        numbers: ``ParameterSet.numbers()`` of the same model.
        currencies: the currency axis.

    Raises:
        ValueError: the rules are of another margin model.
    """
    if rules["model"] != numbers["model"]:
        raise ValueError(
            f"liquidation rules {rules['name']!r} are of the model {rules['model']!r}, the "
            f"parameter set is of {numbers['model']!r}"
        )
    slices, fees, slippage = rules["slices"], rules["fees"], rules["slippage"]
    is_flat = slippage["model"] == "flat"
    by_coin = slippage["linear_rates"]
    linear = [by_coin.get(name, by_coin["default"]) * is_flat for name in currencies.names]
    places = numbers.get("liquidation", {}).get("order", list(GROUPS))
    assert len(GROUPS) == NUM_GROUPS
    return LiquidationRules(
        slice_frac=_number(slices["fraction"]),
        min_usd=_number(slices["min_usd"]),
        max_slices=_whole(slices["max_slices"]),
        max_steps=_whole(slices["max_steps"]),
        taker_rate=_number(fees["taker_rate"]),
        spot_rate=_number(fees["spot_rate"]),
        option_cap=_number(fees["option_cap_share"]),
        uses_minimum_charge=_switch(slippage["model"] == "mr7"),
        minimum_charge_share=_number(slippage["mr7_share"]),
        multiplier=_whole(MULTIPLIERS[slippage["multiplier"]]),
        linear_rates=np.asarray(linear, np.float64),
        option_rate=_number(slippage["option_rate"] * is_flat),
        may_open=_switch(rules["ddh2"]["may_open"]),
        spot_quote=_whole(QUOTES.index(rules["basis"]["spot_quote"])),
        reduces_debts=_switch(rules["reduction"]["debts"]),
        lowest_rate_first=_switch(rules["repay"]["order"] == "lowest_discount_first"),
        min_debt_usd=_number(rules["repay"]["min_usd"]),
        repay_level=_number(numbers["levels"].get("repay", 0.0)),
        group_place=np.asarray([places.index(name) for name in GROUPS], np.int32),
        order=tuple(rules["stages"]["order"]),
    )


def listing_record(contracts: Contract, names: list[str], rules: dict[str, Any]) -> Listing:
    """The instrument axis for liquidations.

    Args:
        contracts: terms, the null contract in front.
        names: instrument ids in their order, without the null contract.
        rules: ``Liquidation.numbers()``: which perpetuals are opened, in which order.
    """
    order = rules["ddh2"]["perpetuals"]
    settle, kind = np.asarray(contracts.settle), np.asarray(contracts.kind)
    families = [QUOTES[k] if k < NUM_QUOTES else IN_COIN for k in settle]
    place = [order.index(f) if f in order else NO_PLACE for f in families]
    rank = np.zeros(len(kind), np.int32)
    rank[1 + np.argsort(np.asarray(names, dtype=object))] = np.arange(1, len(kind))
    return Listing(
        terms=contracts,
        name_rank=rank,
        hedge_place=np.where(kind == PERPETUAL, place, NO_PLACE).astype(np.int32),
    )


def _number(value: float | int) -> np.ndarray:
    return np.asarray(value, np.float64)


def _whole(value: float | int) -> np.ndarray:
    return np.asarray(value, np.int32)


def _switch(value: bool) -> np.ndarray:
    return np.asarray(value, bool)


def hedges(terms: Terms, listing: Listing) -> np.ndarray:
    """Perpetuals that may be opened, one row each: instrument, coin, settle currency."""
    found = np.flatnonzero(listing.hedge_place != NO_PLACE)
    return np.stack([found, terms.coin[found], terms.settle[found]], axis=1)
