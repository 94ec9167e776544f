"""The numbers in force at each time of a replay, for one entry of its parameter sets."""

from datetime import UTC
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from backtest.dataset import Dataset
from backtest.dynamic import factor_path
from backtest.market_window import micros, stamp
from backtest.model_records import Currencies
from backtest.parameter_records import has_split_units, parameter_record
from backtest.params import ParameterSet
from backtest.schedule import Schedule, load_rules
from kernels.model import MarginModel
from kernels.models import MODELS_BY_NAME


class SetRules:
    """One parameter set or schedule of sets, as kernel records by time.

    Args:
        name: name of the entry in the run's configuration.
        file: parameter set or schedule.
        currencies: the currency axis.
        dataset: what parameters that follow the market read.
        times_us: the grid on which they do.
    """

    def __init__(
        self, name: str, file: Path, currencies: Currencies, dataset: Dataset, times_us: np.ndarray
    ) -> None:
        self.name = name
        self.schedule: Schedule = load_rules(file)
        self._currencies, self._dataset = currencies, dataset
        self.times_us = times_us
        self._records: dict[tuple[Any, ...], Any] = {}
        self._followed: dict[str, list[str]] = {}

    @property
    def model(self) -> MarginModel:
        """The margin model of every step."""
        return MODELS_BY_NAME[self.schedule.model]

    def set_at(self, time_us: int) -> ParameterSet:
        """The set in force at a time.

        Raises:
            ConfigError: the time is before the schedule's first step.
        """
        return self.schedule.at(stamp(int(time_us)).to_pydatetime().astimezone(UTC))

    def is_split(self, time_us: int) -> bool:
        """Whether risk units are by coin and settlement currency at a time."""
        return has_split_units(self.set_at(time_us).numbers())

    @cached_property
    def paths(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Factor and driver by time of every key that some step's set lets follow the market.

        Each rule runs over the whole grid, so that a step finds it where the market has led it.
        """
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for _, chosen in self.schedule.steps:
            for key, rule in chosen.rules().items():
                file = chosen.rule_files.get(key)
                found[f"{chosen.hash}/{key}"] = factor_path(
                    rule, self._dataset, self.times_us, file
                )
        return found

    def numbers_at(self, time_us: int) -> dict[str, Any]:
        """The numbers in force at a grid time, followed parameters as they stand then."""
        chosen = self.set_at(time_us)
        return chosen.scaled(self._factors(chosen, time_us))

    def factors_at(self, time_us: int) -> dict[str, float]:
        """Factors of the leaves that follow the market at a grid time, by key path."""
        return self._factors(self.set_at(time_us), time_us)

    def records(self, times_us: np.ndarray) -> Any:
        """Parameter record with a leading time axis; ``times_us`` are grid times."""
        each = [self._record(self.set_at(time), time) for time in times_us.tolist()]
        if all(one is each[0] for one in each):
            return jax.tree.map(lambda x: np.broadcast_to(x, (len(each), *x.shape)), each[0])
        return jax.tree.map(lambda *x: np.stack(x), *each)

    def path_rows(self) -> list[dict[str, Any]]:
        """Factor and driver of each followed key while its set was in force, for the results."""
        rows: list[dict[str, Any]] = []
        if not self.paths:
            return rows
        for k, time in enumerate(self.times_us.tolist()):
            chosen = self.set_at(time)
            for key in self._keys(chosen):
                factor, driver = (x[k] for x in self.paths[f"{chosen.hash}/{key}"])
                rows.append({"key": key, "time": time, "value": factor, "driver": driver})
        return rows

    def _factors(self, chosen: ParameterSet, time_us: int) -> dict[str, float]:
        keys = self._keys(chosen)
        if not keys:
            return {}
        k = int(np.searchsorted(self.times_us, time_us))
        return {key: float(self.paths[f"{chosen.hash}/{key}"][0][k]) for key in keys}

    def _keys(self, chosen: ParameterSet) -> list[str]:
        """Keys of a set that follow the market."""
        if chosen.hash not in self._followed:
            self._followed[chosen.hash] = list(chosen.rules())
        return self._followed[chosen.hash]

    def _record(self, chosen: ParameterSet, time_us: int) -> Any:
        factors = self._factors(chosen, time_us)
        key = chosen.hash, *factors.values()
        if key not in self._records:
            record = parameter_record(chosen.scaled(factors), self._currencies)
            self._records[key] = jax.tree.map(np.asarray, record)
        return self._records[key]


def unit_switches_us(schedules: list[Schedule]) -> list[int]:
    """Instants at which some schedule regroups risk units: a window must not span one."""
    found: set[int] = set()
    for schedule in schedules:
        eras = [has_split_units(chosen.numbers()) for _, chosen in schedule.steps]
        for (start, _), before, now in zip(schedule.steps[1:], eras, eras[1:], strict=False):
            if before != now:
                found.add(int(micros(pd.DatetimeIndex([start]))[0]))
    return sorted(found)
