"""An account between two slices, and what a trade would lead to."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels import debts
from kernels.account import Exposures, batch_exposures, batch_margin
from kernels.liquidation.records import (
    NO_PLACE,
    Choice,
    Level,
    LiquidationModel,
    LiquidationRules,
    Listing,
    Origin,
    Room,
    Target,
    Trade,
)
from kernels.liquidation.slots import Layout, Slots, by_holding, by_unit, slots_of
from kernels.liquidation.trades import costs_of, total_usd, traded
from kernels.records import NUM_QUOTES, AccountMargin, Table, UnitMargin
from kernels.stages import Apart


TIE = 1e-9
"""Numbers this near each other, as a fraction, count as equal."""


class Rulebook(NamedTuple):
    """One time and one parameter set: all that accounts do not bring along.

    ``apart`` calls a stage of the work so that what it gives is stored.
    """

    table: Table
    params: Any
    listing: Listing
    rules: LiquidationRules
    model: LiquidationModel
    apart: Apart


class Situation(eqx.Module):
    """Accounts between two slices; ``holding`` rows in units of the currency.

    Fields:
        room, slots: what they hold; units, account: their margin.
        equity, cash: by holding; cash is the part that can be sold, funding paid.
        delta_coin: of each unit, spot in use included; hedged_usd: by stablecoin pair.
        groups_usd: cash delta of each unit by settlement group.
    """

    room: Room
    slots: Slots
    units: UnitMargin
    account: AccountMargin
    equity: Float[Array, "holding account"]
    cash: Float[Array, "holding account"]
    currency: Int[Array, "holding account"]
    delta_coin: Float[Array, "unit account"]
    groups_usd: Float[Array, "quote unit account"]
    hedged_usd: Float[Array, "pair unit account"]

    @property
    def layout(self) -> Layout:
        """Where the slots lie."""
        return Layout.of(self.room.book)

    @property
    def num_accounts(self) -> int:
        """Accounts of the batch."""
        return self.slots.contracts.shape[1]

    def level(self) -> Level:
        """The numbers that records keep."""
        account = self.account
        return Level(
            account.margin_level, account.total_mmr, account.equity_usd, dict(account.charges)
        )

    def no_trade(self) -> Trade:
        """Nothing."""
        return Trade(
            jnp.zeros_like(self.slots.contracts),
            jnp.zeros_like(self.equity),
            jnp.zeros(self.num_accounts, jnp.int32),
        )

    def no_choice(self, why: int) -> Choice:
        """Nothing to do."""
        none = jnp.full(self.num_accounts, NO_PLACE, jnp.int32)
        no = jnp.zeros(self.num_accounts, bool)
        nothing_usd = jnp.zeros_like(self.account.total_mmr)
        return Choice(
            found=no,
            why=jnp.full(self.num_accounts, why, jnp.int32),
            cancels=no,
            trade=self.no_trade(),
            target=Target(none, none, none, nothing_usd),
        )


def margin_of(room: Room, book: Rulebook) -> tuple[Exposures, UnitMargin, AccountMargin]:
    """Exposures, units and accounts."""
    exposures = book.apart(batch_exposures, room.book, book.table, book.params)
    units, margin = batch_margin(book.apart, exposures, room.book, book.table, book.params)
    return exposures, units, margin


def situation(room: Room, book: Rulebook) -> Situation:
    """Margin of accounts and everything that their stages look at."""
    table, params, listing, rules, model, apart = book
    exposures, units, account = margin_of(room, book)
    of_model = partial(slots_of, model=model)
    slots = apart(of_model, room, units.portfolio, listing, table, params, rules)
    held = apart(debts.held_by, exposures, room.book, table)
    return apart(partial(_situation, model), room, slots, units, account, held)


def _situation(
    model: LiquidationModel,
    room: Room,
    slots: Slots,
    units: UnitMargin,
    account: AccountMargin,
    held: debts.Holdings,
) -> Situation:
    layout = Layout.of(room.book)

    def paid(values: Array) -> Array:
        return jnp.where(slots.contracts == 0, 0.0, slots.contracts * values)

    bound = jnp.where(slots.bound_contracts == 0, 0.0, slots.bound_contracts)
    cash_usd = jnp.where(bound == 0, 0.0, bound * slots.cash_usd)
    groups = [
        by_unit(jnp.where(slots.group == q, cash_usd, 0.0), layout) for q in range(NUM_QUOTES)
    ]
    delta = by_unit(jnp.where(bound == 0, 0.0, bound * slots.delta_coin), layout)
    return Situation(
        room=room,
        slots=slots,
        units=units,
        account=account,
        equity=held.equity_units,
        cash=held.cash_units - by_holding(paid(slots.funding), slots, layout),
        currency=held.currency,
        delta_coin=delta + units.spot_coin,
        groups_usd=jnp.stack(groups),
        hedged_usd=model.hedged_pairs(jnp.stack(groups)),
    )


def origin_of(now: Situation, origin: Origin, stage: int) -> Origin:
    """What the slices of a stage are shares of: the account now where it has not begun."""
    begun = origin.begun[stage]

    def first(stored: Array, current: Array) -> Array:
        return where(begun, stored[stage], current)

    return Origin(
        begun=begun,
        contracts=first(origin.contracts, now.slots.contracts),
        equity=first(origin.equity, now.equity),
        spot=first(origin.spot, now.units.spot_coin),
        delta=first(origin.delta, now.delta_coin),
        hedged_usd=first(origin.hedged_usd, now.hedged_usd),
    )


def begun_with(now: Situation, origin: Origin, began: Bool[Array, "stage account"]) -> Origin:
    """The origins with those of the stages that had their first slice now."""
    new = began & ~origin.begun

    def stored(old: Array, current: Array) -> Array:
        is_new = new.reshape(len(new), *(1,) * (current.ndim - 1), new.shape[1])
        return jnp.where(is_new, current[None], old)

    return Origin(
        begun=origin.begun | began,
        contracts=stored(origin.contracts, now.slots.contracts),
        equity=stored(origin.equity, now.equity),
        spot=stored(origin.spot, now.units.spot_coin),
        delta=stored(origin.delta, now.delta_coin),
        hedged_usd=stored(origin.hedged_usd, now.hedged_usd),
    )


def after(now: Situation, trade: Trade, book: Rulebook) -> tuple[Array, Array]:
    """Maintenance margin after a trade, and what the trade costs; USD by account."""
    costs = book.apart(costs_of, trade, now.slots, book.rules)
    room = book.apart(traded, now.room, now.slots, trade, costs)
    _, _, account = margin_of(room, book)
    return account.total_mmr, total_usd(costs)


def falls(
    now: Situation, mmr_usd: Float[Array, "candidate account"]
) -> Bool[Array, "candidate account"]:
    """Whether a maintenance margin is lower than that of now."""
    return mmr_usd < (now.account.total_mmr * (1.0 - TIE))[None]


def where(mine: Bool[Array, " account"], new: Any, old: Any) -> Any:
    """Everything of some accounts from one record, of the others from another."""

    def one(x: Array, y: Array) -> Array:
        return jnp.where(jnp.expand_dims(mine, tuple(range(x.ndim - 1))), x, y)

    return jax.tree.map(one, new, old)
