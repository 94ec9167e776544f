"""The core of each margin model: the charges whose risk is in replayed prices, as parameter files.

Replayed are index prices, marks, forwards and volatilities. A charge stays in the core where a loss
that it stands for would show in them; every other charge is an add-on, which would flatter a test
of the model against prices. ``CORE_MODELS`` decides it charge by charge, with the reason; a new
margin model is another entry there. In every model collateral counts in full, so that equity is
profit and loss and no haircut moves it.

References:
    ESMA91-372-2811 (2023), backtesting of CCP margin models; backtesting rules, 0.1 and 2.1.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from backtest.calibration.space import write_set
from backtest.durable import write_bytes
from backtest.params import ParameterSet
from backtest.schedule import BEGINNING, load_rules
from kernels.models import MODELS_BY_NAME


SOURCE = "core-model backtest: add-ons whose risk is not in prices are left out"


@dataclass(frozen=True)
class AddOn:
    """A charge that the core leaves out.

    Attributes:
        leaves: What switches it off at 0 (or false): patterns of key paths, ``*`` is any text.
        why: Why its risk is not in replayed prices.
        unless_depeg: It stays where a stablecoin moves in the replay.
    """

    leaves: tuple[str, ...]
    why: str
    unless_depeg: bool = False


@dataclass(frozen=True)
class CoreModel:
    """What becomes of every charge of a margin model, by the name of the charge.

    Attributes:
        stays: Why its risk is in replayed prices.
        add_ons: What is left out, how and why.
    """

    stays: Mapping[str, str]
    add_ons: Mapping[str, AddOn]


def _tiers(table: str) -> tuple[str, ...]:
    """Rates of borrow tiers, of every currency."""
    return tuple(f"{table}.*.{name}" for name in ("mmr", "imr", "tail_rate_step"))


_DEBT = "credit risk of a debt: it rests on the size borrowed, and no price says who pays it back"
_NO_DEPEG = "stablecoins stand still in the replay, so nothing that it stands for can happen"
_DEPEG = "a stablecoin moves in the replay"

OKX = CoreModel(
    stays={
        "mr1": "moves of price and volatility",
        "mr2": "time that passes, in the marks of options",
        "mr3": "volatilities of expiries that move apart",
        "mr4": "forwards that move against spot",
        "mr5": "interest rates, in forwards and option marks",
        "mr6": "an extreme move of price",
    },
    add_ons={
        "mr7": AddOn(
            ("mr7.*rate*",), "floor for what closing costs: a rate on size; marks hold no cost"
        ),
        "mr8": AddOn(("mr8.fee_rate", *_tiers("mr8.tiers")), _DEBT),
        "mr9": AddOn(("mr9.enabled",), _NO_DEPEG, unless_depeg=True),
    },
)
BYBIT = CoreModel(
    stays={
        "max_loss": "moves of price and volatility: the stress grid, with the spot that hedges",
        "vega_spread": "volatilities of expiries that move apart, as MR3 of OKX",
        # The cap of the spot basis is a share of the collateral ratio, which the core has at 1: a
        # little higher, and out of reach below a basis of 1.25 (BTC 1.78).
        "delta_spread": "forwards that move against spot and against each other, as MR4 of OKX",
    },
    add_ons={
        # A jump beyond the grid is in prices, but this rate is not made of one: it is the same for
        # any strike, expiry and volatility. The core asks whether the grid covers that jump.
        "short_options": AddOn(
            ("contingency.short_option_rate",),
            "a rate on the number of options sold, whatever the market, as MR7 of OKX",
        ),
        "stablecoin_spread": AddOn(
            ("contingency.stablecoin_spread_rate",), _NO_DEPEG, unless_depeg=True
        ),
        "perpetual_futures": AddOn(
            ("contingency.perpetual_futures.rates",),
            "a rate on gross size, hedged or not: what closing costs, as MR7 of OKX",
        ),
        "borrow": AddOn(_tiers("borrowing.tiers"), _DEBT),
    },
)
CORE_MODELS = {"okx": OKX, "bybit": BYBIT}
"""By the ``model`` key of a parameter file; another model is another entry here."""
FULL: dict[str, list[float]] = {"collateral.*.bounds": [], "collateral.*.rates": [1.0]}
"""Collateral in full, in the shape that all models share."""


def core_leaves(chosen: ParameterSet, *, with_depeg: bool = False) -> dict[str, Any]:
    """Leaves of a set's core that differ from the set, by key path.

    Args:
        chosen: the set, of any model.
        with_depeg: keep the charge on stablecoins: their prices move in the replay.
    """
    add_ons = CORE_MODELS[chosen.model].add_ons.values()
    off = [key for a in add_ons if not (a.unless_depeg and with_depeg) for key in a.leaves]
    found: dict[str, Any] = {}
    for row in chosen.leaves():
        if any(fnmatchcase(row.key, pattern) for pattern in off):
            found[row.key] = _nothing(row.value)
        for pattern, value in FULL.items():
            if fnmatchcase(row.key, pattern):
                found[row.key] = list(value)
    return found


def decisions(models: Iterable[str], *, with_depeg: bool = False) -> pd.DataFrame:
    """Charges of some margin models: model, charge, core ("stays" or "left out") and why."""
    rows = []
    for model in dict.fromkeys(models):
        core = CORE_MODELS[model]
        for name, title in MODELS_BY_NAME[model].charges.items():
            words = ("stays", core.stays.get(name, _DEPEG))
            add_on = core.add_ons.get(name)
            if add_on is not None and not (add_on.unless_depeg and with_depeg):
                words = ("left out", add_on.why)
            rows.append((model, title, *words))
    return pd.DataFrame(rows, columns=["model", "charge", "core", "why"])


def write_core(file: Path, rules_file: Path, *, with_depeg: bool = False) -> Path:
    """Save the core of a parameter set, or of a schedule: the same dates, each step's core.

    Args:
        file: where it goes; the cores of a schedule's steps go to a folder beside it.
        rules_file: parameter set or schedule.
        with_depeg: as for ``core_leaves``.

    Returns:
        ``file``.

    Raises:
        ConfigError: the parameter set or schedule is not allowed.
    """
    rules = load_rules(rules_file)
    if rules.steps[0][0] == BEGINNING:
        _write_set(file, rules.steps[0][1], rules_file, with_depeg)
        return file
    text = f"name = {json.dumps(f'{rules.name} core')}\ndescription = {json.dumps(SOURCE)}\n"
    for k, (start, chosen) in enumerate(rules.steps, start=1):
        assert chosen.file is not None
        step = file.with_suffix("") / f"{k}.toml"
        _write_set(step, chosen, chosen.file, with_depeg)
        text += _step(start, step.relative_to(file.parent))
    write_bytes(file, text.encode())
    return file


def _write_set(file: Path, chosen: ParameterSet, base: Path, with_depeg: bool) -> None:
    """Save the core of one set; what it leaves out or counts in full follows no market."""
    leaves = core_leaves(chosen, with_depeg=with_depeg)
    write_set(file, f"{chosen.name} core", base, chosen, leaves, SOURCE, keep_rules=False)


def _step(start: datetime, file: Path) -> str:
    return f"\n[[steps]]\nfrom = {start.isoformat()}\nfile = {json.dumps(file.as_posix())}\n"


def _nothing(value: Any) -> Any:
    """No charge, in the shape of a value."""
    if isinstance(value, list):
        return [0.0] * len(value)
    return False if isinstance(value, bool) else 0.0
