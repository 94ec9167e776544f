"""Accounts at one time or at several: equity, collateral, borrowing, orders, level, status.

The functions of one element work on scalars, or on vectors over times where the table has times;
the ``batch_`` functions are the one place that lays out the batch: portfolios and units outside,
then accounts, then times, so that every intermediate is a vector over accounts or over times. They
are the stages of a margin: exposures, charges, units, balances, totals, multipliers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels import status
from kernels.axes import alike_over_accounts, alike_over_times
from kernels.breakeven import Multipliers, last_roots
from kernels.exposure import unit_exposure
from kernels.model import AccountRules
from kernels.models import model_of
from kernels.records import (
    NUM_QUOTES,
    AccountMargin,
    Balances,
    Book,
    Charges,
    Exposure,
    Table,
    UnitMargin,
)
from kernels.stages import Apart
from kernels.tiers import marginal_charge, of_coin, step_rates


Exposures = tuple[Exposure | None, Exposure | None]
"""Of the units with options and of those without; axes ``portfolio unit account``."""

TIE = 1e-10
"""Portfolios of a unit whose requirement is this near the largest, as a fraction, are equal."""


def discounted_usd(
    equity: Float[Array, " *time"],
    currency_usd: Float[Array, " *time"],
    currency: Int[Array, ""],
    rules: AccountRules,
) -> Float[Array, " *time"]:
    """Collateral value in USD of the equity in one currency; a debt counts in full.

    Tiers count in units of the currency or in USD, as the parameter set says.
    """
    in_usd = of_coin(rules.collateral_in_usd, currency)
    amount = jnp.maximum(equity, 0.0) * jnp.where(in_usd, currency_usd, 1.0)
    value = marginal_charge(amount, rules.collateral, currency)
    value = value * jnp.where(in_usd, 1.0, currency_usd)
    return jnp.where(equity > 0, value, equity * currency_usd)


def borrowing(
    equity: Float[Array, " *time"],
    currency_usd: Float[Array, " *time"],
    currency: Int[Array, ""],
    out: Float[Array, " *time"],
    rules: AccountRules,
) -> tuple[Float[Array, " *time"], Float[Array, " *time"], Float[Array, " *time"]]:
    """Margin of the debt in one currency: (maintenance, initial, borrowing fee) in USD.

    ``out`` is what open orders may take out of the currency; where equity does not cover it, the
    rest is a potential debt.

    References:
        OKX portfolio margin rules, MR8 and margin level (sections 6 and 7).
    """
    debt = jnp.maximum(jnp.where(rules.potential_borrowing, out, 0.0) - equity, 0.0)
    in_usd = of_coin(rules.borrowing_in_usd, currency)
    amount = debt * jnp.where(in_usd, currency_usd, 1.0)
    mmr_rate, imr_rate = step_rates(amount, rules.borrowing, currency)
    debt_usd = debt * currency_usd
    fee = debt_usd * (1 + mmr_rate) * rules.borrow_fee_rate
    return debt_usd * mmr_rate, debt_usd * imr_rate, fee


def account_status(
    level: Float[Array, " *axes"],
    equity_usd: Float[Array, " *axes"],
    requirement_usd: Float[Array, " *axes"],
    rules: AccountRules,
) -> Int[Array, " *axes"]:
    """Status code of ``status.py``; the most serious that applies. NaN level = unpriced."""
    code = jnp.where(equity_usd < rules.min_equity_usd, status.INELIGIBLE, status.OK)
    code = jnp.where(level < rules.warning_level, status.WARNING, code)
    code = jnp.where(requirement_usd == 0, status.NO_REQUIREMENT, code)
    code = jnp.where(level <= rules.liquidation_level, status.LIQUIDATION, code)
    code = jnp.where(equity_usd < 0, status.BANKRUPT, code)
    return jnp.where(jnp.isnan(level), status.UNPRICED, code).astype(jnp.int32)


class Orders(NamedTuple):
    """The open orders of accounts; fields of ``Book``. They never depend on the time."""

    instrument: Int[Array, " order *account"]
    contracts: Float[Array, " order *account"]
    price: Float[Array, " order *account"]
    pays_premium: Bool[Array, " order *account"]
    out_currency: Int[Array, " order *account"]
    out_amount: Float[Array, " order *account"]


def orders_of(book: Book) -> Orders:
    """The open orders of accounts, apart from cash that may have times."""
    return Orders(
        book.order_instrument,
        book.order_contracts,
        book.order_price,
        book.order_pays_premium,
        book.order_out_currency,
        book.order_out_amount,
    )


def order_cost_usd(orders: Orders, table: Table) -> Float[Array, " *time"]:
    """What open orders take from the adjusted equity of one account: losses and premiums, USD.

    References:
        OKX portfolio margin rules, section 9.
    """
    terms = table.order_terms.at[orders.instrument].get(mode="promise_in_bounds")
    contracts = alike_over_times(orders.contracts, terms[:, 0])
    at_limit = contracts * alike_over_times(orders.price, terms[:, 0]) * terms[:, 0]
    loss = jnp.maximum(at_limit - contracts * terms[:, 1], 0.0)
    pays_premium = alike_over_times(orders.pays_premium, loss)
    return jnp.sum(jnp.where(pays_premium, at_limit, loss), axis=0)


def order_outflow(
    orders: Orders, table: Table, currency: Int[Array, " currency"]
) -> Float[Array, " currency *time"]:
    """What the resting orders of one account may take out of some currencies, units of each."""
    terms = table.order_terms.at[orders.instrument].get(mode="promise_in_bounds")
    amount = alike_over_times(orders.out_amount, terms[:, 2]) * terms[:, 2]
    mine = orders.out_currency[:, None] == currency[None, :]
    mine = alike_over_times(mine, amount[:, None])
    return jnp.sum(jnp.where(mine, amount[:, None], 0.0), axis=0)


def batch_exposures(book: Book, table: Table, params: Any) -> Exposures:
    """Exposures of the units with options and of those without.

    Accounts lie on the LAST axis of every field of the book.
    """
    model = model_of(params)
    num_option_units = book.option_instrument.shape[1]
    legs = book.leg_instrument, book.leg_contracts, book.leg_closes_bucket
    options = book.option_instrument, book.option_contracts, book.option_closes_bucket

    def batched(*arguments: Any) -> Exposure:
        def one(*lists: Any) -> Exposure:
            return unit_exposure(table, model, *lists)

        return jax.vmap(jax.vmap(jax.vmap(one, in_axes=-1)))(*arguments)

    with_options = linear = None
    if num_option_units:
        with_options = batched(tuple(x[:, :num_option_units] for x in legs), options)
    if book.leg_instrument.shape[1] > num_option_units:
        linear = batched(tuple(x[:, num_option_units:] for x in legs))
    return with_options, linear


def _joined(parts: list[Any], axis: int) -> Any:
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=axis), *parts)


def coin_equity(exposures: Exposures, book: Book) -> Float[Array, "unit account *time"]:
    """Equity of each unit's coin, in coins: of the whole account, whichever unit earns it."""
    parts = [e.coin_value[0] for e in exposures if e is not None]
    value = _joined(parts, axis=0)
    value = value + alike_over_times(book.coin_base, value)
    if not book.shares_coins:
        return value
    same = book.unit_coin[:, None] == book.unit_coin[None, :]
    same = alike_over_times(same, value[None])
    return jnp.sum(jnp.where(same, value[None], 0.0), axis=1)


