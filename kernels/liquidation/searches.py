"""Looking for the next slice among candidates, each of which the account is margined after.

A stage either takes the first candidate, in an order of its own, that lowers the maintenance
margin, or the best of all of them. Candidates of all stages are put into one list and tried a
block at a time, until every account has found one. They are not sorted: most accounts find one in
the first block, and picking the next few costs less than putting all in order.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.liquidation.records import Choice, Target, Trade
from kernels.liquidation.situation import TIE, Rulebook, Situation, after, falls, where


BLOCK = 4
"""Candidates that are tried at once."""
TURNS = 1 << 20
"""More than a search has turns."""


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
        exists: whether there is the candidate [candidate, account].
        turn: candidates with a smaller one are tried first, from 0 on.
        size: among these the smaller; name: among equals the smaller, then the first.
        why: what the stage says where none of them lowers the margin.
        trade_of: candidate of each account -> what it trades.
        target_of: candidate, USD freed -> what it works on.
        ranking: how the best one is found; None: the first that lowers the margin is taken.
    """

    exists: Bool[Array, "candidate account"]
    turn: Int[Array, "candidate account"]
    size: Float[Array, "candidate account"]
    name: Int[Array, "candidate account"]
    why: Int[Array, " account"]
    trade_of: Callable[[Array], Trade]
    target_of: Callable[[Array, Array], Target]
    ranking: Ranking | None = None


class _Tried(NamedTuple):
    """Candidates of all searches in the order in which they were tried.

    Fields:
        flat: place in the joined candidates of all; their number: none.
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
        starts.append(starts[-1] + len(search.exists))
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
        which = jnp.clip(flat - starts[k], 0, len(search.exists) - 1)
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


def first_largest(
    values: Float[Array, "place unit account"],
) -> Int[Array, "unit account"]:
    """Place of the largest, the first of several; unlike ``argmax`` in loops that vectorize."""
    places = jnp.arange(len(values), dtype=jnp.int32)[:, None, None]
    is_largest = values == jnp.max(values, axis=0)[None]
    return jnp.min(jnp.where(is_largest, places, len(values) - 1), axis=0)


def _first(found: Bool[Array, "place account"]) -> Int[Array, " account"]:
    return jnp.argmax(found, axis=0).astype(jnp.int32)


def turns_of(
    value: Float[Array, "one account"], name: Int[Array, "one account"]
) -> Int[Array, "one account"]:
    """Turn of each of a few: in falling order of a number, equal ones by name."""
    larger = value[None] > value[:, None]
    named = (value[None] == value[:, None]) & (name[None] < name[:, None])
    return jnp.sum(larger | named, axis=1, dtype=jnp.int32)


class _Candidates(NamedTuple):
    """Candidates of all searches; ``left``: not tried yet."""

    left: Bool[Array, "candidate account"]
    turn: Int[Array, "candidate account"]
    size: Float[Array, "candidate account"]
    name: Int[Array, "candidate account"]


def _tried(
    now: Situation, searches: list[Search], asks: list[Array], starts: list[int], book: Rulebook
) -> _Tried:
    """The candidates with what comes of them, as far as accounts had to look."""
    pairs = list(zip(searches, asks, strict=True))
    candidates = _Candidates(
        left=jnp.concatenate([search.exists & mine[None] for search, mine in pairs]),
        turn=jnp.concatenate([s.turn + k * TURNS for k, s in enumerate(searches)]),
        size=jnp.concatenate([s.size for s in searches]),
        name=jnp.concatenate([s.name for s in searches]),
    )
    length = -(-starts[-1] // BLOCK) * BLOCK
    takes_first = jnp.asarray(
        [s.ranking is None for s in searches for _ in range(len(s.exists))] + [False]
    )

    def trade_of(flat: Array) -> Trade:
        found = None
        for k, search in enumerate(searches):
            which = jnp.clip(flat - starts[k], 0, len(search.exists) - 1)
            trade = search.trade_of(which)
            found = trade if found is None else where(flat >= starts[k], trade, found)
        assert found is not None
        return found

    def one(state: _Looking) -> _Looking:
        left, some = book.apart(_next_block, candidates._replace(left=state.left))
        trades = book.apart(jax.vmap(trade_of, out_axes=-2), some)
        mmr, cost = _after_each(now, trades, book)
        mmr = jnp.where(some < starts[-1], mmr, jnp.inf)
        is_found = jnp.any(takes_first[some] & falls(now, mmr), axis=0)
        tried = (
            jax.lax.dynamic_update_slice_in_dim(whole, block, state.filled, 0)
            for whole, block in zip(state.tried, (some, mmr, cost), strict=True)
        )
        return _Looking(state.filled + BLOCK, left & ~is_found[None], _Tried(*tried))

    shape = length, now.num_accounts
    nothing = _Tried(
        jnp.full(shape, starts[-1], jnp.int32), jnp.full(shape, jnp.inf), jnp.zeros(shape)
    )
    start = _Looking(jnp.zeros((), jnp.int32), candidates.left, nothing)
    return jax.lax.while_loop(lambda state: jnp.any(state.left), one, start).tried


class _Looking(NamedTuple):
    """Accounts while they look: places filled, candidates left of those who look on, the tried."""

    filled: Int[Array, ""]
    left: Bool[Array, "candidate account"]
    tried: _Tried


def _next_block(candidates: _Candidates) -> tuple[Array, Int[Array, "block account"]]:
    """What is left after the next candidates, and these; where there is none, their number."""
    places = jnp.arange(len(candidates.left), dtype=jnp.int32)[:, None]
    most = jnp.iinfo(jnp.int32).max

    def one(left: Array, _: None) -> tuple[Array, Array]:
        mine = left
        for values, last in ((candidates.turn, most), (candidates.size, jnp.inf)):
            mine = mine & (values == jnp.min(jnp.where(mine, values, last), axis=0)[None])
        name = jnp.min(jnp.where(mine, candidates.name, most), axis=0)
        mine = mine & (candidates.name == name[None])
        place = jnp.min(jnp.where(mine, places, len(places)), axis=0)
        return left & (places != place[None]), place

    return jax.lax.scan(one, candidates.left, None, length=BLOCK)


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
    which = jnp.clip(tried.flat - start, 0, len(search.exists) - 1)
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
