"""Accounts at one time: equity, spot in use, collateral, borrowing, margin level, status.

``unit_margin`` and ``account_totals`` work on scalars of one unit and of one account;
``batch_margin`` is the one place that lays out the batch: units outside, accounts inside, so that
every intermediate is a vector over accounts.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels import breakeven, status
from kernels.exposure import unit_exposure
from kernels.models import okx
from kernels.models.okx import OkxParameters, of_coin
from kernels.records import NUM_QUOTES, AccountMargin, Book, Charges, Exposure, Table, UnitMargin
from kernels.tiers import marginal_charge, step_rates


def spot_in_use(
    equity_coin: Float[Array, ""], delta_coin: Float[Array, ""], limit_coin: Float[Array, ""]
) -> Float[Array, ""]:
    """Signed spot (or debt) of the coin that offsets the unit's derivatives, in coins.

    Held coins against a short delta, borrowed coins against a long one, up to the user's limit.

    Example: 10 coins of equity against a delta of -4 put 4 coins in use.
    """
    size = jnp.minimum(jnp.minimum(jnp.abs(equity_coin), jnp.abs(delta_coin)), limit_coin)
    opposed = equity_coin * delta_coin < 0
    return jnp.where(opposed, jnp.sign(equity_coin) * size, 0.0)


def discounted_usd(
    equity: Float[Array, ""],
    currency_usd: Float[Array, ""],
    currency: Int[Array, ""],
    params: OkxParameters,
) -> Float[Array, ""]:
    """Collateral value in USD of the equity in one currency; a debt counts in full.

    Tiers count in units of the currency or in USD, as the parameter set says.
    """
    in_usd = of_coin(params.collateral_in_usd, currency)
    amount = jnp.maximum(equity, 0.0) * jnp.where(in_usd, currency_usd, 1.0)
    value = marginal_charge(amount, params.collateral, currency)
    value = value * jnp.where(in_usd, 1.0, currency_usd)
    return jnp.where(equity > 0, value, equity * currency_usd)


def borrowing(
    equity: Float[Array, ""],
    currency_usd: Float[Array, ""],
    currency: Int[Array, ""],
    params: OkxParameters,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Margin of the debt in one currency: (MR8, borrowing IMR, borrowing fee) in USD.

    References:
        OKX portfolio margin rules, MR8 and margin level (sections 6 and 7).
    """
    debt = jnp.maximum(-equity, 0.0)
    in_usd = of_coin(params.borrowing_in_usd, currency)
    amount = debt * jnp.where(in_usd, currency_usd, 1.0)
    mmr_rate, imr_rate = step_rates(amount, params.borrowing, currency)
    debt_usd = debt * currency_usd
    fee = debt_usd * (1 + mmr_rate) * params.borrow_fee_rate
    return debt_usd * mmr_rate, debt_usd * imr_rate, fee


def account_status(
    level: Float[Array, ""],
    equity_usd: Float[Array, ""],
    requirement_usd: Float[Array, ""],
    params: OkxParameters,
) -> Int[Array, ""]:
    """Status code of ``status.py``; the most serious that applies. NaN level = unpriced."""
    code = jnp.where(equity_usd < params.min_equity_usd, status.INELIGIBLE, status.OK)
    code = jnp.where(level < params.warning_level, status.WARNING, code)
    code = jnp.where(requirement_usd == 0, status.NO_REQUIREMENT, code)
    code = jnp.where(level <= params.liquidation_level, status.LIQUIDATION, code)
    code = jnp.where(equity_usd < 0, status.BANKRUPT, code)
    return jnp.where(jnp.isnan(level), status.UNPRICED, code).astype(jnp.int32)


def unit_margin(
    exposure: Exposure,
    coin: Int[Array, ""],
    coin_base: Float[Array, ""],
    spot_limit_coin: Float[Array, ""],
    table: Table,
    params: OkxParameters,
) -> UnitMargin:
    """One risk unit: charges of its derivatives and spot, value and debt of its coin, USD."""
    coin_usd = of_coin(table.currency_usd, coin)
    equity_coin = coin_base + exposure.coin_value
    spot_coin = spot_in_use(equity_coin, exposure.delta_coin, spot_limit_coin)
    charges = okx.unit_charges(exposure, coin, coin_usd, spot_coin, table.rates, params)
    borrow_mmr, borrow_imr, borrow_fee = borrowing(equity_coin, coin_usd, coin, params)
    return UnitMargin(
        charges=charges,
        mmr_usd=okx.aggregate(charges, params),
        spot_coin=spot_coin,
        equity_usd=equity_coin * coin_usd,
        discounted_usd=discounted_usd(equity_coin, coin_usd, coin, params),
        borrow_mmr_usd=borrow_mmr,
        borrow_imr_usd=borrow_imr,
        borrow_fee_usd=borrow_fee,
        quote_value=exposure.quote_value,
        gross_usd=exposure.gross_usd,
    )


