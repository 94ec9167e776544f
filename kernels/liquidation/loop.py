"""One slice after the other, until an account is safe, nothing is left, or slices are used up.

After every slice an account is margined again and the stages are asked again in their order; the
first that has something to do does the next slice. Slices in a row of one stage are one *step*.
A call does one slice of every account that is still running.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from kernels.liquidation.models import liquidation_of
from kernels.liquidation.records import (
    NO_PLACE,
    NOT_DUE,
    Choice,
    LiquidationModel,
    LiquidationRules,
    Listing,
    Origin,
    Progress,
    SliceRecord,
)
from kernels.liquidation.searches import Search, found_by
from kernels.liquidation.situation import (
    Rulebook,
    Situation,
    begun_with,
    origin_of,
    situation,
    where,
)
from kernels.liquidation.slots import without_unpriced
from kernels.liquidation.trades import costs_of, traded, without_orders
from kernels.model import AccountRules
from kernels.records import Table
from kernels.stages import Apart, together


def goes_on(
    now: Situation, active: Bool[Array, " account"], model: LiquidationModel, levels: AccountRules
) -> Bool[Array, " account"]:
    """Active from the trigger on until the safe level, so an account at 105 % may be either."""
    level = now.account.margin_level
    reached = level <= levels.liquidation_level
    safe = level >= levels.safe_level if model.safe_at_bound else level > levels.safe_level
    return (active | reached) & ~safe


def one_slice(
    progress: Progress,
    table: Table,
    params: Any,
    listing: Listing,
    rules: LiquidationRules,
    apart: Apart = together,
) -> tuple[Progress, SliceRecord]:
    """One slice of every account that is running, and its record.

    Args:
        progress: accounts before the slice; one that is new is left alone where a price is missing.
        table: the shared table at this time.
        params: the parameter set.
        listing: the contracts of the instrument axis.
        rules: the liquidation rules.
        apart: calls a stage of the work so that what it gives is stored.
    """
    book = Rulebook(table, params, listing, rules, liquidation_of(params), apart)
    room = apart(without_unpriced, progress.room, table)
    progress = eqx.tree_at(lambda p: p.room, progress, room)
    now = situation(progress.room, book)
    is_new = progress.is_new
    is_priced = jnp.where(is_new, ~jnp.isnan(now.account.margin_level), progress.is_priced)
    running = progress.running & is_priced
    active = goes_on(now, progress.active, book.model, book.params.account)
    active = jnp.where(running, active, progress.active)
    choice, stage, why = apart(partial(_chosen, book=book), now, progress.origin, running, active)
    begins = stage != progress.stage
    is_full = (progress.slices >= rules.max_slices) | (begins & (progress.steps >= rules.max_steps))
    is_full = choice.found & is_full
    done = running & choice.found & ~is_full
    trade = where(done, choice.trade, now.no_trade())
    costs = apart(costs_of, trade, now.slots, rules)
    after = apart(traded, progress.room, now.slots, trade, costs)
    cancelled = without_orders(after.book)
    cancels = done & choice.cancels
    book_after = where(cancels, cancelled, after.book)

    room = where(done, eqx.tree_at(lambda r: r.book, after, book_after), progress.room)
    places = jnp.arange(len(rules.order), dtype=stage.dtype)[:, None]
    mine = where(progress.running, now.level(), progress.now)
    moved = Progress(
        room=room,
        is_new=jnp.zeros_like(is_new),
        is_priced=is_priced,
        running=done,
        active=active,
        slices=progress.slices + done.astype(progress.slices.dtype),
        steps=progress.steps + (done & begins).astype(progress.steps.dtype),
        stage=jnp.where(done, stage, progress.stage),
        is_full=progress.is_full | (running & is_full),
        has_legs=jnp.where(running, jnp.any(now.slots.is_leg, axis=0), progress.has_legs),
        equity=where(running, now.equity, progress.equity),
        origin=begun_with(now, progress.origin, done[None] & (places == stage[None])),
        now=mine,
        first=where(is_new, now.level(), progress.first),
        why=where(running, why, progress.why),
    )
    record = SliceRecord(
        stage=jnp.where(done, stage, NO_PLACE),
        why=why,
        before=now.level(),
        trade=trade,
        costs=costs,
        target=choice.target,
    )
    return moved, record


def _chosen(
    now: Situation,
    origin: Origin,
    running: Bool[Array, " account"],
    active: Bool[Array, " account"],
    book: Rulebook,
) -> tuple[Choice, Int[Array, " account"], Int[Array, "stage account"]]:
    """The slice of the first stage that has one, which stage, and what each had to say."""
    answers, asks, searches = [], [], []
    begun = jnp.zeros_like(running)
    for k, name in enumerate(book.rules.order):
        answer = book.model.stages[name](now, origin_of(now, origin, k), book)
        mine = running & ~begun
        mine = mine if name in book.model.always else mine & active
        asks.append(mine)
        answers.append(answer)
        if isinstance(answer, Search):
            searches.append(k)
        else:
            # Whoever has something to do at once need not look any further.
            begun = begun | (mine & answer.found)
    looked = found_by(now, [answers[k] for k in searches], [asks[k] for k in searches], book)
    for k, choice in zip(searches, looked, strict=True):
        answers[k] = choice
    choice, stage = now.no_choice(NOT_DUE), jnp.full(now.num_accounts, NO_PLACE, jnp.int32)
    reasons = []
    for k, answer in enumerate(answers):
        mine = asks[k] & ~choice.found & answer.found
        reasons.append(jnp.where(asks[k] & ~choice.found, answer.why, NOT_DUE))
        choice = where(mine, answer, choice)
        stage = jnp.where(mine, k, stage)
    return choice, stage, jnp.stack(reasons)
