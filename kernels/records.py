"""Array records of the kernels, with the glossary of axes, units and signs.

Axes (singular, one spelling everywhere; records describe ONE account, one time, one set):

* ``currency``: the quote currencies first, then a null currency (index 1 USD, never held), then
  the coins; the number of quote currencies is ``NUM_QUOTES``;
* ``quote``: settlement currencies in the order of ``QUOTES``;
* ``instrument``: contracts; instrument 0 is the null contract that pads books, all zeros;
* ``unit``: risk units of an account, those with options first; one coin each, and in split units
  one settlement family each;
* ``leg``: contracts of a unit without optionality, perpetuals first, then by expiry;
* ``option_unit``, ``option_leg``: units that hold options, and their expiring contracts
  (options and futures) by expiry: these are the legs that need every scenario column;
* ``portfolio``: the positions alone, or with the orders of one direction filled;
* ``order``: open orders; ``scenario``: scenario columns of a margin model; ``charge``: its charges;
* ``tier``, ``pair``, ``node``: rows of tier tables, stablecoin pairs, volatility nodes.

Units: ``_usd`` US dollars, ``_coin`` coins, ``_frac`` fractions, ``_yr`` years (ACT/365);
prices follow the contract (see :class:`Contract`). Signs: long > 0, gain > 0, margin >= 0.
NaN in a value means *unpriced* and spreads to everything that needs it.

A leading ``*`` in an annotation stands for the axes of the batch that a record may carry besides
those of its one element: ``*account`` last in books, ``*time`` last in tables, ``*axes`` for
units, accounts and times of results. Functions of one element whose numbers carry ``*time`` take
one time or several at once.
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int


if TYPE_CHECKING:
    Values = Any
else:
    Values = Array | np.ndarray
"""Device or host arrays: batching builds records on the host."""

QUOTES = ("USDT", "USDC", "USD")
NUM_QUOTES = len(QUOTES)
NULL_CURRENCY = NUM_QUOTES

NULL, SPOT, PERPETUAL, FUTURE, OPTION = range(5)
"""Contract kinds."""


class Contract(eqx.Module):
    """Static terms of one contract.

    Fields:
        kind: ``NULL`` ... ``OPTION``.
        is_inverse: profit in coins, multiplier in USD (options: False, see ``settle``).
        multiplier: coins a contract; USD for inverse.
        strike_usd: strike of an option, else 0.
        call_sign: +1 call, -1 put, 0 else.
        expiry_s: seconds since the epoch, inf = none.
        coin, settle: positions on the currency axis.
    """

    kind: Int[Values, " *batch"]
    is_inverse: Bool[Values, " *batch"]
    multiplier: Float[Values, " *batch"]
    strike_usd: Float[Values, " *batch"]
    call_sign: Float[Values, " *batch"]
    expiry_s: Float[Values, " *batch"]
    coin: Int[Values, " *batch"]
    settle: Int[Values, " *batch"]


class Quote(eqx.Module):
    """Market data of one contract at one time, known at that time.

    Fields:
        mark: settle per coin (linear), USD per coin (inverse), coins per coin (option);
            NaN where missing or too old.
        forward_usd, iv: forward and mark volatility (fraction a year) of an option, else NaN.
        settlement: final index in USD per coin once expired, NaN before.
        settlement_fx: USD per unit of the settle currency at settlement, NaN before.
        funding: cumulative funding paid by one long contract since the snapshot, settle units.
    """

    mark: Float[Values, " *batch"]
    forward_usd: Float[Values, " *batch"]
    iv: Float[Values, " *batch"]
    settlement: Float[Values, " *batch"]
    settlement_fx: Float[Values, " *batch"]
    funding: Float[Values, " *batch"]


class Table(eqx.Module):
    """Everything one contract contributes, per contract held; one parameter set, one time or more.

    Fields:
        features: linear in the position, the same for every parameter set (``features.py``).
        columns: what the margin model needs besides them, by parameter set.
        scenarios: USD profit of one contract in each scenario column; may be float32.
        order_terms: what an open order in the contract costs (``features.order_terms``).
        currency_usd: USD per unit of each currency, NaN = unpriced.
        rates: rates of the model that depend on the time only (OKX: pair x tier of MR9).
    """

    features: Float[Values, "instrument feature *time"]
    columns: Float[Values, "instrument model_column *time"]
    scenarios: Float[Values, "instrument scenario *time"]
    order_terms: Float[Values, "instrument order_term *time"]
    currency_usd: Float[Values, " currency *time"]
    rates: Float[Values, "rate_row rate_column *time"]


class Book(eqx.Module):
    """One account's portfolio, padded to its width class.

    With open orders there are three portfolios: the positions, these with every order that adds
    positive delta filled, and with every order that adds negative delta; else the first alone.

    Fields:
        unit_coin: currency index of each unit's coin (``NULL_CURRENCY`` pads).
        unit_family: settlement family of the unit (position among ``QUOTES``); split units only.
        owns_coin: whether the coin's equity is counted in this unit (one unit of each coin).
        takes_spot: whether spot may be in use in this unit.
        coin_base: cash plus entry value, in coins: equity = base + sum contracts * value.
        coin_cash, quote_cash: the cash in them; auto_borrows: whether the account may borrow.
        spot_order_coin: coins that the spot orders of a portfolio bring in (0 in the first).
        spot_limit_coin: user limit on spot in use, inf = none.
        quote_base: the same base for the quote currencies.
        leg_*: legs without optionality; ``leg_closes_bucket`` marks the last leg of an expiry.
        option_*: expiring legs of the first units, those which hold options.
        order_instrument, order_contracts: open orders; order_price: limit as an order's terms
            take it (``features.order_terms``); order_pays_premium: a bought option.
        order_out_currency, order_out_amount: what an order may have to borrow, units of it.
        shares_coins: whether several units may hold one coin (split units).
    """

    unit_coin: Int[Values, " unit *account"]
    unit_family: Int[Values, " unit *account"]
    owns_coin: Bool[Values, " unit *account"]
    takes_spot: Bool[Values, " unit *account"]
    coin_base: Float[Values, " unit *account"]
    spot_order_coin: Float[Values, " portfolio unit *account"]
    spot_limit_coin: Float[Values, " unit *account"]
    quote_base: Float[Values, " quote *account"]
    coin_cash: Float[Values, " unit *account"]
    quote_cash: Float[Values, " quote *account"]
    auto_borrows: Bool[Values, " *account"]
    leg_instrument: Int[Values, " portfolio unit leg *account"]
    leg_contracts: Float[Values, " portfolio unit leg *account"]
    leg_closes_bucket: Bool[Values, " portfolio unit leg *account"]
    option_instrument: Int[Values, " portfolio option_unit option_leg *account"]
    option_contracts: Float[Values, " portfolio option_unit option_leg *account"]
    option_closes_bucket: Bool[Values, " portfolio option_unit option_leg *account"]
    order_instrument: Int[Values, " order *account"]
    order_contracts: Float[Values, " order *account"]
    order_price: Float[Values, " order *account"]
    order_pays_premium: Bool[Values, " order *account"]
    order_out_currency: Int[Values, " order *account"]
    order_out_amount: Float[Values, " order *account"]
    shares_coins: bool = eqx.field(static=True, default=False)


class Exposure(eqx.Module):
    """One risk unit, reduced from its legs: all that a margin model may look at.

    Fields:
        quote_value: value of contracts by quote currency, in its units.
        coin_value: value of contracts settled in the coin, in coins.
        cash_usd: mark-based cash delta by settlement group (inverse and options in USD).
        delta_coin: net delta of the derivatives, options premium adjusted.
        linear_delta_coin: the part of it from legs without optionality.
        gross_usd: gross notional.
        signed, sized, folded: sums of the model's columns, as :class:`kernels.model.MarginModel`
            asks for them.
        scenario_usd: profit of the expiring legs in each scenario column.
    """

    quote_value: tuple[Float[Values, " *axes"], ...]
    coin_value: Float[Values, " *axes"]
    cash_usd: tuple[Float[Values, " *axes"], ...]
    delta_coin: Float[Values, " *axes"]
    linear_delta_coin: Float[Values, " *axes"]
    gross_usd: Float[Values, " *axes"]
    signed: tuple[Float[Values, " *axes"], ...]
    sized: tuple[Float[Values, " *axes"], ...]
    folded: tuple[Float[Values, " *axes"], ...]
    scenario_usd: Float[Values, " scenario *axes"] | None


Charges = dict[str, Values]
"""Charges of a margin model by name in USD, each >= 0 (debts are charged on the account)."""


class UnitMargin(eqx.Module):
    """One risk unit at one time.

    Fields:
        charges, mmr_usd: charges of the portfolio that binds, and their aggregate.
        portfolio: which portfolio binds, 0 = the positions (the first of equal ones).
        spot_coin: signed spot in use in it.
        gross_usd: gross notional of the positions.
    """

    charges: dict[str, Float[Values, " *axes"]]
    mmr_usd: Float[Values, " *axes"]
    portfolio: Int[Values, " *axes"]
    spot_coin: Float[Values, " *axes"]
    gross_usd: Float[Values, " *axes"]


class Balances(eqx.Module):
    """What an account holds in its currencies, added up, USD.

    Fields:
        equity_usd: at the index; discounted_usd: as collateral, debts in full.
        borrow_mmr_usd, borrow_imr_usd, borrow_fee_usd: margin and fee of the debts.
    """

    equity_usd: Float[Values, " *axes"]
    discounted_usd: Float[Values, " *axes"]
    borrow_mmr_usd: Float[Values, " *axes"]
    borrow_imr_usd: Float[Values, " *axes"]
    borrow_fee_usd: Float[Values, " *axes"]


class AccountMargin(eqx.Module):
    """One account at one time under one parameter set; USD unless the name says otherwise.

    Fields:
        charges: every charge summed over units, that of the debts once.
        order_cost: loss and premium of open orders, which leave the adjusted equity.
        margin_level: adjusted equity over requirement, inf = nothing required.
        status: see ``status.py``.
    """

    charges: dict[str, Float[Values, " *axes"]]
    derivatives_mmr: Float[Values, " *axes"]
    total_mmr: Float[Values, " *axes"]
    total_imr: Float[Values, " *axes"]
    borrow_imr: Float[Values, " *axes"]
    borrow_fee: Float[Values, " *axes"]
    order_cost: Float[Values, " *axes"]
    equity_usd: Float[Values, " *axes"]
    adjusted_equity: Float[Values, " *axes"]
    margin_level: Float[Values, " *axes"]
    gross_notional_usd: Float[Values, " *axes"]
    status: Int[Values, " *axes"]
