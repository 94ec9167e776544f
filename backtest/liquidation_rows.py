"""Rows of the tables of liquidations: one a step, and one an account and time."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.liquidation_steps import Step, slot_instruments
from backtest.liquidator import STATUSES, Liquidated
from backtest.schema import NAME, NUMBER, TIME
from kernels.liquidation.okx import PAIRS
from kernels.liquidation.records import NO_PLACE, WHY, Room
from kernels.records import NULL_CURRENCY, NUM_QUOTES, QUOTES


NAMES, NUMBERS = pa.list_(pa.string()), pa.list_(NUMBER)
WHO = (("parameter_set", NAME), ("account_id", NAME), ("segment", NAME), ("time", TIME))


@cache
def step_schema(charges: tuple[str, ...]) -> pa.Schema:
    """Columns of ``liquidations``: one row a step of an account at a time."""
    sides = ("before", "after")
    return pa.schema(
        [
            *WHO,
            ("step", pa.int32()),
            ("stage", NAME),
            ("target", pa.string()),
            ("target_usd", NUMBER),
            ("ended", NAME),
            ("slices", pa.int32()),
            ("instruments", NAMES),
            *((c, NUMBERS) for c in LEG_COLUMNS),
            ("notional_usd", NUMBER),
            ("fee_usd", NUMBER),
            ("slippage_usd", NUMBER),
            *(
                (f"{c}_{side}", NUMBER)
                for c in ("level", "mmr_usd", "equity_usd")
                for side in sides
            ),
            *((f"{c}_{side}", NUMBER) for c in charges for side in sides),
        ]
    )


LEVEL_COLUMNS = ("level", "mmr_usd", "equity_usd")
LEG_COLUMNS = (
    "leg_contracts",
    "leg_mark",
    "leg_price",
    "leg_notional_usd",
    "leg_fee_usd",
    "leg_slippage_usd",
)

TIME_SCHEMA = pa.schema(
    [
        *WHO,
        ("status", NAME),
        ("is_active", pa.bool_()),
        ("last_stage", NAME),
        ("steps", pa.int32()),
        ("slices", pa.int32()),
        *(
            (c, NUMBER)
            for c in (
                "level_before",
                "level_after",
                "equity_before_usd",
                "equity_after_usd",
                "notional_usd",
                "fee_usd",
                "slippage_usd",
                "surplus_usd",
                "bad_debt_usd",
            )
        ),
        ("sold_coins", NAMES),
        ("sold_delta_usd", NUMBERS),
    ]
)
"""Columns of ``liquidated``: one row an account and time. ``sold_delta_usd`` is the cash delta of
futures and perpetuals by coin that was bought (> 0) or sold."""


@dataclass(frozen=True)
class Axis:
    """Names of what the rows speak of.

    Fields:
        instruments: contracts in the order of the instrument axis, without the null contract.
        currencies: names of the currency axis.
        charges: of the margin model.
    """

    instruments: pd.DataFrame
    currencies: list[str]
    charges: tuple[str, ...]

    @cached_property
    def _ids(self) -> list[str]:
        return self.instruments["instrument_id"].astype(str).tolist()

    @cached_property
    def _coins(self) -> list[str]:
        return self.instruments["coin"].astype(str).tolist()

    def instrument(self, column: int) -> str:
        """Id of a contract of the axis."""
        return self._ids[column - 1]

    def coin(self, column: int) -> str:
        """Coin of a contract of the axis."""
        return self._coins[column - 1]


def rows_of(
    done: Liquidated, k: int, who: dict[str, Any], axis: Axis, deltas: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of ``liquidated`` of one account and its rows of ``liquidations``.

    Args:
        done: what a call did.
        k: place of the account in it.
        who: columns that say who and when.
        axis: names.
        deltas: cash delta of one contract, USD, 0 for options [instrument].
    """
    steps = done.steps[k]
    sold: dict[str, float] = {}
    for step in steps:
        for column, n in zip(step.instrument.tolist(), step.contracts.tolist(), strict=True):
            coin = axis.coin(column)
            sold[coin] = sold.get(coin, 0.0) + n * float(deltas[column])
    sold = {coin: usd for coin, usd in sorted(sold.items()) if usd != 0.0}
    named = [step.stage for step in steps if step.stage != "bankruptcy"]
    at_time = {
        **who,
        "status": STATUSES[done.status[k]],
        "is_active": bool(done.active[k]),
        "last_stage": named[-1] if named else None,
        "steps": len(steps),
        "slices": int(done.slices[k]),
        "level_before": _finite(done.level[0][k]),
        "level_after": _finite(done.level[1][k]),
        "equity_before_usd": float(done.equity_usd[0][k]),
        "equity_after_usd": float(done.equity_usd[1][k]),
        "notional_usd": float(done.notional_usd[k]),
        "fee_usd": float(done.fees_usd[k]),
        "slippage_usd": float(done.slippage_usd[k]),
        "surplus_usd": float(done.surplus_usd[k]),
        "bad_debt_usd": float(done.bad_debt_usd[k]),
        "sold_coins": list(sold),
        "sold_delta_usd": list(sold.values()),
    }
    return at_time, [who | _step_row(step, done.room, k, axis) for step in steps]


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table | None:
    """Rows as a table, None where there are none."""
    return pa.Table.from_pylist(rows, schema=schema) if rows else None