def quote_equity(exposures: Exposures, book: Book) -> Float[Array, "quote account *time"]:
    """Equity of each account in the quote currencies, in their units."""
    positions = [tuple(v[0] for v in e.quote_value) for e in exposures if e is not None]
    values = _joined(positions, axis=0)
    value = jnp.stack([jnp.sum(v, axis=0) for v in values])
    return alike_over_times(book.quote_base, value) + value


def batch_charges(
    exposures: Exposures, book: Book, table: Table, params: Any
) -> tuple[Charges, Float[Array, "portfolio unit account *time"]]:
    """Charges and spot in use of every unit; axes ``portfolio unit account``."""
    model, rules = model_of(params), params.account
    equity = coin_equity(exposures, book)

    def one(exposure: Exposure, coin: Array, held: tuple[Array, ...], order: Array) -> Any:
        equity, takes, family, limit = held
        if book.shares_coins:
            takes = takes & of_coin(rules.spot_families, family)
        equity = equity + jnp.where(rules.spot_orders, order, 0.0)
        limit = jnp.where(rules.spot_limits, limit, jnp.inf)
        usd = of_coin(table.currency_usd, coin)
        spot = jnp.where(takes, model.spot(equity, exposure, limit, coin, params), 0.0)
        return model.unit_charges(exposure, coin, usd, spot, table.rates, params), spot

    of_account = jax.vmap(jax.vmap(one))
    of_portfolio = jax.vmap(of_account, in_axes=(0, None, None, 0))
    parts, start = [], 0
    for exposure in exposures:
        if exposure is not None:
            units = slice(start, start + exposure.coin_value.shape[1])
            start = units.stop
            of_units = equity, book.takes_spot, book.unit_family, book.spot_limit_coin
            held = tuple(x[units] for x in of_units)
            orders = book.spot_order_coin[:, units]
            parts.append(of_portfolio(exposure, book.unit_coin[units], held, orders))
    return _joined(parts, axis=1)


