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
    Target,
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
        did = _Did.of_record(record)
        for k in np.flatnonzero(did.stage != NO_PLACE).tolist():
            slices[accounts[k]].append((did, k))
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


@dataclass(frozen=True)
class _Did:
    """What a slice did, all that steps add up of it worked out for all accounts at once.

    Fields:
        sums: numbers by name [slot or holding, account]; the others as in ``SliceRecord``.
    """

    stage: np.ndarray
    why: np.ndarray
    before: Level
    target: Target
    into: np.ndarray
    sums: dict[str, np.ndarray]

    @staticmethod
    def of_record(record: SliceRecord) -> "_Did":
        trade, costs = record.trade, record.costs
        contracts, spot = np.asarray(trade.contracts), np.asarray(trade.spot)
        fee, slippage = np.asarray(costs.fee), np.asarray(costs.slippage)
        spot_fee, spot_slippage = np.asarray(costs.spot_fee), np.asarray(costs.spot_slippage)
        sums = {
            "contracts": contracts,
            "gross": np.abs(contracts),
            "signed_cost": np.sign(contracts) * (fee + slippage),
            "fee": fee,
            "slippage": slippage,
            "spot": spot,
            "spot_gross": np.abs(spot),
            "spot_cost": np.sign(spot) * (spot_fee + spot_slippage),
            "spot_fee": spot_fee,
            "spot_slippage": spot_slippage,
        }
        into = np.asarray(trade.into)
        return _Did(
            np.asarray(record.stage),
            np.asarray(record.why),
            record.before,
            record.target,
            into,
            sums,
        )


Slice = tuple[_Did, int]
"""What a slice did, and the account's place in it."""


def _stage(one: Slice) -> int:
    did, k = one
    return int(did.stage[k])


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
        did, k = after
        is_later = stage < _stage(after)
        return int(did.why[stage, k]) if is_later else OTHER_STAGE
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
    sums = {
        name: np.sum([did.sums[name][:, k] for did, k in run], axis=0) for name in run[0][0].sums
    }
    instrument = slot_instruments(progress.room, account)
    slot = np.flatnonzero(sums["gross"])
    traded = (sums[name][slot] for name in ("contracts", "gross", "signed_cost"))
    currency = np.append(progress.room.book.unit_coin[:, account], np.arange(NUM_QUOTES))
    (did, k), (last, last_k) = run[0], run[-1]
    before = _at(did.before, k)
    then = _at(progress.now, account)
    if after is not None:
        then = _at(after[0].before, after[1])
    target = did.target
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
        **prices.of(instrument[slot], *traded),
        leg_fee_usd=sums["fee"][slot],
        leg_slippage_usd=sums["slippage"][slot],
        spot=sums["spot"],
        **prices.of_spot(currency, sums["spot_gross"], sums["spot_cost"]),
        spot_fee_usd=sums["spot_fee"],
        spot_slippage_usd=sums["spot_slippage"],
        into=int(last.into[last_k]),
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
