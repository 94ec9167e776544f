"""Tier tables and account rules of parameter sets as kernel records; alike in every model."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from backtest import precision as precision
from backtest.errors import ConfigError
from backtest.model_records import Currencies
from kernels.model import AccountRules, DebtRules
from kernels.records import NUM_QUOTES, QUOTES
from kernels.tiers import MarginalTiers, StepTiers


MAX_DOUBLINGS = 60
"""Borrow tails that grow by a ratio are listed this many tiers far (2^60 times the last bound)."""


def account_rules(
    numbers: dict[str, Any],
    currencies: Currencies,
    *,
    imr_factor: float,
    borrow_tiers: dict[str, Any],
    borrow_fee_rate: float,
    potential_borrowing: bool,
) -> AccountRules:
    """Rules of the account level from the tables that every model's numbers hold.

    ``units`` says which spot enters units; a set without it lets all of it in.
    """
    if numbers["quote_currencies"] != list(QUOTES):
        raise ConfigError(
            f"quote_currencies {numbers['quote_currencies']}: this version supports {list(QUOTES)}"
        )
    collateral, collateral_in_usd = collateral_tiers(numbers["collateral"], currencies)
    borrowing, borrowing_in_usd = borrowing_tiers(borrow_tiers, currencies)
    levels, units = numbers["levels"], numbers.get("units", {})
    modes = units.get("spot_modes")
    families = [modes is None or name in modes for name in QUOTES]
    assert len(families) == NUM_QUOTES
    return AccountRules(
        imr_factor=floats(imr_factor),
        collateral=collateral,
        collateral_in_usd=collateral_in_usd,
        borrowing=borrowing,
        borrowing_in_usd=borrowing_in_usd,
        borrow_fee_rate=floats(borrow_fee_rate),
        debts=debt_rules(numbers["borrowing"], currencies),
        potential_borrowing=jnp.asarray(potential_borrowing),
        spot_families=jnp.asarray(families),
        spot_limits=jnp.asarray(units.get("spot_limits", True)),
        spot_orders=jnp.asarray(units.get("spot_orders", True)),
        warning_level=floats(levels["warning"]),
        liquidation_level=floats(levels["liquidation"]),
        safe_level=floats(levels["safe"]),
        min_equity_usd=floats(levels["min_equity_usd"]),
    )


def debt_rules(borrowing: dict[str, Any], currencies: Currencies) -> DebtRules:
    """Rules of debts over time; a set without them asks no interest and sells nothing."""
    names = currencies.names

    def by_currency(key: str, without: float) -> Array:
        table = borrowing.get(key, {"default": without})
        return floats([table.get(name, table["default"]) for name in names])

    ascending = sorted(range(len(names)), key=names.__getitem__)
    through = borrowing.get("conversion_through", QUOTES[0])
    return DebtRules(
        quota=by_currency("quotas", np.inf),
        daily_rate=by_currency("daily_rates", 0.0),
        lowest_rate_first=jnp.asarray(
            borrowing.get("conversion_order", "lowest_discount_first") == "lowest_discount_first"
        ),
        conversion_through=jnp.asarray(currencies.position.get(through, -1), jnp.int32),
        conversion_cost=floats(borrowing.get("conversion_cost", 0.0)),
        name_rank=jnp.asarray(np.argsort(ascending), jnp.int32),
    )


def floats(values: Any) -> Array:
    """A float64 array."""
    return jnp.asarray(np.asarray(values, np.float64))


def marginal_tiers(rows: list[tuple[list[float], list[float]]], width: int) -> MarginalTiers:
    """Tier tables from (bounds between tiers, rates of the tiers) per currency."""
    floor = np.full((len(rows), width), np.inf)
    rate, base = np.zeros_like(floor), np.zeros_like(floor)
    for k, (bounds, rates) in enumerate(rows):
        if len(rates) > width:
            raise ConfigError(f"{len(rates)} tiers in one table, at most {width} are supported")
        starts = np.concatenate([[0.0], bounds])
        floor[k, : len(rates)] = starts
        rate[k, : len(rates)] = rates
        base[k, 1 : len(rates)] = np.cumsum(np.diff(starts) * np.asarray(rates)[:-1])
    return MarginalTiers(floor=floats(floor), rate=floats(rate), base=floats(base))


def collateral_tiers(table: dict[str, Any], currencies: Currencies) -> tuple[MarginalTiers, Array]:
    """Collateral value of each currency, and whether its tiers count in USD."""
    rows, in_usd = [], []
    for name in currencies.names:
        tiers = table.get(name, table["default"])
        bounds, rates = list(tiers["bounds"]), list(tiers["rates"])
        # Beyond the last bound nothing counts; without bounds one rate holds for all.
        rows.append((bounds, [*rates, 0.0] if bounds else rates))
        in_usd.append(tiers["unit"] == "usd")
    return marginal_tiers(rows, 128), jnp.asarray(in_usd)


def borrowing_tiers(table: dict[str, Any], currencies: Currencies) -> tuple[StepTiers, Array]:
    """Borrowing rates of each currency, and whether its tiers count in USD."""
    names, width = currencies.names, 64
    floor = np.full((len(names), width), np.inf)
    mmr, imr = np.zeros_like(floor), np.zeros_like(floor)
    last, step, rate_step = np.full(len(names), np.inf), np.zeros(len(names)), np.zeros(len(names))
    for k, name in enumerate(names):
        tiers = table.get(name, table["default"])
        bounds, rates = list(tiers["bounds"]), [list(tiers["mmr"]), list(tiers["imr"])]
        if tiers["tail_ratio"] > 1:
            for _ in range(min(MAX_DOUBLINGS, width - 1 - len(bounds))):
                bounds.append(bounds[-1] * tiers["tail_ratio"])
                for column in rates:
                    column.append(column[-1] + tiers["tail_rate_step"])
        elif tiers["tail_step"] > 0:
            last[k], step[k] = bounds[-1], tiers["tail_step"]
            rate_step[k] = tiers["tail_rate_step"]
        starts = [0.0, *bounds[:-1]]
        floor[k, : len(starts)] = starts
        mmr[k, : len(starts)], imr[k, : len(starts)] = rates
    record = StepTiers(
        floor=floats(floor),
        mmr=floats(mmr),
        imr=floats(imr),
        last=floats(last),
        tail_step=floats(step),
        tail_rate_step=floats(rate_step),
    )
    in_usd = [table.get(n, table["default"])["unit"] == "usd" for n in names]
    return record, jnp.asarray(in_usd)
