"""At which size of the impact a cascade tips over: a run replayed at several scales of its impact.

Amplification is what liquidations trade with impact over what they trade without. The scales of a
declared list are tried from the smallest on, each from unmoved prices until prices stand still, go
round in a circle, or the rounds are used up, till one tips: amplification above a threshold, or
prices that still change by much. An account whose trigger lies between two paths of prices may make
them go to and fro by a little for ever, which is no cascade. Then the gap below is halved, by
ratio, a few times. The tipping point is the smallest scale that tipped; the truth lies between it
and the largest scale below it that did not.

Round 0 is the same at every scale, so it is replayed once. A scale that is finished is kept below
the run folder, and a search that was stopped goes on with the next one.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from backtest import cluster
from backtest.cells import safe_name
from backtest.claim import claim
from backtest.cluster import Replay
from backtest.config import RunConfig, TracesSection
from backtest.durable import disk_of, only_user, write_json, write_table
from backtest.engine import use_compilation_cache
from backtest.ensure import ensure_dataset
from backtest.errors import ConfigError
from backtest.impact import Traded, path_of, standing
from backtest.impact_rounds import Impact, net, round_row, told
from backtest.liquidation_rules import scaled
from backtest.moves import NOTHING
from backtest.plan import make_plan
from backtest.run import identity_of
from backtest.schema import NAME, NUMBER
from backtest.waterfall_run import Rows, liquidated_rows


TABLE = "impact_tipping"
WORK = "tipping"
"""Folder below a run where scales that are finished are kept."""
SEARCH = "search.json"
SCHEMA = pa.schema(
    [
        ("parameter_set", NAME),
        ("scale", NUMBER),
        ("rounds", pa.int32()),
        ("stands_still", pa.bool_()),
        ("largest_move_frac", NUMBER),
        ("largest_change_frac", NUMBER),
        ("liquidated", pa.int64()),
        ("bankrupt", pa.int64()),
        ("notional_usd", NUMBER),
        ("bad_debt_usd", NUMBER),
        ("amplification", NUMBER),
        ("accounts_amplification", NUMBER),
        ("threshold", NUMBER),
        ("tips", pa.bool_()),
        ("is_tipping_point", pa.bool_()),
    ]
)
"""Columns of ``impact_tipping``: one row a set and scale, scale 0 first: nothing moves there.
``amplification`` of the notional, ``accounts_amplification`` of the accounts liquidated."""
_COPIED = (
    "stands_still",
    "largest_move_frac",
    "largest_change_frac",
    "liquidated",
    "bankrupt",
    "notional_usd",
    "bad_debt_usd",
)


@dataclass(frozen=True)
class Tipping:
    """What is asked.

    Fields:
        lowest, highest, factor: the list of scales, multiples of the run's impact: the lowest,
            each ``factor`` times the one before, up to the highest.
        amplification: tips above it.
        unsettled_frac: tips where a price still changes by more after the last round.
        halvings: how often the gap below the first scale that tips is halved.
        most_rounds: fewer rounds a scale than the liquidation file allows; None = as many.

    Raises:
        ConfigError: a value makes no list.
    """

    lowest: float = 0.25
    highest: float = 1024.0
    factor: float = 4.0
    amplification: float = 2.0
    unsettled_frac: float = 0.01
    halvings: int = 4
    most_rounds: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("lowest", self.lowest, 0.0),
            ("factor", self.factor, 1.0),
            ("amplification", self.amplification, 1.0),
            ("unsettled_frac", self.unsettled_frac, 0.0),
        ):
            if not value > least or not math.isfinite(value):
                raise ConfigError(f"tipping: '{name}' is {value}; allowed: above {least:g}")
        if not self.lowest <= self.highest <= 1e9:
            text = f"allowed: from 'lowest', {self.lowest:g}, to 1e9"
            raise ConfigError(f"tipping: 'highest' is {self.highest}; {text}")

    @property
    def scales(self) -> list[float]:
        """The list, ascending."""
        count = math.floor(math.log(self.highest / self.lowest, self.factor) + 1e-9)
        return [self.lowest * self.factor**k for k in range(count + 1)]


def tipping(
    folder: Path,
    config: RunConfig,
    asked: Tipping,
    *,
    names: list[str] | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Rows:
    """Search the tipping point of a run; rows of ``impact_tipping``, also saved in its folder.

    Args:
        folder: of the run.
        config: of the run; its liquidation files name an impact.
        asked: the search.
        names: parameter sets; all that have an impact if None.
        workers: buckets at once; as configured if None.
        say: receives a line after each round.

    Raises:
        ConfigError: the run has no impact, or no such set.
        DataError, RunError: as of a run.
    """
    use_compilation_cache()
    rows: Rows = []
    chosen = [s for s in config.parameter_sets if names is None or s.name in names]
    if names is not None and (unknown := sorted(set(names) - {s.name for s in chosen})):
        known = ", ".join(repr(s.name) for s in config.parameter_sets)
        raise ConfigError(f"tipping: no parameter set {unknown[0]!r}; this run has {known}")
    for one in chosen:
        changes = {"parameter_sets": [one], "traces": TracesSection()}
        report = config.report.model_copy(update={"champion": None})
        alone = config.model_copy(update=changes | {"report": report})
        rows += _of_set(folder / WORK / safe_name(one.name), alone, asked, workers, say)
    if not rows:
        raise ConfigError(
            f"{folder}: its liquidations move no prices; needs [liquidation] mode = 'simulate' and "
            "a liquidation file with an [impact] model"
        )
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_table(folder / "report_data" / f"{TABLE}.parquet", table)
    return rows


def _of_set(
    work: Path,
    config: RunConfig,
    asked: Tipping,
    workers: int | None,
    say: Callable[[str], None],
) -> Rows:
    """Rows of one parameter set; none where its liquidations move no prices."""
    dataset = ensure_dataset(config, say)
    plan = make_plan(config, dataset)
    impact = Impact(config, plan, dataset, work)
    if not impact.numbers:
        return []
    identity = identity_of(config, dataset)
    with disk_of(work), only_user(work):
        try:
            claim(work, identity, fresh=False)
        except ConfigError:  # of another program, or of a run that stood here before
            claim(work, identity, fresh=True)
        with cluster.replaying(
            config, plan, work, workers=workers or config.engine.workers, scheduler=None
        ) as replay:
            search = _Search(impact, replay, asked, say)
            rows = search.rows()
        for path in work.iterdir():  # what a search needs again is in one file
            if path.is_dir():
                shutil.rmtree(path)
    return rows


class _Search:
    """The search of one parameter set."""

    def __init__(
        self, impact: Impact, replay: Replay, asked: Tipping, say: Callable[[str], None]
    ) -> None:
        self.impact, self.asked, self.say = impact, asked, say
        self._replay = replay
        self.name = impact.config.parameter_sets[0].name
        self.numbers = impact.numbers[0]
        most = int(self.numbers["impact"]["max_rounds"])
        self.most_rounds = min(most, asked.most_rounds or most)
        self._file = impact.out / SEARCH
        self._kept = _read(self._file)

    def rows(self) -> Rows:
        """Rows of every scale that was tried, ascending."""
        found = {0.0: self._tried(0.0)}
        below, first = 0.0, None
        for scale in self.asked.scales:
            found[scale] = self._tried(scale)
            if self._tips(found[scale]):
                first = scale
                break
            below = scale
        if first is not None and below > 0.0:
            for _ in range(self.asked.halvings):
                middle = math.sqrt(below * first)
                found[middle] = self._tried(middle)
                below, first = (below, middle) if self._tips(found[middle]) else (middle, first)
        return [self._row(scale, found[scale], first) for scale in sorted(found)]

    def _tried(self, scale: float) -> dict[str, Any]:
        """What a scale leads to; from the file where it is finished."""
        key = f"{scale!r} in {self.most_rounds if scale else 0}"
        if key not in self._kept["scales"]:
            self._kept["scales"][key] = self._last_round(scale)
            write_json(self._file, self._kept)
        return self._kept["scales"][key]

    def _last_round(self, scale: float) -> dict[str, Any]:
        """The last round at a scale, as a row of ``impact_rounds``."""
        self._need_static()
        numbers, times_us = scaled(self.numbers, scale), self.impact.plan.times_us
        tolerance, moves = numbers["impact"]["tolerance"], NOTHING
        row: dict[str, Any] = self._kept["static"]["row"]
        traded = _traded(self._kept["static"]["traded"])
        seen, last_us = set[str](), int(times_us[-1])
        for number in range(self.most_rounds + 1):
            if number:
                self._replay([moves])
                rows = liquidated_rows(self.impact.out, self.name)
                traded = net(rows)
                row = round_row(self.name, number, moves, rows, traded, 0.0, True)
            path = path_of(traded, times_us, numbers, self.impact.volatility[0])
            following, change = standing(moves, path, tolerance)
            stands = change <= tolerance
            seen.add(moves.name(last_us))
            circles = not stands and following.name(last_us) in seen
            row = row | {"largest_change_frac": change, "stands_still": stands}
            row |= {"goes_in_a_circle": circles}
            self.say(f"scale {scale:g}: {told(row)}")
            if stands or circles:
                break
            moves = following
        return row

    def _need_static(self) -> None:
        """Round 0, where nothing has moved: the same at every scale."""
        if "static" in self._kept:
            return
        self._replay([NOTHING])
        rows = liquidated_rows(self.impact.out, self.name)
        traded = net(rows)
        row = round_row(self.name, 0, NOTHING, rows, traded, 0.0, True)
        self._kept["static"] = {
            "row": row,
            "traded": [[t, coin, usd] for t, by in traded.items() for coin, usd in by.items()],
        }
        write_json(self._file, self._kept)

    def _over(self, row: dict[str, Any], column: str) -> float:
        """With impact over without; 1 where there is nothing without."""
        without = self._kept["static"]["row"][column]
        return row[column] / without if without > 0 else 1.0

    def _tips(self, row: dict[str, Any]) -> bool:
        above = self._over(row, "notional_usd") > self.asked.amplification
        return above or row["largest_change_frac"] > self.asked.unsettled_frac

    def _row(self, scale: float, row: dict[str, Any], first: float | None) -> dict[str, Any]:
        return {
            "parameter_set": self.name,
            "scale": scale,
            "rounds": row["round"],
            **{column: row[column] for column in _COPIED},
            "amplification": self._over(row, "notional_usd"),
            "accounts_amplification": self._over(row, "liquidated"),
            "threshold": self.asked.amplification,
            "tips": self._tips(row),
            "is_tipping_point": scale == first,
        }


def _traded(rows: list[Any]) -> Traded:
    found: Traded = {}
    for time, coin, usd in rows:
        found.setdefault(int(time), {})[coin] = float(usd)
    return found


def _read(file: Path) -> dict[str, Any]:
    """Scales that are finished; none of a damaged file."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {"scales": {}}
    return content if isinstance(content.get("scales"), dict) else {"scales": {}}