def _step_row(step: Step, room: Room, k: int, axis: Axis) -> dict[str, Any]:
    spot = np.flatnonzero(step.spot_usd)
    currencies = [axis.currencies[c] for c in _holdings(room, k)]
    into = currencies[step.into] if len(spot) else ""
    legs = [axis.instrument(c) for c in step.instrument.tolist()]
    row: dict[str, Any] = {
        "step": step.number,
        "stage": step.stage,
        "target": _target(step, room, k, axis),
        "target_usd": step.value_usd,
        "ended": WHY[step.ended],
        "slices": step.slices,
        "instruments": legs + [f"{currencies[h]}-{into}" for h in spot.tolist()],
        "leg_contracts": [*step.contracts.tolist(), *step.spot[spot].tolist()],
        "leg_mark": [*step.mark.tolist(), *step.spot_mark_usd[spot].tolist()],
        "leg_price": [*step.price_avg.tolist(), *step.spot_price_usd[spot].tolist()],
        "leg_notional_usd": [*step.notional_usd.tolist(), *step.spot_usd[spot].tolist()],
        "leg_fee_usd": [*step.leg_fee_usd.tolist(), *step.spot_fee_usd[spot].tolist()],
        "leg_slippage_usd": [
            *step.leg_slippage_usd.tolist(),
            *step.spot_slippage_usd[spot].tolist(),
        ],
        "notional_usd": step.size_usd,
        "fee_usd": step.fee_usd,
        "slippage_usd": step.slippage_usd,
    }
    for n, name in enumerate(("before", "after")):
        row[f"level_{name}"] = _finite(step.level[n])
        row[f"mmr_usd_{name}"] = step.mmr_usd[n]
        row[f"equity_usd_{name}"] = step.equity_usd[n]
        row |= {f"{c}_{name}": step.charges[n][c] for c in axis.charges}
    return row


def _finite(level: float) -> float | None:
    return float(level) if np.isfinite(level) else None


def _holdings(room: Room, k: int) -> list[int]:
    """Currency of each holding of an account."""
    return [*np.asarray(room.book.unit_coin)[:, k].tolist(), *range(NUM_QUOTES)]


def _target(step: Step, room: Room, k: int, axis: Axis) -> str:
    """What the first slice of a step worked on, in words."""
    unit = ""
    if step.unit != NO_PLACE:
        coin = int(np.asarray(room.book.unit_coin)[step.unit, k])
        unit = axis.currencies[coin] if coin != NULL_CURRENCY else ""
    if step.stage == "ddh1":
        return f"{unit} {'-'.join(QUOTES[q] for q in PAIRS[step.first])}"
    if step.stage == "ddh2":
        return unit
    if step.stage == "basis":
        return f"{unit} " + " / ".join(
            _maturity(b, step.unit, room, k, axis) for b in (step.first, step.second)
        )
    if step.stage == "repay":
        return axis.currencies[_holdings(room, k)[step.first]]
    if step.stage in ("reduction", "partial"):
        return _closed(step, room, k, axis)
    return ""


def _closed(step: Step, room: Room, k: int, axis: Axis) -> str:
    slots = slot_instruments(room, k)
    if step.first == NO_PLACE:
        return "every leg"
    if step.first >= len(slots):
        return f"debt in {axis.currencies[_holdings(room, k)[step.first - len(slots)]]}"
    return axis.instrument(int(slots[step.first]))


def _maturity(bucket: int, unit: int, room: Room, k: int, axis: Axis) -> str:
    """Name of a bucket of a unit."""
    if bucket >= room.num_maturities - 2:
        return ("perpetuals", "spot")[bucket - room.num_maturities + 2]
    book = room.book
    lists = book.leg_instrument[0], book.option_instrument[0]
    of_unit = np.concatenate([np.repeat(np.arange(x.shape[0]), x.shape[1]) for x in lists])
    slots = slot_instruments(room, k)
    mine = (of_unit == unit) & (np.asarray(room.maturity)[:, k] == bucket) & (slots > 0)
    expiry: Any = axis.instruments["expiry"].iloc[slots[mine][0] - 1]
    return pd.Timestamp(expiry).isoformat()
