"""Debts over time: hourly interest, and conversion of assets where an account may not borrow.

What an account's balances do between two times because of its debts. A *holding* is the coin of
a unit or one of the quote currencies: units first, in the order of the book, then ``QUOTES``. A
coin that several units share is held by the unit that owns it; the others hold nothing.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.account import Exposures, coin_equity, discounted_usd, quote_equity
from kernels.axes import alike_over_times
from kernels.model import AccountRules
from kernels.records import NULL_CURRENCY, NUM_QUOTES, Book, Table, Values
from kernels.tiers import of_coin


class Ledger(eqx.Module):
    """What the debts of an account have moved.

    Fields:
        change_units: since the account's snapshot, by currency in its units.
        interest_usd: interest paid so far, at the index of each time.
        converted_usd: assets sold for debts so far; conversions: times at which that happened.
    """

    change_units: Float[Values, " currency *account"]
    interest_usd: Float[Values, " *account"]
    converted_usd: Float[Values, " *account"]
    conversions: Int[Values, " *account"]


class Holdings(eqx.Module):
    """What one account holds at one time, by holding.

    Fields:
        currency: currency index; usd: its index price.
        equity_units: equity without what debts have moved; cash_units: the part that is cash.
    """

    currency: Int[Array, " holding *account"]
    usd: Float[Array, " holding *axes"]
    equity_units: Float[Array, " holding *axes"]
    cash_units: Float[Array, " holding *account"]

    def at(self, time: Int[Array, ""]) -> "Holdings":
        """At one of several times, which are the last axis of what changes with them."""
        usd, equity = self.usd[..., time], self.equity_units[..., time]
        return Holdings(self.currency, usd, equity, self.cash_units)


def hourly_interest(
    equity: Float[Array, " holding"],
    currency: Int[Array, " holding"],
    hours: Float[Array, ""],
    rules: AccountRules,
) -> Float[Array, " holding"]:
    """Interest on the part of each debt above its quota, units of the currency, >= 0.

    References:
        OKX portfolio margin rules, section 8.
    """
    charged = jnp.maximum(jnp.maximum(-equity, 0.0) - of_coin(rules.debts.quota, currency), 0.0)
    return charged * of_coin(rules.debts.daily_rate, currency) / 24.0 * hours


def converted(
    equity: Float[Array, " holding"],
    cash: Float[Array, " holding"],
    currency: Int[Array, " holding"],
    usd: Float[Array, " holding"],
    rules: AccountRules,
) -> tuple[Float[Array, " holding"], Float[Array, ""]]:
    """Sale of assets for the debts above their quota: (change in units, USD sold) of one account.

    The largest debt first; assets in the order of their discount rate, no more of one than its
    cash and its equity, each sale at the cost of its steps.

    References:
        OKX portfolio margin rules, section 8; ``backtest.reference.okx_borrowing.convert``.
    """
    debts = rules.debts
    equity_usd = jnp.where(equity == 0, 0.0, equity * usd)
    worth = jax.vmap(discounted_usd, in_axes=(0, 0, 0, None))(equity, usd, currency, rules)
    rate = jnp.where(debts.lowest_rate_first, 1.0, -1.0) * worth / equity_usd
    left = jnp.maximum(jnp.minimum(equity, cash), 0.0)
    name = of_coin(debts.name_rank, currency)
    assets = jnp.lexsort((name, jnp.where(left > 0, rate, jnp.inf)))
    owing = jnp.lexsort((name, equity_usd))
    due = jnp.where(-equity > of_coin(debts.quota, currency), -equity, 0.0)
    kept = 1.0 - debts.conversion_cost
    is_through = currency == debts.conversion_through
    size = len(owing)

    def pay(k: Array, so_far: tuple[Array, ...]) -> tuple[Array, ...]:
        """Sell the asset in place ``k % size`` for the debt in place ``k // size``."""
        change, left, owed, sold_usd = so_far
        debt, asset = owing[k // size], assets[k % size]
        owed = jnp.where(k % size == 0, due[debt], owed)
        is_direct = is_through[debt] | is_through[asset]
        price = usd[asset] / usd[debt] * jnp.where(is_direct, kept, kept * kept)
        can_sell = (owed > 0) & (left[asset] > 0)
        whole = owed / price > left[asset]
        amount = jnp.where(can_sell, jnp.where(whole, left[asset], owed / price), 0.0)
        paid = jnp.where(can_sell, jnp.where(whole, left[asset] * price, owed), 0.0)
        sold_usd = sold_usd + jnp.where(can_sell, amount * usd[asset], 0.0)
        change = change.at[asset].add(-amount).at[debt].add(paid)
        return change, left.at[asset].add(-amount), owed - paid, sold_usd

    none = jnp.zeros_like(equity[0])
    start = jnp.zeros_like(equity), left, none, none
    change, _, _, sold_usd = jax.lax.fori_loop(0, size * size, pay, start)
    return change, sold_usd


def held_by(exposures: Exposures, book: Book, table: Table) -> Holdings:
    """Holdings of all accounts of a tile at one time, accounts last, or at several."""
    owns = book.owns_coin & (book.unit_coin != NULL_CURRENCY)
    coins = coin_equity(exposures, book)
    coins = jnp.where(alike_over_times(owns, coins), coins, 0.0)
    quotes = quote_equity(exposures, book)
    shape = quotes.shape[:2]
    quote = jnp.broadcast_to(jnp.arange(NUM_QUOTES, dtype=book.unit_coin.dtype)[:, None], shape)
    currency = jnp.concatenate([book.unit_coin, quote])
    return Holdings(
        currency=currency,
        usd=of_coin(table.currency_usd, currency),
        equity_units=jnp.concatenate([coins, quotes]),
        cash_units=jnp.concatenate([book.coin_cash, book.quote_cash]),
    )


def at_start(ledger: Ledger, book: Book) -> Float[Array, "holding account"]:
    """What debts have moved before, by holding."""
    mine = jnp.take_along_axis(ledger.change_units, book.unit_coin, axis=0)
    owns = book.owns_coin & (book.unit_coin != NULL_CURRENCY)
    return jnp.concatenate([jnp.where(owns, mine, 0.0), ledger.change_units[:NUM_QUOTES]])


def by_currency(
    change: Float[Array, "holding account"], book: Book, num_currencies: int
) -> Float[Array, "currency account"]:
    """The same by currency, as a ledger keeps it."""
    units = len(book.unit_coin)
    coin = jnp.arange(NUM_QUOTES, num_currencies, dtype=book.unit_coin.dtype)
    is_of_coin = book.unit_coin[None] == coin[:, None, None]
    coins = jnp.sum(jnp.where(is_of_coin, change[None, :units], 0.0), axis=1)
    return jnp.concatenate([change[units:], coins])


def with_changes(book: Book, change: Float[Array, "holding account *time"]) -> Book:
    """The book with what debts have moved by some time, or by each of several."""
    units = len(book.unit_coin)
    coins, quotes = (alike_over_times(x, change) for x in (book.coin_base, book.quote_base))
    bases = coins + change[:units], quotes + change[units:]
    return eqx.tree_at(lambda b: (b.coin_base, b.quote_base), book, bases)


Moved = tuple[Array, Array, Array, Array]
"""What debts have moved so far: by holding and account; interest, sold USD, sales by account."""


def step(
    so_far: Moved,
    held: Holdings,
    may_sell: Bool[Array, " account"],
    hours: Float[Array, ""],
    rules: AccountRules,
) -> Moved:
    """One time of a tile: interest first, then conversions where they are due.

    A currency that is unpriced pays no interest; an account that holds one is not converted.

    Args:
        so_far: what debts have moved until now.
        held: the holdings now.
        may_sell: accounts whose assets are sold for their debts.
        hours: full hours since the time before.
        rules: the rules now.
    """
    change, interest_usd, sold_usd, sales = so_far
    over_accounts = jax.vmap(hourly_interest, in_axes=(-1, -1, None, None), out_axes=-1)
    interest = over_accounts(held.equity_units + change, held.currency, hours, rules)
    paid_usd = jnp.where(interest > 0, interest * held.usd, 0.0)
    is_priced = ~jnp.isnan(paid_usd)
    change = change - jnp.where(is_priced, interest, 0.0)
    interest_usd = interest_usd + jnp.sum(jnp.where(is_priced, paid_usd, 0.0), axis=0)

    equity, cash = held.equity_units + change, held.cash_units + change
    is_unpriced = jnp.any((equity != 0) & jnp.isnan(equity * held.usd), axis=0)
    is_above = jnp.any(-equity > of_coin(rules.debts.quota, held.currency), axis=0)
    has_assets = jnp.any(jnp.minimum(equity, cash) > 0, axis=0)
    is_due = may_sell & is_above & has_assets & ~is_unpriced

    def sell() -> tuple[Array, Array]:
        each = jax.vmap(converted, in_axes=(-1, -1, -1, -1, None), out_axes=-1)
        moved, usd = each(equity, cash, held.currency, held.usd, rules)
        return jnp.where(is_due[None, :], moved, 0.0), jnp.where(is_due, usd, 0.0)

    def nothing() -> tuple[Array, Array]:
        return jnp.zeros_like(equity), jnp.zeros_like(sold_usd)

    moved, usd = jax.lax.cond(jnp.any(is_due), sell, nothing)
    return change + moved, interest_usd, sold_usd + usd, sales + (usd > 0).astype(sales.dtype)
