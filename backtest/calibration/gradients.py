"""Sensitivities of margin and of a smoothed shortfall to parameters, by ``jax.jacrev`` (K10).

Both are sums over accounts of what the kernels of the replay compute, USD:

* *margin*: total MMR at a time ``t``;
* *shortfall*: ``width * softplus((L - M) / width)``, with ``M`` that margin, ``L`` what adjusted
  equity falls by from ``t`` to ``t + horizon`` while nobody trades, and ``width`` a fraction of the
  account's gross notional. It tends to ``max(0, L - M)`` as the fraction tends to 0.

Reverse-mode gradients go from these sums to the numbers of the kernels' parameter record. From a
leaf of the parameter file to the record goes a central difference: the record is at most quadratic
in one leaf (tier tables hold rates times bounds), so that step is exact up to rounding, but for
tails of borrowing tiers that grow by a ratio.

Whatever is not quoted stands at 1 before anything is priced, which keeps ``0 * NaN`` out; accounts
that need it do not count. One number has no derivative in the kernels, MR2's days where less is
left to an expiry (the root of 0); a central difference of the same kernels takes its place.

Margin takes maxima, so it has kinks, and books may stand on one: with the published numbers MR1 and
MR6 of a book without options are equal. The gradient there is one of the one-sided slopes or lies
between them, so finite changes through the same kernels stand beside it.

References:
    Backtesting rules, 2.1 and K10.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from backtest.batching import SHAPES, Batch, Shape, widened
from backtest.calibration.standing import Standing
from backtest.kept_programs import kept
from backtest.market_window import MICROS, MarketWindow
from backtest.parameter_records import parameter_record
from backtest.price_programs import priced_features
from backtest.tile_arrays import padded_instruments
from kernels import account
from kernels.features import SECONDS_PER_YEAR
from kernels.models import model_of
from kernels.records import OPTION, AccountMargin, Book, Contract, Quote, Table
from kernels.stages import together
from kernels.table import model_columns


OBJECTIVES = ("margin", "shortfall")
TILE = 256
"""Accounts a call: a gradient keeps what every leg has added."""
STEP = 2.0**-10
"""Step of the central difference from a leaf to the record, as a fraction."""
NOT_CONTINUOUS = ("levels.", "borrowing.", "quote_currencies")
"""Leaves that no margin depends on."""
Leaves = Mapping[str, float]
"""Factors of leaves by key path."""


class Moment(NamedTuple):
    """The market at the start and at the end of a horizon, without a number missing.

    What is not quoted is 1, so that no product with it is NaN; accounts that need it do not count.
    """

    now_s: Float[Any, " time"]
    quotes: Quote
    currency_usd: Float[Any, " time currency"]
    features: Float[Any, " time instrument feature"]
    order_terms: Float[Any, " time instrument order_term"]


@dataclass(frozen=True)
class Gradient:
    """Sums and their derivatives.

    Attributes:
        value: margin and shortfall, USD.
        change: derivative by the factor of each leaf asked for, USD for a change of 1 (100 %).
        accounts: account-times counted.
    """

    value: Float[np.ndarray, " objective"]
    change: dict[str, Float[np.ndarray, " objective"]]
    accounts: int


def continuous_leaves(leaves: Iterable[Any]) -> list[str]:
    """Key paths of numbers and lists of numbers that a margin may depend on."""

    def is_number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool)

    found = []
    for row in leaves:
        values = row.value if isinstance(row.value, list) else [row.value]
        moves = values and all(is_number(x) for x in values) and any(values)
        if moves and not row.key.startswith(NOT_CONTINUOUS):
            found.append(row.key)
    return found


class Sensitivities:
    """Margin and shortfall of the accounts of a run at some times, as functions of parameters.

    Args:
        standing: accounts and prices.
        name: parameter set.
        times_us: times of the grid at which accounts are margined.
        steps: horizon of the loss, in times of the grid.
        smoothing_frac: width of the smoothed shortfall, of gross notional.
    """

    def __init__(
        self,
        standing: Standing,
        name: str,
        times_us: np.ndarray,
        steps: int,
        smoothing_frac: float,
    ) -> None:
        self.standing, self.name = standing, name
        self._smoothing = np.asarray(smoothing_frac)
        self._parts: list[tuple[int, Contract, Moment, Book, np.ndarray]] = []
        grid = standing.times_us
        for time_us in times_us.tolist():
            end_us = int(grid[np.searchsorted(grid, time_us) + steps])
            self._parts += list(self._at(time_us, end_us))
        self.accounts = int(sum(part[4].sum() for part in self._parts))

    def value(self, factors: Leaves) -> Float[np.ndarray, " objective"]:
        """Margin and shortfall with some leaves multiplied by factors, USD."""
        total = np.zeros(len(OBJECTIVES))
        for time_us, contracts, moment, book, counts in self._parts:
            params = self._record(time_us, factors)
            total += np.asarray(
                objectives(params, book, contracts, moment, counts, self._smoothing)
            )
        return total

    def gradient(self, directions: Mapping[str, Leaves]) -> Gradient:
        """Derivatives along directions.

        Args:
            directions: by name, how fast each of its leaves' factors moves; ``{"mr3.rate": 1.0}``
                is the derivative by the factor of that leaf.
        """
        value = np.zeros(len(OBJECTIVES))
        change = {name: np.zeros(len(OBJECTIVES)) for name in directions}
        by_numbers: dict[Any, tuple[int, Any]] = {}
        for time_us, contracts, moment, book, counts in self._parts:
            params = self._record(time_us, {})
            found, slopes = gradients(params, book, contracts, moment, counts, self._smoothing)
            value += np.asarray(found)
            # Times with the same numbers share the way from leaves to the record.
            key = self._numbers_key(time_us)
            before = by_numbers.get(key, (time_us, None))[1]
            total = slopes if before is None else jax.tree.map(np.add, before, slopes)
            by_numbers[key] = time_us, total
        for time_us, slopes in by_numbers.values():
            for name, speeds in directions.items():
                change[name] += _along(slopes, self._direction(time_us, speeds))
        for name, speeds in directions.items():
            if not np.isfinite(change[name]).all():
                change[name] = self._finite(speeds)
        return Gradient(value, change, self.accounts)

    def _finite(self, speeds: Leaves) -> Float[np.ndarray, " objective"]:
        """Central difference, where the kernels have no derivative: MR2's days at an expiry."""
        up, down = (
            self.value({k: 1.0 + step * v for k, v in speeds.items()}) for step in (STEP, -STEP)
        )
        return (up - down) / (2.0 * STEP)

    def _at(
        self, time_us: int, end_us: int
    ) -> Iterable[tuple[int, Contract, Moment, Book, np.ndarray]]:
        market = self.standing.market(time_us, np.asarray([time_us, end_us]))
        contracts, quotes = _listed(self.standing.contracts(time_us), market)
        whole, raw = _moments(market, contracts, quotes)
        filled = _filled(contracts, market)
        params = self._record(time_us, {})
        held = list(self.standing.batches(time_us, self.name))
        shapes = _common_shapes(held)
        for batch in held:
            for book, is_real in _tiles(batch, shapes[batch.shape.portfolios]):
                counts = is_real & np.asarray(is_priced(params, book, raw))
                if counts.any():
                    yield time_us, filled, whole, book, counts

    def _record(self, time_us: int, factors: Leaves) -> Any:
        rules = self.standing.rules(self.name)
        chosen = rules.set_at(time_us)
        now = rules.factors_at(time_us)
        whole = {key: now.get(key, 1.0) * factors.get(key, 1.0) for key in {*now, *factors}}
        return parameter_record(chosen.scaled(whole), self.standing.currencies)

    def _numbers_key(self, time_us: int) -> Any:
        rules = self.standing.rules(self.name)
        return rules.set_at(time_us).hash, *rules.factors_at(time_us).items()

    def _direction(self, time_us: int, speeds: Leaves) -> Any:
        """How fast every number of the record moves along a direction."""

        def at(step: float) -> Any:
            return self._record(time_us, {k: 1.0 + step * v for k, v in speeds.items()})

        def slope(up: Any, down: Any) -> np.ndarray:
            up, down = np.asarray(up), np.asarray(down)
            if not np.issubdtype(up.dtype, np.floating):
                return np.zeros(up.shape)
            moves = up != down  # endless bounds stay endless
            return np.where(moves, np.where(moves, up, 0.0) - np.where(moves, down, 0.0), 0.0)

        return jax.tree.map(lambda u, d: slope(u, d) / (2.0 * STEP), at(STEP), at(-STEP))


