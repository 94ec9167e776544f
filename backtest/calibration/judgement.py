"""What the numbers of all candidates say: choice, walk out of sample, meters of the search."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from backtest.calibration import objectives
from backtest.calibration.config import OBJECTIVES, CalibrationConfig, Objective
from backtest.calibration.designs import Points
from backtest.calibration.evaluate import candidate_name
from backtest.calibration.folds import Fold, folds
from backtest.calibration.heat import target_of
from backtest.calibration.saved import OVERFITTING_ALONE
from backtest.calibration.select import Assessment, assess, choose, dominated, knee, reachable
from backtest.calibration.series import Series
from backtest.calibration.space import Space
from backtest.calibration.zones import zone_of
from backtest.config import RunConfig
from backtest.statistics.blocks import Plan
from backtest.statistics.confidence_set import confidence_set
from backtest.statistics.overfitting import overfitting


@dataclass(frozen=True)
class Step:
    """One fold: what was chosen on its training stretch, and what that gave on the next one."""

    fold: Fold
    before: int
    chosen: int
    any_feasible: bool


@dataclass(frozen=True)
class Judgement:
    """What the numbers of all candidates say.

    Attributes:
        points, series: the candidates.
        whole: them over the whole window.
        chosen: the candidate to step to from today; ``any_feasible`` whether any holds the limits.
        within: candidates that one step from today reaches.
        steps: the walk; ``path`` is today and what the walk chose, over all trial stretches.
        meter: logits of CSCV and the probability of overfitting; ``alone``: the latter of each
            objective alone (``overfitting_alone``); ``same``: candidates that may be the best one.
    """

    points: Points
    series: Series
    whole: Assessment
    within: np.ndarray
    chosen: int
    any_feasible: bool
    steps: list[Step]
    path: Series
    meter: pd.DataFrame
    alone: pd.DataFrame
    same: np.ndarray

    def tables(self, config: CalibrationConfig, space: Space) -> dict[str, pd.DataFrame]:
        """Tables of the report."""
        return {
            "candidates": self._candidates(config, space),
            "walk_forward": self._walk(config, space),
            "out_of_sample": self._out_of_sample(config),
            "overfitting": self.meter,
            OVERFITTING_ALONE: self.alone,
        }

    def _candidates(self, config: CalibrationConfig, space: Space) -> pd.DataFrame:
        frontier, best = self.frontier(config)
        columns: dict[str, Any] = {
            "candidate": [candidate_name(k) for k in range(len(self.points))],
            **{name: self.points[:, k] for k, name in enumerate(space.names)},
            **{name: self.whole.values[name] for name in OBJECTIVES},
        }
        for k, rule in enumerate(config.constraints):
            columns[f"bound_{k + 1}_{rule.objective}"] = self.whole.bounds[:, k]
        columns |= {
            "feasible": self.whole.feasible,
            "within_step": self.within,
            "on_frontier": frontier,
            "knee": np.arange(len(self.points)) == (-1 if best is None else best),
            "in_confidence_set": self.same,
            "chosen": np.arange(len(self.points)) == self.chosen,
        }
        return pd.DataFrame(columns)

    def frontier(self, config: CalibrationConfig) -> tuple[np.ndarray, int | None]:
        """Candidates that none dominates, and the knee among them."""
        values = self.whole.matrix(config.objectives.frontier)
        on = ~dominated(values)
        return on, knee(values, on)

    def _walk(self, config: CalibrationConfig, space: Space) -> pd.DataFrame:
        rows = []
        for step in self.steps:
            pair = self.series.take([0, step.chosen])
            train, test = pair.cut(step.fold.train), pair.cut(step.fold.test)
            row: dict[str, Any] = {
                "fold": step.fold.number + 1,
                "train_from": train.blocks[0],
                "train_to": train.blocks[-1],
                "test_from": test.blocks[0],
                "test_to": test.blocks[-1],
                "candidate": candidate_name(step.chosen),
                "any_feasible": step.any_feasible,
            }
            levels = self.points[step.chosen]
            row |= {name: levels[k] for k, name in enumerate(space.names)}
            for name in OBJECTIVES:
                now, then = (objectives.value(s, name) for s in (train, test))
                row |= {f"{name}_train": now[1], f"{name}_test": then[1]}
                row |= {f"{name}_today_train": now[0], f"{name}_today_test": then[0]}
            rows.append(row)
        return pd.DataFrame(rows)

    def _out_of_sample(self, config: CalibrationConfig) -> pd.DataFrame:
        """The walk against today's rules over all trial stretches together."""
        plan = objectives.plan_of(self.path, config.bootstrap, config.seed)
        rows = []
        for name in OBJECTIVES:
            now, walk = objectives.value(self.path, name)
            found, low, high = objectives.difference(self.path, name, plan)
            rows.append(
                {
                    "objective": name,
                    "today": now,
                    "walk": walk,
                    "difference": found,
                    "difference_low": low,
                    "difference_high": high,
                }
            )
        return pd.DataFrame(rows)

    def summary(self, config: CalibrationConfig, space: Space, base: RunConfig) -> dict[str, Any]:
        """What the page and the terminal say, ready for JSON."""
        frontier, best = self.frontier(config)
        plan = objectives.plan_of(self.series, config.bootstrap, config.seed)
        return {
            "name": config.name,
            "config": config.model_dump(mode="json") | {"base": config.base.name},
            "today_set": space.today.name,
            "accounts_of": base.name,
            "candidates": len(self.points) - 1,
            "feasible": int(self.whole.feasible[1:].sum()),
            "today_feasible": bool(self.whole.feasible[0]),
            "frontier": int(frontier.sum()),
            "dominated": int((~frontier).sum()),
            "knee": None if best is None else candidate_name(best),
            "chosen": candidate_name(self.chosen),
            "any_feasible": self.any_feasible,
            "levels": dict(zip(space.names, self.points[self.chosen].tolist(), strict=True)),
            "leaves": [row.key for row in space.today.leaves()],
            "now": dict(zip(space.names, space.now.tolist(), strict=True)),
            "overfitting": float(self.meter["probability"].iloc[0]) if len(self.meter) else None,
            "halves": len(self.meter),
            "zone": self._zone(config, plan),
            "in_confidence_set": int(self.same.sum()),
            "blocks": len(self.series.blocks),
            "mean_block": plan.block,
            "interval_seconds": self.series.interval_seconds,
            "liquidated_today": int(self.series.of("liquidated")[0].sum()),
        }

    def _zone(self, config: CalibrationConfig, plan: Plan) -> dict[str, Any]:
        """Zone of the choice's frequency against its limit, today's where it has none."""
        rules = [rule.model_dump() for rule in config.constraints]
        target, words = target_of(rules, float(self.whole.values["frequency"][0]))
        return zone_of(self.series, self.chosen, target, plan) | {"target_is": words}