def binding_units(
    charges: Charges,
    spot_coin: Float[Array, "portfolio unit account *time"],
    exposures: Exposures,
    params: Any,
) -> UnitMargin:
    """Margin of every unit, that of the worst of its portfolios; axes ``unit account``."""
    mmr = model_of(params).aggregate(charges, params)
    largest = jnp.max(mmr, axis=0, keepdims=True)
    # An order that adds nothing changes the requirement by rounding alone: the positions bind.
    worst = jnp.argmax(jnp.isnan(mmr) | (mmr >= largest * (1 - TIE)), axis=0)

    def of_worst(x: Array) -> Array:
        return x[0] if len(x) == 1 else jnp.take_along_axis(x, worst[None], axis=0)[0]

    return UnitMargin(
        charges=jax.tree.map(of_worst, charges),
        mmr_usd=of_worst(mmr),
        portfolio=worst,
        spot_coin=of_worst(spot_coin),
        gross_usd=_joined([e.gross_usd[0] for e in exposures if e is not None], axis=0),
    )


def batch_units(exposures: Exposures, book: Book, table: Table, params: Any) -> UnitMargin:
    """Margin of every unit; axes ``unit account``, units with options first."""
    charges, spot_coin = batch_charges(exposures, book, table, params)
    return binding_units(charges, spot_coin, exposures, params)


def batch_balances(exposures: Exposures, book: Book, table: Table, params: Any) -> Balances:
    """What accounts hold in all currencies, as collateral and as debts, USD.

    The equity of a coin is counted in one unit, that which owns it. Coins and quote currencies
    stand on one axis, so that their tiers are looked up once.
    """
    coins = coin_equity(exposures, book)
    if book.shares_coins:
        coins = jnp.where(alike_over_times(book.owns_coin, coins), coins, 0.0)
    quotes = quote_equity(exposures, book)
    quote = jnp.arange(NUM_QUOTES, dtype=book.unit_coin.dtype)[:, None]
    quote = jnp.broadcast_to(quote, quotes.shape[:2])
    currency = jnp.concatenate([book.unit_coin, quote])
    equity = jnp.concatenate([coins, quotes])
    out = jnp.zeros_like(equity)
    if book.order_instrument.shape[0]:
        over_accounts = jax.vmap(order_outflow, in_axes=(-1, None, -1), out_axes=1)
        out = over_accounts(orders_of(book), table, currency)
        is_counted = jnp.concatenate([book.owns_coin, jnp.ones_like(currency[len(coins) :], bool)])
        out = jnp.where(alike_over_times(is_counted, out), out, 0.0)
    usd = of_coin(table.currency_usd, currency)
    # A quote currency that the account does not hold must not make it unpriced.
    is_quote = alike_over_times(jnp.arange(len(equity)) >= len(coins), equity)
    usd = jnp.where(is_quote & (equity == 0) & (out == 0), 1.0, usd)

    def worth(equity: Array, usd: Array, currency: Array, out: Array) -> Balances:
        collateral = discounted_usd(equity, usd, currency, params.account)
        debt = borrowing(equity, usd, currency, out, params.account)
        return Balances(equity * usd, collateral, *debt)

    each = jax.vmap(jax.vmap(worth))(equity, usd, currency, out)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)


