"""Liquidations that move prices: a run is replayed on the prices it leads to until they stand.

Round 0 is the replay without impact, to the bit. After a round the net cash delta that was traded
is added up by time and coin over all accounts, exactly, so that neither buckets nor their order
matter; that gives moves of prices (``impact.path_of``), and the next round is replayed on these:
``path_(k+1) = path of what was liquidated on path_k``. All accounts of a round see the same prices.
A cell is replayed again only where a move until the end of its window has changed. The end is a
path that gives itself, to ``impact.tolerance``, one that leads back to an earlier one and so would
go on for ever, or ``impact.max_rounds``: a run says which.

A round is decided by its path alone, and the path is saved before it begins, so an interrupted run
goes on with the round that it was in.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from backtest.cells import safe_name
from backtest.cluster import Replay, Report
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.durable import write_bytes, write_table
from backtest.impact import DailyVolatility, Traded, path_of, standing
from backtest.liquidation_rules import rules_of_sets
from backtest.market_window import micros, stamp
from backtest.moves import NOTHING, Moves
from backtest.plan import Plan
from backtest.schema import NAME, NUMBER, TIME
from backtest.waterfall_run import Rows, liquidated_rows


STATE = Path("cells") / "impact.json"
"""Where the path of the round that is replayed is kept, below the run folder."""
MOVE_SCHEMA = pa.schema(
    [
        ("parameter_set", NAME),
        ("time", TIME),
        ("coin", NAME),
        ("index_usd", NUMBER),
        ("traded_usd", NUMBER),
        ("move_frac", NUMBER),
    ]
)
"""Columns of ``impact``: one row a time and coin with a move or a trade. ``traded_usd`` is the net
cash delta of the time, bought (> 0) or sold; ``move_frac`` what prices are moved by, with what is
left of earlier moves; ``index_usd`` the index without it."""
ROUND_SCHEMA = pa.schema(
    [
        ("parameter_set", NAME),
        ("round", pa.int32()),
        ("largest_move_frac", NUMBER),
        ("largest_change_frac", NUMBER),
        ("liquidated", pa.int64()),
        ("bankrupt", pa.int64()),
        ("notional_usd", NUMBER),
        ("bad_debt_usd", NUMBER),
        ("traded_usd", NUMBER),
        ("stands_still", pa.bool_()),
        ("goes_in_a_circle", pa.bool_()),
    ]
)
"""Columns of ``impact_rounds``: ``largest_move_frac`` of the prices that the round was replayed on,
``largest_change_frac`` the furthest that its liquidations would move one of them from there;
accounts liquidated and bankrupt; sums over all times, ``traded_usd`` of absolute net amounts. After
a round that ``goes_in_a_circle`` prices would be those of an earlier round."""


@dataclass(frozen=True)
class Round:
    """A round: its number, its moves by parameter set, rows of ``impact_rounds`` until it.

    ``seen`` are names of the moves that were replayed, by the name of the parameter set.
    """

    number: int
    moves: list[Moves]
    rows: Rows = field(default_factory=list[dict[str, Any]])
    seen: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


@dataclass
class Impact:
    """The rounds of one run.

    Args:
        config: what is run.
        plan: what that means for the dataset.
        dataset: where the index is.
        out: results folder.
    """

    config: RunConfig
    plan: Plan
    dataset: Dataset
    out: Path

    @cached_property
    def numbers(self) -> dict[int, dict[str, Any]]:
        """Liquidation numbers of the parameter sets whose liquidations move prices."""
        every = enumerate(rules_of_sets(self.config))
        return {s: each for s, each in every if each["impact"]["model"] != "none"}

    @cached_property
    def volatility(self) -> dict[int, DailyVolatility]:
        """The volatility of the coins of the run, over the days that each parameter set has."""
        ends = [int(self.plan.times_us[k]) for k in (0, -1)]
        days = {s: float(each["impact"]["volatility_days"]) for s, each in self.numbers.items()}
        found = {
            each: DailyVolatility(self.dataset, self.plan.coins, ends[0], ends[1], each)
            for each in set(days.values())
        }
        return {s: found[each] for s, each in days.items()}

    def replay(
        self,
        replay: Replay,
        say: Callable[[str], None],
        on_round: Callable[[int], None] | None = None,
    ) -> tuple[list[Report], Round]:
        """Replay until prices stand still; the reports of all rounds and the last round.

        Args:
            replay: replays every bucket on some moves.
            say: receives a line after each round.
            on_round: receives the number of each round after the first before it begins.
        """
        state, reports = begun(self.out, len(self.config.parameter_sets)), list[Report]()
        while True:
            if state.number and on_round is not None:
                on_round(state.number)
            reports = _added(reports, replay(state.moves))
            following = self._after(state)
            for row in state.rows:
                if row["round"] == state.number:
                    say(told(row))
            if following is None:
                return reports, state
            save(self.out, following)
            state = following

    def _after(self, state: Round) -> Round | None:
        """The round after one that was replayed, None if there is none; adds to its rows."""
        last, moves = _last_rows(state.rows), list(state.moves)
        goes_on, last_us = False, int(self.plan.times_us[-1])
        for s, numbers in self.numbers.items():
            name, rule = self.config.parameter_sets[s].name, numbers["impact"]
            row = last.get(name)
            if row and (_has_ended(row) or row["round"] >= rule["max_rounds"]):
                continue
            rows = liquidated_rows(self.out, name)
            traded, times_us = net(rows), self.plan.times_us
            path = path_of(traded, times_us, numbers, self.volatility[s])
            moves[s], change = standing(state.moves[s], path, rule["tolerance"])
            stands = change <= rule["tolerance"]
            seen = state.seen.setdefault(name, [])
            seen.append(state.moves[s].name(last_us))
            circles = not stands and moves[s].name(last_us) in seen
            row = round_row(name, state.number, state.moves[s], rows, traded, change, stands)
            state.rows.append(row | {"goes_in_a_circle": circles})
            if stands or circles or state.number >= rule["max_rounds"]:
                moves[s] = state.moves[s]
            else:
                goes_on = True
        if not goes_on:
            return None
        return Round(state.number + 1, moves, list(state.rows), state.seen)

    def write(self, state: Round) -> list[dict[str, Any]]:
        """Write the tables of moves and of rounds; what the manifest says of each set."""
        found = []
        for s, numbers in self.numbers.items():
            name = self.config.parameter_sets[s].name
            file = f"{safe_name(name)}.parquet"
            moves, traded = state.moves[s], net(liquidated_rows(self.out, name))
            rounds = [row for row in state.rows if row["parameter_set"] == name]
            for folder, rows, schema in (
                ("impact", self._move_rows(s, moves, traded), MOVE_SCHEMA),
                ("impact_rounds", rounds, ROUND_SCHEMA),
            ):
                write_table(self.out / folder / file, pa.Table.from_pylist(rows, schema=schema))
            found.append(
                {
                    "parameter_set": name,
                    "model": numbers["impact"]["model"],
                    "rounds": rounds[-1]["round"],
                    "stands_still": rounds[-1]["stands_still"],
                    "largest_change_frac": rounds[-1]["largest_change_frac"],
                    "largest_move_frac": rounds[-1]["largest_move_frac"],
                    "max_move_frac": numbers["impact"]["max_move"],
                }
            )
        return found

    def _move_rows(self, s: int, moves: Moves, traded: Traded) -> Rows:
        by_key, index = moves.by_key, self.volatility[s].index_usd
        keys = {*by_key, *((time, coin) for time, coins in traded.items() for coin in coins)}
        return [
            {
                "parameter_set": self.config.parameter_sets[s].name,
                "time": stamp(time).to_pydatetime(),
                "coin": coin,
                "index_usd": index(time, coin),
                "traded_usd": traded.get(time, {}).get(coin, 0.0),
                "move_frac": by_key.get((time, coin), 0.0),
            }
            for time, coin in sorted(keys)
        ]


def begun(out: Path, num_sets: int) -> Round:
    """The round that an interrupted run was in, else the first one; damage is never believed."""
    try:
        digest, body = (out / STATE).read_bytes().split(b"\n", 1)
        if hashlib.sha256(body).hexdigest() != digest.decode():
            raise ValueError
        content = json.loads(body)
    except (OSError, ValueError):
        return Round(0, [NOTHING] * num_sets)
    moves = [
        Moves(np.asarray(t, np.int64), np.asarray(coins, dtype=str), np.asarray(frac, float), index)
        for t, coins, frac, index in content["moves"]
    ]
    return Round(content["round"], moves, content["rows"], content["seen"])


def save(out: Path, state: Round) -> None:
    """Keep a round that is to be replayed, with the hash of it."""
    moves = [
        (m.times_us.tolist(), m.coins.tolist(), m.frac.tolist(), m.moves_index) for m in state.moves
    ]
    content = {"round": state.number, "moves": moves, "rows": state.rows, "seen": state.seen}
    body = json.dumps(content).encode()
    digest = hashlib.sha256(body).hexdigest().encode()
    write_bytes(out / STATE, digest + b"\n" + body)


def net(rows: Rows) -> Traded:
    """Net cash delta by time and coin of rows of ``liquidated``; exact, whatever their order."""
    parts: dict[tuple[int, str], list[float]] = {}
    times = micros([row["time"] for row in rows]).tolist() if rows else []
    for time, row in zip(times, rows, strict=True):
        for coin, usd in zip(row["sold_coins"], row["sold_delta_usd"], strict=True):
            parts.setdefault((time, coin), []).append(usd)
    traded: Traded = {}
    for (time, coin), usd in sorted(parts.items()):
        traded.setdefault(time, {})[coin] = math.fsum(usd)
    return traded


def told(row: dict[str, Any]) -> str:
    """A row of ``impact_rounds`` as a line for the user."""
    what = "prices stand still"
    if not row["stands_still"]:
        what = f"a price changes by {100.0 * row['largest_change_frac']:.3g} % on that"
    if row["goes_in_a_circle"]:
        what += ", back to an earlier round's: it would go on for ever"
    return (
        f"impact of {row['parameter_set']}, round {row['round']}: {row['liquidated']:,} accounts "
        f"liquidated, {row['notional_usd']:,.0f} USD traded; {what}"
    )


def round_row(
    name: str,
    number: int,
    moves: Moves,
    rows: Rows,
    traded: Traded,
    change: float,
    stands: bool,
) -> dict[str, Any]:
    """A row of ``impact_rounds``.

    Args:
        name: parameter set.
        number: of the round.
        moves: that it was replayed on.
        rows: of ``liquidated``.
        traded: their net cash delta.
        change: the furthest that this would move a price from there.
        stands: whether that is none.
    """
    frac = moves.frac
    return {
        "parameter_set": name,
        "round": number,
        "largest_move_frac": float(np.abs(frac).max()) if len(frac) else 0.0,
        "largest_change_frac": change,
        "liquidated": len({row["account_id"] for row in rows}),
        "bankrupt": len({row["account_id"] for row in rows if row["status"] == "bankrupt"}),
        "notional_usd": math.fsum(row["notional_usd"] for row in rows),
        "bad_debt_usd": math.fsum(row["bad_debt_usd"] for row in rows),
        "traded_usd": math.fsum(abs(usd) for coins in traded.values() for usd in coins.values()),
        "stands_still": stands,
        "goes_in_a_circle": False,
    }


def _has_ended(row: dict[str, Any]) -> bool:
    return row["stands_still"] or row["goes_in_a_circle"]


def _last_rows(rows: Rows) -> dict[str, dict[str, Any]]:
    return {row["parameter_set"]: row for row in rows}


def _added(before: list[Report], reports: list[Report]) -> list[Report]:
    """The reports of a round with the cells and seconds of the rounds before."""
    if not before:
        return reports
    found = []
    for old, new in zip(before, reports, strict=True):
        stages = {
            name: old.get("stages", {}).get(name, 0.0) + new.get("stages", {}).get(name, 0.0)
            for name in {**old.get("stages", {}), **new.get("stages", {})}
        }
        cells = {"computed": old["computed"] + new["computed"], "reused": old["reused"]}
        found.append(new | cells | ({"stages": stages} if stages else {}))
    return found
