"""Looking for the next slice among candidates, each of which the account is margined after.

A stage either takes the first candidate, in an order of its own, that lowers the maintenance
margin, or the best of all of them. Candidates of all stages are put into one list and tried a
block at a time, until every account has found one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.liquidation.records import Choice, Target, Trade
from kernels.liquidation.situation import TIE, Rulebook, Situation, after, falls, where


BLOCK = 8
"""Candidates that are tried at once."""


class Ranking(NamedTuple):
    """How the best of several candidates is found, by candidate.

    Fields:
        group: a candidate of an earlier group comes before all of later ones.
        name: decides among equals.
        otherwise: the slice where no candidate lowers the margin.
    """

    group: Int[Array, "candidate account"]
    name: Int[Array, "candidate account"]
    otherwise: Choice


class Search(NamedTuple):
    """What a stage may trade.

    Fields:
        order: candidates of each account in the order in which they are tried [place, account].
        number: how many of them there are.
        why: what the stage says where none of them lowers the margin.
        trade_of: candidate of each account -> what it trades.
        target_of: candidate, USD freed -> what it works on.
        ranking: how the best one is found; None: the first that lowers the margin is taken.
    """

    order: Int[Array, "place account"]
    number: Int[Array, " account"]
    why: Int[Array, " account"]
    trade_of: Callable[[Array], Trade]
    target_of: Callable[[Array, Array], Target]
    ranking: Ranking | None = None


class _Tried(NamedTuple):
    """Candidates of all searches in one list, those that do not exist last.

    Fields:
        flat: place in the joined orders of each.
        mmr, cost: maintenance margin after each and what it costs, USD; infinite: not tried.
    """

    flat: Int[Array, "place account"]
    mmr: Float[Array, "place account"]
    cost: Float[Array, "place account"]


def found_by(
    now: Situation, searches: list[Search], asks: list[Array], book: Rulebook
) -> list[Choice]:
    """What each of some stages chooses; accounts stop looking at the first one that is found.

    Args:
        now: the accounts.
        searches: of the stages in their order.
        asks: accounts that ask each stage.
        book: the numbers.
    """
    if not searches:
        return []
    starts = [0]
    for search in searches:
        starts.append(starts[-1] + len(search.order))
    tried = _tried(now, searches, asks, starts, book)
    choices = []
    for k, search in enumerate(searches):
        mine = (tried.flat >= starts[k]) & (tried.flat < starts[k + 1])
        lowers = mine & falls(now, tried.mmr)
        if search.ranking is None:
            place, found = _first(lowers), jnp.any(lowers, axis=0)
        else:
            place, found = _best(now, tried, lowers, starts[k], search)
        flat, mmr = (
            jnp.take_along_axis(x, place[None], axis=0)[0] for x in (tried.flat, tried.mmr)
        )
        which = _candidate(search, flat - starts[k])
        freed = jnp.where(found, now.account.total_mmr - mmr, 0.0)
        choice = Choice(
            found=found,
            why=search.why,
            cancels=jnp.zeros_like(found),
            trade=search.trade_of(which),
            target=search.target_of(which, freed),
        )
        if search.ranking is not None:
            choice = where(found, choice, search.ranking.otherwise)
        choices.append(choice)
    return choices


def _first(found: Bool[Array, "place account"]) -> Int[Array, " account"]:
    return jnp.argmax(found, axis=0).astype(jnp.int32)


def _candidate(search: Search, place: Int[Array, " account"]) -> Int[Array, " account"]:
    at = jnp.clip(place, 0, len(search.order) - 1)
    return jnp.take_along_axis(search.order, at[None], axis=0)[0]


def _tried(
    now: Situation, searches: list[Search], asks: list[Array], starts: list[int], book: Rulebook
) -> _Tried:
    """The candidates with what comes of them, as far as accounts had to look."""
    exists = jnp.concatenate(
        [
            (jnp.arange(len(s.order), dtype=jnp.int32)[:, None] < s.number[None]) & a[None]
            for s, a in zip(searches, asks, strict=True)
        ]
    )
    count = jnp.sum(exists, axis=0, dtype=jnp.int32)
    length = -(-starts[-1] // BLOCK) * BLOCK
    flat = jnp.argsort(~exists, axis=0, stable=True).astype(jnp.int32)
    flat = jnp.pad(flat, ((0, length - starts[-1]), (0, 0)), constant_values=starts[-1])
    takes_first = jnp.concatenate(
        [jnp.full(len(s.order), s.ranking is None) for s in searches] + [jnp.zeros(1, bool)]
    )[flat]

    def trade_of(flat: Array) -> Trade:
        found = None
        for k, search in enumerate(searches):
            trade = search.trade_of(_candidate(search, flat - starts[k]))
            found = trade if found is None else where(flat >= starts[k], trade, found)
        assert found is not None
        return found

    def looking(state: tuple[Array, Array, Array]) -> Bool[Array, " account"]:
        block, mmr, _ = state
        is_found = jnp.any(takes_first & falls(now, mmr), axis=0)
        return ~is_found & (block * BLOCK < count)

    def one(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        block, mmr, cost = state
        start = block * BLOCK
        some = jax.lax.dynamic_slice_in_dim(flat, start, BLOCK)
        trades = book.apart(jax.vmap(trade_of, out_axes=-2), some)
        new_mmr, new_cost = _after_each(now, trades, book)
        new_mmr = jnp.where(some < starts[-1], new_mmr, jnp.inf)
        places = jnp.arange(BLOCK, dtype=jnp.int32)[:, None] + start
        new_mmr = jnp.where(places < count[None], new_mmr, jnp.inf)
        return (
            block + 1,
            jax.lax.dynamic_update_slice_in_dim(mmr, new_mmr, start, 0),
            jax.lax.dynamic_update_slice_in_dim(cost, new_cost, start, 0),
        )

    nothing = jnp.full(flat.shape, jnp.inf), jnp.zeros(flat.shape)
    start = jnp.zeros((), jnp.int32), *nothing
    _, mmr, cost = jax.lax.while_loop(lambda s: jnp.any(looking(s)), one, start)
    return _Tried(flat, mmr, cost)


def _after_each(now: Situation, trades: Trade, book: Rulebook) -> tuple[Array, Array]:
    """Maintenance margin and costs of several trades, each alone (axes ``candidate account``)."""
    count, accounts = trades.into.shape

    def repeated(x: Array) -> Array:
        shape = (*x.shape[:-1], count, accounts)
        return jnp.broadcast_to(x[..., None, :], shape).reshape(*x.shape[:-1], count * accounts)

    def flat(x: Array) -> Array:
        return x.reshape(*x.shape[:-2], count * accounts)

    found = after(jax.tree.map(repeated, now), jax.tree.map(flat, trades), book)
    mmr, cost = (x.reshape(count, accounts) for x in found)
    return mmr, cost


def _best(
    now: Situation,
    tried: _Tried,
    lowers: Bool[Array, "place account"],
    start: int,
    search: Search,
) -> tuple[Int[Array, " account"], Bool[Array, " account"]]:
    """The candidate that lowers the margin most per USD of cost: (place, whether there is one).

    Scores that are equal but for rounding: what frees more, then the first by name.
    """
    assert search.ranking is not None
    at = jnp.clip(tried.flat - start, 0, len(search.order) - 1)
    which = jnp.take_along_axis(search.order, at, axis=0)
    group, name = (
        jnp.take_along_axis(x, which, axis=0) for x in (search.ranking.group, search.ranking.name)
    )
    last = jnp.iinfo(group.dtype).max
    first = jnp.min(jnp.where(lowers, group, last), axis=0)
    left = lowers & (group == first[None])
    freed = jnp.where(left, now.account.total_mmr[None] - tried.mmr, 0.0)
    has_cost = tried.cost > 0
    score = jnp.where(has_cost, freed / jnp.where(has_cost, tried.cost, 1.0), jnp.inf)
    top = jnp.max(jnp.where(left, score, -jnp.inf), axis=0)
    left = left & (score >= (top * (1.0 - TIE))[None])
    most = jnp.max(jnp.where(left, freed, -jnp.inf), axis=0)
    left = left & (freed >= (most * (1.0 - TIE))[None])
    place = jnp.argmin(jnp.where(left, name, jnp.iinfo(name.dtype).max), axis=0)
    return place.astype(jnp.int32), jnp.any(left, axis=0)