def batch_totals(
    units: UnitMargin, balances: Balances, book: Book, table: Table, params: Any
) -> AccountMargin:
    """Accounts from their units (axes ``unit account``) and their balances, USD.

    ``margin level = adjusted equity / (total MMR + borrowing fee)``; NaN wherever something the
    account holds is unpriced. Break-even multipliers are left out (``batch_theta``).

    Args:
        units: margin of the units.
        balances: of the accounts.
        book: the accounts.
        table: the shared table at this time.
        params: the parameter set.

    References:
        OKX portfolio margin rules, sections 5 and 7; Bybit's MM rate is the inverse of the level.
    """
    model, rules = model_of(params), params.account
    total = jax.tree.map(lambda x: jnp.sum(x, axis=0), units)
    order_cost = jnp.zeros_like(total.mmr_usd)
    if book.order_instrument.shape[0]:
        order_cost = jax.vmap(order_cost_usd, in_axes=(-1, None))(orders_of(book), table)
    adjusted = balances.discounted_usd - order_cost
    total_mmr = total.mmr_usd + balances.borrow_mmr_usd
    requirement = total_mmr + balances.borrow_fee_usd
    level = jnp.where(requirement > 0, adjusted / requirement, jnp.inf)
    equity_usd = balances.equity_usd
    imr_factor = alike_over_accounts(rules.imr_factor, equity_usd)
    level = jnp.where(jnp.isnan(requirement + adjusted + equity_usd), jnp.nan, level)
    return AccountMargin(
        charges=total.charges | {model.borrow_charge: balances.borrow_mmr_usd},
        derivatives_mmr=total.mmr_usd,
        total_mmr=total_mmr,
        total_imr=imr_factor * total.mmr_usd + balances.borrow_imr_usd,
        borrow_imr=balances.borrow_imr_usd,
        borrow_fee=balances.borrow_fee_usd,
        order_cost=order_cost,
        equity_usd=equity_usd,
        adjusted_equity=adjusted,
        margin_level=level,
        gross_notional_usd=total.gross_usd,
        status=jax.vmap(account_status, in_axes=(0, 0, 0, None))(
            level, equity_usd, requirement, rules
        ),
    )


def batch_margin(
    apart: Apart, exposures: Exposures, book: Book, table: Table, params: Any
) -> tuple[UnitMargin, AccountMargin]:
    """Units and accounts, in the stages between which numbers are stored."""
    charges, spot_coin = apart(batch_charges, exposures, book, table, params)
    units = apart(binding_units, charges, spot_coin, exposures, params)
    balances = apart(batch_balances, exposures, book, table, params)
    return units, apart(batch_totals, units, balances, book, table, params)


def batch_theta(
    apart: Apart, units: UnitMargin, margin: AccountMargin, params: Any, highest: Multipliers
) -> Multipliers:
    """Break-even multipliers of accounts from their units (axes ``unit account``).

    Args:
        apart: see ``last_roots``.
        units: margin of the units.
        margin: of the accounts.
        params: the parameter set.
        highest: no result is above: inf, or the lowest multipliers of earlier times. Accounts
            alone: of several times the lowest are found.
    """
    model = model_of(params)
    # What is unpriced lowers no multiplier.
    available_usd = jnp.where(
        jnp.isnan(margin.margin_level), jnp.nan, margin.adjusted_equity - margin.borrow_fee
    )
    debt = margin.charges[model.borrow_charge]
    pieces = model.pieces(units.charges, debt, available_usd, params)
    return last_roots(pieces, highest, apart)
