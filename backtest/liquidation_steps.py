"""What a liquidation did, step by step, from the records of its slices."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.features import GROSS
from kernels.liquidation.records import (
    LIMIT,
    NO_PLACE,
    OTHER_STAGE,
    PAID_ELSEWHERE,
    SAFE,
    Level,
    LiquidationRules,
    Listing,
    Progress,
    Room,
    SliceRecord,
)
from kernels.records import NUM_QUOTES, OPTION, Table


Records = list[tuple[np.ndarray, SliceRecord]]
"""Accounts (positions) and what their slices did, slice after slice."""
Book = tuple[Table, Any, Listing, LiquidationRules]


@dataclass(frozen=True)
class Step:
    """Slices in a row of one stage of one account; money in USD.

    Fields:
        number: from 1 on; stage: its name, ``bankruptcy`` at last.
        unit, first, second, value_usd: target of the first slice (``records.Target``).
        ended: why it ended (``records.WHY``); slices: how many.
        instrument, contracts: what was traded, the latter signed; mark, price_avg: of it;
            notional_usd, leg_fee_usd, leg_slippage_usd: size and costs.
        spot: units bought by holding; spot_usd: size, buying and selling added up; spot_mark_usd,
            spot_price_usd: index, and average price with costs; spot_fee_usd, spot_slippage_usd;
            into: the holding against which, of the last slice.
        level, mmr, equity, charges: (before, after).
    """

    number: int
    stage: str
    unit: int
    first: int
    second: int
    value_usd: float
    ended: int
    slices: int
    instrument: np.ndarray
    contracts: np.ndarray
    mark: np.ndarray
    price_avg: np.ndarray
    notional_usd: np.ndarray
    leg_fee_usd: np.ndarray
    leg_slippage_usd: np.ndarray
    spot: np.ndarray
    spot_usd: np.ndarray
    spot_mark_usd: np.ndarray
    spot_price_usd: np.ndarray
    spot_fee_usd: np.ndarray
    spot_slippage_usd: np.ndarray
    into: int
    level: tuple[float, float]
    mmr_usd: tuple[float, float]
    equity_usd: tuple[float, float]
    charges: tuple[dict[str, float], dict[str, float]]

    @property
    def size_usd(self) -> float:
        """Size of all trades of the step, USD."""
        return float(self.notional_usd.sum() + self.spot_usd.sum())

    @property
    def fee_usd(self) -> float:
        """Fees of the step, USD."""
        return float(self.leg_fee_usd.sum() + self.spot_fee_usd.sum())

    @property
    def slippage_usd(self) -> float:
        """Slippage of the step, USD."""
        return float(self.leg_slippage_usd.sum() + self.spot_slippage_usd.sum())


def steps_of(
    progress: Progress, records: Records, book: Book, always: tuple[str, ...]
) -> tuple[list[list[Step]], np.ndarray]:
    """Steps of each account, and whether it traded anything."""
    count, rules, prices = len(progress.running), book[3], _Prices.of_table(book[0], book[2])
    slices: list[list[Slice]] = [[] for _ in range(count)]
    for accounts, record in records:
        for k in np.flatnonzero(record.stage != NO_PLACE):
            slices[accounts[k]].append((record, int(k)))
    found, traded = [], np.zeros(count, bool)
    for account, mine in enumerate(slices):
        steps = []
        runs: list[list[Slice]] = []
        for each in mine:
            if not runs or _stage(runs[-1][-1]) != _stage(each):
                runs.append([])
            runs[-1].append(each)
        for number, run in enumerate(runs):
            after = runs[number + 1][0] if number + 1 < len(runs) else None
            ended = _why_ended(run[0], after, account, progress, rules, always)
            steps.append(_step(account, number + 1, run, after, ended, progress, rules, prices))
        traded[account] = any(
            len(step.instrument) > 0 or bool((step.spot != 0).any()) for step in steps
        )
        found.append(steps)
    return found, traded


Slice = tuple[SliceRecord, int]
"""The record of a slice, and the account's place in it."""


def _stage(one: Slice) -> int:
    record, k = one
    return int(record.stage[k])


def _why_ended(
    run: Slice,
    after: Slice | None,
    account: int,
    progress: Progress,
    rules: LiquidationRules,
    always: tuple[str, ...],
) -> int:
    """Why the step of a slice ended: what its stage said next, or why the whole ended."""
    stage = _stage(run)
    if after is not None:
        record, k = after
        is_later = stage < _stage(after)
        return int(record.why[stage, k]) if is_later else OTHER_STAGE
    if progress.is_full[account]:
        return LIMIT
    if progress.active[account] or rules.order[stage] in always:
        return int(progress.why[stage, account])
    return SAFE