def _along(slopes: Any, direction: Any) -> Float[np.ndarray, " objective"]:
    total = np.zeros(len(OBJECTIVES))
    for each, speed in zip(jax.tree.leaves(slopes), jax.tree.leaves(direction), strict=True):
        moves = speed != 0.0
        total += np.asarray(each)[:, moves] @ speed[moves]
    return total


def _common_shapes(held: list[Batch]) -> dict[int, Shape]:
    """One shape for all accounts without orders, one for those with: a gradient compiles long."""
    found: dict[int, Shape] = {}
    for batch in held:
        known = found.get(batch.shape.portfolios, batch.shape)
        found[batch.shape.portfolios] = known.joined(batch.shape)
    return {k: shape.within(SHAPES) for k, shape in found.items()}


def _tiles(batch: Batch, shape: Shape) -> Iterable[tuple[Book, np.ndarray]]:
    """Books of ``TILE`` accounts in a shape, and which of them are no padding."""
    count = len(batch.accounts)
    for start in range(0, count, TILE):
        mine = np.arange(start, min(start + TILE, count))
        yield widened(batch, np.resize(mine, TILE), shape=shape), np.arange(TILE) < len(mine)


def _listed(contracts: Contract, market: MarketWindow) -> tuple[Contract, Quote]:
    """Contracts and quotes of as many as other times have, so that a gradient compiles once."""
    fields = ("mark", "forward_usd", "iv", "settlement", "settlement_fx", "funding")
    quotes = Quote(**{name: getattr(market, name) for name in fields})
    return jax.tree.map(padded_instruments, (contracts, quotes))


