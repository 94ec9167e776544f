"""The largest exceptions of a backtest, with what the margin was made of and what the market did.

The cause is a rule of thumb, said in words: the account's net delta at the start times the furthest
move of a coin that it holds explains half of the loss or more ("price"), or a stablecoin moved
("stablecoin"), or neither ("other": volatility, basis, convexity or collateral).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from backtest.report import frames, text
from backtest.report.reader import Results
from backtest.statistics.records import Outcomes
from backtest.statistics.tables import Labels


MOST = 50
EXPLAINED = 0.5
"""Share of a loss from which its price move is called the cause; assumed."""
STABLE_MOVE = 0.01
"""Move of a stablecoin from which it counts; assumed."""
CAUSES = ("price", "stablecoin", "other")
COLUMNS = (
    "set", "time", "account", "unit", "segment", "loss_usd", "margin_usd", "shortfall_usd",
    "loss_to_margin", "charges", "binding", "coin", "coin_move_frac", "explained_frac", "cause",
)  # fmt: skip


def exception_table(
    results: Results, outcomes: Outcomes, labels: Labels, horizon: str, stable: Iterable[str]
) -> pd.DataFrame:
    """The largest exception of each account, the 50 largest of each set.

    Columns: set, time (of the margin, UTC), account, unit, segment, loss_usd, margin_usd,
    shortfall_usd, loss_to_margin, charges (the three largest then), binding (scenario at the first
    event within the horizon), coin and coin_move_frac (furthest move of the index within it),
    explained_frac (of the loss, by net delta and that move), cause.

    Args:
        results: the run with traces.
        outcomes: its losses and margins.
        labels: with the columns ``coins`` (names with blanks between) and ``net_delta_usd``.
        horizon: of the losses.
        stable: currencies whose move is a depeg.
    """
    market = _Market(results, horizon, stable)
    rows = []
    for s, name in enumerate(labels.sets):
        found = _largest(outcomes, s)
        who = [str(labels.accounts["account"].iloc[at]) for at, _ in found]
        saved = _Saved(results, name, who, market.length)
        for at, when in found:
            account = frames.records(labels.accounts.iloc[[at]])[0]
            time: Any = pd.Timestamp(outcomes.times[when]).tz_localize("UTC")
            loss = float(outcomes.loss_usd[s, at, when])
            margin = float(outcomes.margin_usd[s, at, when])
            coin, move = market.furthest(time, str(account["coins"]).split())
            explained = -float(account["net_delta_usd"]) * move / loss
            rows.append(
                {
                    "set": name,
                    "time": time,
                    **{k: str(account[k]) for k in ("account", "unit", "segment")},
                    "loss_usd": loss,
                    "margin_usd": margin,
                    "shortfall_usd": loss - margin,
                    "loss_to_margin": loss / margin if margin > 0 else np.nan,
                    "charges": saved.charges(str(account["account"]), time),
                    "binding": saved.binding(str(account["account"]), time),
                    "coin": coin,
                    "coin_move_frac": move,
                    "explained_frac": explained,
                    "cause": cause(explained, market.stable_move(time)),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def cause(explained_frac: float, stable_move_frac: float) -> str:
    """What an exception is put down to."""
    if explained_frac >= EXPLAINED:
        return CAUSES[0]
    return CAUSES[1] if stable_move_frac >= STABLE_MOVE else CAUSES[2]


def _largest(outcomes: Outcomes, s: int) -> list[tuple[int, int]]:
    """Account and time of the largest shortfall of each account that has one, largest first."""
    short = np.nan_to_num(outcomes.shortfall_usd[s])
    if not short.size:
        return []
    when = short.argmax(axis=1)
    size = short[np.arange(len(short)), when]
    order = np.argsort(-size, kind="stable")
    return [(int(at), int(when[at])) for at in order if size[at] > 0][:MOST]


class _Market:
    """Moves of the index within a horizon."""

    def __init__(self, results: Results, horizon: str, stable: Iterable[str]) -> None:
        rows = results.index()
        table: Any = rows.pivot(index="time", columns="currency", values="usd").sort_index()
        self._table = table
        self.length: Any = pd.Timedelta(horizon)
        self._stable = [c for c in stable if c in table.columns]

    def furthest(self, time: pd.Timestamp, coins: Iterable[str]) -> tuple[str, float]:
        """The coin that moved furthest, and by how much; no name and 0 where none is known."""
        moves = self._moves(time, [c for c in coins if c in self._table.columns])
        return max(moves.items(), key=lambda move: abs(move[1]), default=("", 0.0))

    def stable_move(self, time: pd.Timestamp) -> float:
        """The furthest move of a stablecoin, without its sign."""
        moves = self._moves(time, self._stable)
        return max((abs(move) for move in moves.values()), default=0.0)

    def _moves(self, time: pd.Timestamp, names: list[str]) -> dict[str, float]:
        within = self._table.loc[time : time + self.length]
        if not names or not len(within):
            return {}
        prices = within[names].to_numpy(float)
        moves = np.nan_to_num(prices / prices[0] - 1.0)
        furthest = moves[np.abs(moves).argmax(axis=0), np.arange(len(names))]
        return dict(zip(names, furthest.tolist(), strict=True))


class _Saved:
    """What a run saved of some accounts under one set: charges by time, and events."""

    def __init__(
        self, results: Results, name: str, accounts: list[str], length: pd.Timedelta
    ) -> None:
        self._traces, self._events = (
            results.of_accounts(table, name, accounts) for table in ("traces", "events")
        )
        self._labels = {c.name: c.short for c in results.charges(name)}
        self._length = length

    def charges(self, account: str, time: pd.Timestamp) -> str:
        """The three largest charges of an account at a time, as shares of all charges."""
        rows = self._traces
        mine = frames.rows(rows, (rows["account_id"] == account) & (rows["time"] == time))
        amounts = {k: float(mine[k].iloc[0]) for k in self._labels if k in mine and len(mine)}
        total = sum(amounts.values())
        largest = sorted(amounts, key=lambda k: -amounts[k])[:3]
        parts = [
            f"{self._labels[k]} {text.percent(amounts[k] / total)}"
            for k in largest
            if amounts[k] > 0
        ]
        return ", ".join(parts)

    def binding(self, account: str, time: pd.Timestamp) -> str:
        """Unit, charge and scenario that bound at the first event within the horizon."""
        rows = self._events
        if not len(rows):
            return ""
        is_within = (rows["time"] >= time) & (rows["time"] <= time + self._length)
        mine = frames.rows(rows, (rows["account_id"] == account) & is_within)
        if not len(mine):
            return ""
        row = frames.records(frames.ordered(mine, "time"))[0]
        charge = self._labels.get(row["binding_charge"], row["binding_charge"])
        sign = "+" if row["binding_price_move"] > 0 else ""
        move = f"{sign}{text.percent(row['binding_price_move'])}"
        vol = f"volatility {row['binding_vol']}"
        return f"{row['binding_unit']} {charge}, {move}, {vol} ({row['event']})"