def _step(
    account: int,
    number: int,
    run: list[Slice],
    after: Slice | None,
    ended: int,
    progress: Progress,
    rules: LiquidationRules,
    prices: "_Prices",
) -> Step:
    def total(pick: Any) -> np.ndarray:
        return np.sum([pick(record)[:, k] for record, k in run], axis=0)

    contracts = total(lambda r: r.trade.contracts)
    gross = total(lambda r: np.abs(r.trade.contracts))
    signed_cost = total(lambda r: np.sign(r.trade.contracts) * (r.costs.fee + r.costs.slippage))
    instrument = slot_instruments(progress.room, account)
    slot, spot_gross = np.flatnonzero(gross), total(lambda r: np.abs(r.trade.spot))
    spot_cost = total(lambda r: np.sign(r.trade.spot) * (r.costs.spot_fee + r.costs.spot_slippage))
    currency = np.append(progress.room.book.unit_coin[:, account], np.arange(NUM_QUOTES))
    (record, k), (last, last_k) = run[0], run[-1]
    before = _at(record.before, k)
    then = _at(progress.now, account)
    if after is not None:
        then = _at(after[0].before, after[1])
    target = record.target
    return Step(
        number=number,
        stage=rules.order[_stage(run[0])],
        unit=int(target.unit[k]),
        first=int(target.first[k]),
        second=int(target.second[k]),
        value_usd=float(target.value_usd[k]),
        ended=ended,
        slices=len(run),
        instrument=instrument[slot],
        **prices.of(instrument[slot], contracts[slot], gross[slot], signed_cost[slot]),
        leg_fee_usd=total(lambda r: r.costs.fee)[slot],
        leg_slippage_usd=total(lambda r: r.costs.slippage)[slot],
        spot=total(lambda r: r.trade.spot),
        **prices.of_spot(currency, spot_gross, spot_cost),
        spot_fee_usd=total(lambda r: r.costs.spot_fee),
        spot_slippage_usd=total(lambda r: r.costs.spot_slippage),
        into=int(last.trade.into[last_k]),
        level=(before[0], then[0]),
        mmr_usd=(before[1], then[1]),
        equity_usd=(before[2], then[2]),
        charges=(before[3], then[3]),
    )


def _at(level: Level, place: int) -> tuple[float, float, float, dict[str, float]]:
    charges = {name: float(x[place]) for name, x in level.charges.items()}
    numbers = level.level[place], level.mmr_usd[place], level.equity_usd[place]
    return float(numbers[0]), float(numbers[1]), float(numbers[2]), charges


def written_off(account: int, number: int, last: Level, after: Level, progress: Progress) -> Step:
    """The last step of a bankrupt account, whose loss others take."""
    none = np.zeros(0)
    before, then = _at(last, account), _at(after, account)
    nothing = np.zeros(len(progress.equity))
    return Step(
        number=number,
        stage="bankruptcy",
        unit=NO_PLACE,
        first=NO_PLACE,
        second=NO_PLACE,
        value_usd=-before[2],
        ended=PAID_ELSEWHERE,
        slices=0,
        instrument=none.astype(int),
        contracts=none,
        mark=none,
        price_avg=none,
        notional_usd=none,
        leg_fee_usd=none,
        leg_slippage_usd=none,
        spot=nothing,
        spot_usd=nothing,
        spot_mark_usd=nothing,
        spot_price_usd=nothing,
        spot_fee_usd=nothing,
        spot_slippage_usd=nothing,
        into=NO_PLACE,
        level=(before[0], then[0]),
        mmr_usd=(before[1], then[1]),
        equity_usd=(before[2], then[2]),
        charges=(before[3], then[3]),
    )


def slot_instruments(room: Room, account: int) -> np.ndarray:
    """Instrument of each slot of an account."""
    lists = room.book.leg_instrument, room.book.option_instrument
    return np.concatenate([np.asarray(x)[0, :, :, account].reshape(-1) for x in lists])


@dataclass(frozen=True)
class _Prices:
    """One contract at one time: mark, size and what costs are a share of (USD); indexes."""

    mark: np.ndarray
    size_usd: np.ndarray
    scale_usd: np.ndarray
    usd: np.ndarray

    @staticmethod
    def of_table(table: Table, listing: Listing) -> "_Prices":
        """From the shared table; see ``kernels.liquidation.slots``."""
        unit, worth, _ = np.asarray(table.order_terms).T
        size = np.asarray(table.features)[:, GROSS]
        is_option = np.asarray(listing.terms.kind) == OPTION
        with np.errstate(divide="ignore", invalid="ignore"):
            mark = np.where(np.asarray(listing.terms.is_inverse), -unit / worth, worth / unit)
        scale = np.where(is_option, worth, size)
        return _Prices(mark, size, scale, np.asarray(table.currency_usd))

    def of(
        self,
        instrument: np.ndarray,
        contracts: np.ndarray,
        gross: np.ndarray,
        signed_cost_usd: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Contracts, mark, average price (costs included) and size of some trades."""
        mark, scale = self.mark[instrument], gross * self.scale_usd[instrument]
        share = np.divide(signed_cost_usd, scale, out=np.zeros_like(scale), where=scale > 0)
        return {
            "contracts": contracts,
            "mark": mark,
            "price_avg": mark * (1.0 + share),
            "notional_usd": gross * self.size_usd[instrument],
        }

    def of_spot(
        self, currency: np.ndarray, gross: np.ndarray, signed_cost_usd: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Size, index and average price (costs included) of spot trades by holding."""
        mark = np.where(gross > 0.0, self.usd[currency], 0.0)
        size = gross * mark
        share = np.divide(signed_cost_usd, size, out=np.zeros_like(size), where=size > 0)
        return {
            "spot_usd": size,
            "spot_mark_usd": mark,
            "spot_price_usd": mark * (1.0 + share),
        }