def _filled(contracts: Contract, market: MarketWindow) -> Contract:
    """Contracts whose terms are finite where they do not matter, by kind.

    A contract without strike or expiry is priced like an option before its kind is looked at.
    """
    kind = np.asarray(contracts.kind)
    year_ahead = market.times_us[-1] / MICROS + SECONDS_PER_YEAR
    expires = np.isfinite(contracts.expiry_s)
    return eqx.tree_at(
        lambda c: (c.strike_usd, c.expiry_s),
        contracts,
        (
            np.where(kind == OPTION, contracts.strike_usd, 1.0),
            np.where(expires, contracts.expiry_s, year_ahead),
        ),
    )


def _moments(market: MarketWindow, contracts: Contract, quotes: Quote) -> tuple[Moment, Moment]:
    """The market without a number missing, and as it is."""
    now_s, usd = market.times_us / MICROS, market.currency_usd
    found = priced_features(contracts, quotes, now_s, usd)
    features, order_terms = (np.moveaxis(np.asarray(x), -1, 0) for x in found)
    filled = jax.tree.map(lambda x: np.nan_to_num(x, nan=1.0), quotes)
    whole = Moment(
        now_s,
        filled,
        np.nan_to_num(usd, nan=1.0),
        np.nan_to_num(features),
        np.nan_to_num(order_terms),
    )
    return whole, Moment(now_s, quotes, usd, features, order_terms)