def account_totals(
    units: UnitMargin,
    quote_base: Float[Array, " quote"],
    table: Table,
    params: OkxParameters,
) -> AccountMargin:
    """One account from its units and its balances in the quote currencies, USD.

    ``margin level = adjusted equity / (total MMR + borrowing fee)``; NaN wherever something the
    account holds is unpriced. Break-even multipliers are left out (``breakeven.py``).

    Args:
        units: the account's units (fields have the unit axis).
        quote_base: cash plus entry value by quote currency.
        table: the shared table at this time.
        params: the parameter set.

    References:
        OKX portfolio margin rules, sections 5 and 7.
    """
    total = jax.tree.map(lambda x: jnp.sum(x, axis=0), units)
    quote = jnp.arange(NUM_QUOTES, dtype=jnp.int32)
    equity = quote_base + jnp.stack(total.quote_value)
    # A quote currency that the account does not hold must not make it unpriced.
    usd = jnp.where(equity == 0, 1.0, table.currency_usd[:NUM_QUOTES])
    of_quote = (0, 0, 0, None)
    debts = jax.vmap(borrowing, in_axes=of_quote)(equity, usd, quote, params)
    collateral = jax.vmap(discounted_usd, in_axes=of_quote)(equity, usd, quote, params)
    mr8 = total.borrow_mmr_usd + jnp.sum(debts[0])
    borrow_imr = total.borrow_imr_usd + jnp.sum(debts[1])
    fee = total.borrow_fee_usd + jnp.sum(debts[2])
    equity_usd = total.equity_usd + jnp.sum(equity * usd)
    adjusted = total.discounted_usd + jnp.sum(collateral)
    total_mmr = total.mmr_usd + mr8
    requirement = total_mmr + fee
    level = jnp.where(requirement > 0, adjusted / requirement, jnp.inf)
    level = jnp.where(jnp.isnan(requirement + adjusted + equity_usd), jnp.nan, level)
    names = list(Charges.__dataclass_fields__)
    sums = {name: getattr(total.charges, name) for name in names}
    return AccountMargin(
        charges=Charges(**(sums | {"mr8": mr8})),
        derivatives_mmr=total.mmr_usd,
        total_mmr=total_mmr,
        total_imr=params.imr_factor * total.mmr_usd + borrow_imr,
        borrow_imr=borrow_imr,
        borrow_fee=fee,
        equity_usd=equity_usd,
        adjusted_equity=adjusted,
        margin_level=level,
        gross_notional_usd=total.gross_usd,
        theta=None,
        status=account_status(level, equity_usd, requirement, params),
    )


def batch_exposures(book: Book, table: Table) -> tuple[Exposure | None, Exposure | None]:
    """Exposures of the units with options and of those without; axes ``unit account``.

    Accounts lie on the LAST axis of every field of the book.
    """
    num_option_units = book.option_instrument.shape[0]
    legs = book.leg_instrument, book.leg_contracts, book.leg_closes_bucket
    options = book.option_instrument, book.option_contracts, book.option_closes_bucket

    def batched(*arguments: Any) -> Exposure:
        over_accounts = jax.vmap(lambda *a: unit_exposure(table, *a), in_axes=-1)
        return jax.vmap(over_accounts, in_axes=0)(*arguments)

    with_options = linear = None
    if num_option_units:
        with_options = batched(tuple(x[:num_option_units] for x in legs), options)
    if book.leg_instrument.shape[0] > num_option_units:
        linear = batched(tuple(x[num_option_units:] for x in legs))
    return with_options, linear


def batch_units(
    exposures: tuple[Exposure | None, Exposure | None],
    book: Book,
    table: Table,
    params: OkxParameters,
) -> UnitMargin:
    """Margin of every unit; axes ``unit account``, units with options first."""

    def one(exposure: Exposure, coin: Array, coin_base: Array, limit: Array) -> UnitMargin:
        return unit_margin(exposure, coin, coin_base, limit, table, params)

    batched = jax.vmap(jax.vmap(one))
    parts, start = [], 0
    for exposure in exposures:
        if exposure is not None:
            units = slice(start, start + exposure.coin_value.shape[0])
            held = book.unit_coin[units], book.coin_base[units], book.spot_limit_coin[units]
            parts.append(batched(exposure, *held))
            start = units.stop
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts) if len(parts) > 1 else parts[0]


def batch_totals(
    units: UnitMargin, book: Book, table: Table, params: OkxParameters
) -> AccountMargin:
    """Accounts from their units (axes ``unit account``), without break-even multipliers."""

    def one(units: UnitMargin, quote_base: Array) -> AccountMargin:
        return account_totals(units, quote_base, table, params)

    return jax.vmap(one, in_axes=-1)(units, book.quote_base)


def batch_theta(units: UnitMargin, margin: AccountMargin, params: OkxParameters) -> Charges:
    """Break-even multipliers of accounts from their units (axes ``unit account``)."""

    def one(charges: Charges, mr8: Array, available_usd: Array) -> Charges:
        return breakeven.multipliers(charges, mr8, available_usd, params)

    available_usd = margin.adjusted_equity - margin.borrow_fee
    return jax.vmap(one, in_axes=-1)(units.charges, margin.charges.mr8, available_usd)


def batch_margin(book: Book, table: Table, params: OkxParameters) -> AccountMargin:
    """Every charge, requirement, level, multiplier and status of accounts at one time.

    Args:
        book: accounts on the LAST axis of every field.
        table: the shared table at this time under this set.
        params: the parameter set.

    Returns:
        An ``AccountMargin`` whose fields have the account axis.
    """
    units = batch_units(batch_exposures(book, table), book, table, params)
    margin = batch_totals(units, book, table, params)
    return eqx.tree_at(
        lambda m: m.theta, margin, batch_theta(units, margin, params), is_leaf=lambda x: x is None
    )