def judge(config: CalibrationConfig, space: Space, points: Points, series: Series) -> Judgement:
    """Choose on the whole window, and walk forward through it."""
    limit = None if config.trust_region is None else config.trust_region.step_frac
    minimise = config.objectives.minimise
    at, steps = 0, []
    for fold in folds(series.blocks, config.objectives.block, config.walk_forward):
        seen = assess(series.cut(fold.train), config)
        chosen, any_feasible = choose(seen, minimise, reachable(points, points[at], limit), at)
        steps.append(Step(fold, at, chosen, any_feasible))
        at = chosen
    trials = [series.take([0, step.chosen]).cut(step.fold.test) for step in steps]
    path = Series(
        np.concatenate([trial.blocks for trial in trials]),
        np.concatenate([trial.values for trial in trials], axis=1),
        series.interval_seconds,
    )
    whole = assess(series, config)
    within = reachable(points, space.now, limit)
    chosen, any_feasible = choose(whole, minimise, within, 0)
    meters = _meters(config, points, series)
    return Judgement(points, series, whole, within, chosen, any_feasible, steps, path, *meters)


def _meters(
    config: CalibrationConfig, points: Points, series: Series
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Logits of CSCV, the same of each objective alone, which candidates may be the best one."""
    judged = config.objectives
    weighed: set[Objective] = {*judged.frontier, judged.minimise}
    names: list[Objective] = [name for name in OBJECTIVES if name in weighed]
    loss = objectives.losses(series, names)
    splits = min(config.overfitting.splits, len(loss) // 2 * 2)
    logits, probability = np.zeros(0), float("nan")
    is_measured = len(points) > 1 and splits >= 2
    if is_measured:
        meter = overfitting(loss, splits)
        logits, probability = meter.logits, meter.probability
    plan = objectives.plan_of(series, config.bootstrap, config.seed)
    same = confidence_set(
        loss,
        config.overfitting.size,
        block=plan.block or 1,
        resamples=config.bootstrap.resamples,
        seed=config.seed,
    )
    frame = pd.DataFrame({"logit": logits}).assign(probability=probability)
    alone = overfitting_alone(series, names if is_measured else [], splits)
    return frame, alone, same.included


def overfitting_alone(series: Series, names: list[Objective], splits: int) -> pd.DataFrame:
    """Probability of overfitting of each objective alone, and today's dearest block of it.

    One block that holds most of an objective is in one half of the window only: what is best with
    it is not what is best without it, however little the search has learnt from noise.
    """
    rows = []
    for name in names:
        loss = objectives.losses(series, [name])
        if not loss.any():
            continue
        today = loss[:, 0]
        dearest = int(today.argmax())
        rows.append(
            {
                "objective": name,
                "probability": overfitting(loss, splits).probability,
                "dearest_block": pd.Timestamp(series.blocks[dearest], tz="UTC"),
                "dearest_block_frac": float(today[dearest] / today.sum()),
            }
        )
    columns = ["objective", "probability", "dearest_block", "dearest_block_frac"]
    return pd.DataFrame(rows, columns=columns)