def _table(moment: Moment, columns: Array, scenarios: Array, rates: Array) -> Table:
    return Table(
        features=moment.features,
        columns=columns,
        scenarios=scenarios,
        order_terms=moment.order_terms,
        currency_usd=moment.currency_usd,
        rates=rates,
    )


def _margin(params: Any, book: Book, contracts: Contract, now: Moment) -> AccountMargin:
    """Every number of the accounts at one time."""
    market = now.quotes, now.features, now.now_s, now.currency_usd
    priced = model_columns(together, contracts, *market, params)
    table = _table(now, *priced, model_of(params).rates(now.currency_usd, params))
    exposures = account.batch_exposures(book, table, params)
    return account.batch_margin(together, exposures, book, table, params)[1]


def _adjusted_equity(params: Any, book: Book, now: Moment) -> Float[Array, " account"]:
    """Adjusted equity at one time; no charge is computed for it, so nothing is priced."""
    model = model_of(params)
    count, dtype = len(now.features), now.features.dtype
    columns, scenarios = (
        jnp.zeros((count, k), dtype) for k in (model.num_columns, model.num_scenarios)
    )
    table = _table(now, columns, scenarios, model.rates(now.currency_usd, params))
    exposures = account.batch_exposures(book, table, params)
    discounted = account.batch_balances(exposures, book, table, params).discounted_usd
    if not book.order_instrument.shape[0]:
        return discounted
    return discounted - jax.vmap(account.order_cost_usd, in_axes=(-1, None))(
        account.orders_of(book), table
    )


@kept()
def is_priced(params: Any, book: Book, moment: Moment) -> Bool[Array, " account"]:
    """Whether everything that an account holds has a price at every time."""
    equity = jax.vmap(lambda now: _adjusted_equity(params, book, now))(moment)
    return jnp.isfinite(equity).all(axis=0)


def _objectives(
    params: Any,
    book: Book,
    contracts: Contract,
    moment: Moment,
    counts: Bool[Array, " account"],
    smoothing_frac: Float[Array, ""],
) -> Float[Array, " objective"]:
    start, end = (jax.tree.map(lambda x, k=k: x[k], moment) for k in range(2))
    found = _margin(params, book, contracts, start)
    margin = found.total_mmr
    uncovered = found.adjusted_equity - _adjusted_equity(params, book, end) - margin
    width = smoothing_frac * found.gross_notional_usd
    # An account without positions has no width: two selections keep 0 / 0 out of its derivative.
    is_wide = width > 0.0
    safe = jnp.where(is_wide, width, 1.0)
    smooth = safe * jax.nn.softplus(uncovered / safe)
    short = jnp.where(is_wide, smooth, jnp.maximum(uncovered, 0.0))
    return jnp.stack([jnp.sum(jnp.where(counts, x, 0.0)) for x in (margin, short)])


objectives = kept()(_objectives)
"""Margin and smoothed shortfall of the accounts that count, summed, USD."""


@kept()
def gradients(
    params: Any,
    book: Book,
    contracts: Contract,
    moment: Moment,
    counts: Bool[Array, " account"],
    smoothing_frac: Float[Array, ""],
) -> tuple[Float[Array, " objective"], Any]:
    """Margin and shortfall, and their derivatives by every number of the record.

    Returns:
        The sums, USD, and a record whose numbers have a leading ``objective`` axis; zeros where a
        number is a switch or an index.
    """
    moving, still = eqx.partition(params, eqx.is_inexact_array)

    def of(some: Any) -> tuple[Float[Array, " objective"], Float[Array, " objective"]]:
        whole = eqx.combine(some, still)
        found = _objectives(whole, book, contracts, moment, counts, smoothing_frac)
        return found, found

    slopes, sums = jax.jacrev(of, has_aux=True)(moving)
    count = len(OBJECTIVES)
    return sums, eqx.combine(slopes, jax.tree.map(lambda x: jnp.zeros((count, *x.shape)), still))
