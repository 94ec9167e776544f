"""Points that learn from results: TPE and NSGA-II of optuna, told what the search window gave.

A sampler is asked for one batch at a time and told its results before the next one. Asked and told
in the same order with the same seed it proposes the same points, so a resumed search repeats its
history here instead of keeping a state on disk.
"""

import importlib
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from backtest.calibration.space import Space
from backtest.errors import ConfigError


VIOLATIONS = "violations"
WORST = 1e30
"""Stands for what is infinite or missing."""


class Sampler:
    """Asks optuna for points.

    Args:
        method: ``tpe`` or ``nsga2``.
        space: what is searched.
        batch: points asked for at once; the population of NSGA-II.
        seed: of the sampler.
        num_objectives: values told of each point.

    Raises:
        ConfigError: optuna is not installed.
    """

    def __init__(
        self, method: str, space: Space, batch: int, seed: int, num_objectives: int
    ) -> None:
        self._optuna = optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._asked = space, []
        self._distributions = {
            p.name: optuna.distributions.FloatDistribution(p.low, p.high) for p in space.parameters
        }
        with warnings.catch_warnings():
            # Constraints and batches are called experimental by optuna.
            warnings.simplefilter("ignore")
            shared = {"seed": seed, "constraints_func": lambda trial: trial.user_attrs[VIOLATIONS]}
            if method == "tpe":
                sampler = optuna.samplers.TPESampler(
                    n_startup_trials=max(10, batch), constant_liar=True, **shared
                )
            else:
                sampler = optuna.samplers.NSGAIISampler(population_size=max(2, batch), **shared)
            self._study = optuna.create_study(
                sampler=sampler, directions=["minimize"] * num_objectives
            )

    def ask(self, count: int) -> Float[np.ndarray, "candidate parameter"]:
        """The next points."""
        self._asked = [self._study.ask(self._distributions) for _ in range(count)]
        points = [[trial.params[name] for name in self._space.names] for trial in self._asked]
        return np.array(points, dtype=float)

    def tell(
        self,
        values: Float[np.ndarray, "candidate objective"],
        violations: Float[np.ndarray, "candidate constraint"],
    ) -> None:
        """What the points asked for last gave.

        Args:
            values: objectives, smaller is better; infinite where there is none.
            violations: by how much each constraint is broken, at most 0 where it holds.
        """
        for trial, mine, broken in zip(self._asked, values, violations, strict=True):
            trial.set_user_attr(VIOLATIONS, _finite(broken))
            self._study.tell(trial, _finite(mine))

    def add(
        self,
        points: Float[np.ndarray, "candidate parameter"],
        values: Float[np.ndarray, "candidate objective"],
        violations: Float[np.ndarray, "candidate constraint"],
    ) -> None:
        """Points that were not asked for, and what they gave; see ``tell``.

        TPE learns from them. NSGA-II breeds from its own generations alone.
        """
        for point, mine, broken in zip(points.tolist(), values, violations, strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as above
                trial = self._optuna.trial.create_trial(
                    params=dict(zip(self._space.names, point, strict=True)),
                    distributions=self._distributions,
                    values=_finite(mine),
                    user_attrs={VIOLATIONS: _finite(broken)},
                    system_attrs={"constraints": _finite(broken)},
                )
                self._study.add_trial(trial)


def _finite(values: np.ndarray) -> list[float]:
    return np.nan_to_num(values, nan=WORST, posinf=WORST).tolist()


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise ConfigError(
            "search.method 'tpe' and 'nsga2' need optuna: "
            'pip install "pm-stress[calibrate]", or choose sobol or grid'
        ) from error
