"""What a margin model declares; the engine, results and reports know no model by name.

A model is one module of ``kernels/models`` with an :class:`AccountRules`-carrying parameter record
and a :class:`MarginModel`. It says (1) which columns it needs of every contract, and how a unit
adds them up over its legs, (2) in which scenarios contracts are repriced, (3) what a unit is
charged for the sums. Equity, collateral, borrowing, orders, levels and episodes are common.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int

from kernels.tiers import MarginalTiers, StepTiers


class DebtRules(eqx.Module):
    """What debts cost over time, and how assets pay them where an account may not borrow.

    Fields:
        quota: debt that pays no interest and is not paid back by force, units of the currency.
        daily_rate: interest on what is above, fraction a day.
        lowest_rate_first: whether the asset with the lowest discount rate is sold first.
        conversion_through: currency that every sale goes through.
        conversion_cost: share of its value that a sale loses in each step.
        name_rank: place of the currency among all by name; decides among equals.
    """

    quota: Float[Array, " currency"]
    daily_rate: Float[Array, " currency"]
    lowest_rate_first: Bool[Array, ""]
    conversion_through: Int[Array, ""]
    conversion_cost: Float[Array, ""]
    name_rank: Int[Array, " currency"]


class AccountRules(eqx.Module):
    """Numbers of the account level, alike in every model; ``currency`` rows, fractions.

    Fields:
        imr_factor: initial over maintenance margin of the units.
        collateral: value of positive equity, in USD where ``collateral_in_usd``, else coins.
        borrowing: rates of debts, likewise; borrow_fee_rate: see ``account.borrowing``.
        debts: what debts cost over time.
        potential_borrowing: whether open orders count as debts where equity does not cover them.
        spot_families: whether units of a settlement family may take spot in (split units).
        spot_limits, spot_orders: whether user limits hold and spot orders enter units.
        warning_level, liquidation_level, safe_level: margin levels, 1.0 = requirement met.
        min_equity_usd: undiscounted equity below which an account is not eligible.
    """

    imr_factor: Float[Array, ""]
    collateral: MarginalTiers
    collateral_in_usd: Bool[Array, " currency"]
    borrowing: StepTiers
    borrowing_in_usd: Bool[Array, " currency"]
    borrow_fee_rate: Float[Array, ""]
    debts: DebtRules
    potential_borrowing: Bool[Array, ""]
    spot_families: Bool[Array, " quote"]
    spot_limits: Bool[Array, ""]
    spot_orders: Bool[Array, ""]
    warning_level: Float[Array, ""]
    liquidation_level: Float[Array, ""]
    safe_level: Float[Array, ""]
    min_equity_usd: Float[Array, ""]


class MarginModel(NamedTuple):
    """One margin model: what its columns are, how they add up, what a unit is charged.

    Every function but ``pieces`` takes one element (a contract, a unit) at one time;
    ``contract_columns`` and ``scenarios`` at one or at several, times last.

    Fields:
        name: as in the ``model`` key of parameter files.
        charges: names of the charges and what reports call them, in the order of reports.
        borrow_charge: the charge of the account's debts, zero in units.
        how: one sentence on how the charges add up, for reports.
        num_columns, contract_columns: ``(contract, quote, now_s, currency_usd, features,
            params)`` -> columns of one contract, per contract held.
        signed, sized: columns whose sums over legs are weighted by n and by |n|.
        bucket: columns summed over the legs of an expiry bucket before ``fold`` sees them.
        num_folded, fold: ``(folded, bucket sums, columns of the last leg)`` -> running folds
            that a closed bucket adds to.
        num_scenarios, scenarios: functions ``(contract, quote, now_s, currency_usd, features,
            params)`` -> USD profit of one contract in each of its scenario columns; one after
            another they fill the columns.
        rates: ``(currency_usd, params)`` -> numbers that depend on the time only.
        spot: ``(equity_coin, exposure, limit_coin, coin, params)`` -> signed spot in the unit.
        unit_charges: ``(exposure, coin, coin_usd, spot_coin, rates, params)`` -> charges, USD.
        aggregate: ``(charges, params)`` -> requirement of a unit, USD.
        pieces: ``(charges by unit, borrow margin, available USD, params)`` -> the requirement as
            a function of the multiplier of each charge (``breakeven.Pieces``); of many accounts
            at once, accounts last.
        grid: ``(exposure, coin, coin_usd, spot_coin, params)`` -> USD profit of a unit in each
            cell, price moves outside, volatility down, same, up inside.
        grid_moves: ``params`` -> price moves of the grid by currency.
    """

    name: str
    charges: dict[str, str]
    borrow_charge: str
    how: str
    num_columns: int
    contract_columns: Callable[..., Any]
    signed: tuple[int, ...]
    sized: tuple[int, ...]
    bucket: tuple[int, ...]
    num_folded: int
    fold: Callable[..., Any]
    num_scenarios: int
    scenarios: tuple[Callable[..., Any], ...]
    rates: Callable[..., Any]
    spot: Callable[..., Any]
    unit_charges: Callable[..., Any]
    aggregate: Callable[..., Any]
    pieces: Callable[..., Any]
    grid: Callable[..., Any]
    grid_moves: Callable[..., Any]
