"""Why one account's margin changed between two times of a run, step by step (K12).

One thing after the other is moved to where it ends: what is held, prices, volatilities, the clock,
parameters; after each step the float64 reference says the requirement. The order matters, as always
where margin takes maxima; this one is that of clearing houses' margin calls.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from backtest.config import RunConfig
from backtest.dataset import Dataset, utc
from backtest.errors import ConfigError
from backtest.explain import AccountHistory, set_section, stored_row
from backtest.market_window import micros
from backtest.model_records import Currencies
from backtest.reference import models as reference
from backtest.set_rules import SetRules
from backtest.statistics.attribution import waterfall


PRICES = ("mark_price", "forward", "settlement_index_usd")


@dataclass(frozen=True)
class Change:
    """A change of margin and its steps.

    Attributes:
        parameter_set: whose rules.
        steps: columns step, value, change (total MMR, USD); the residual against what the run
            saved, 0 where it did not trace the account; last the total.
    """

    parameter_set: str
    steps: pd.DataFrame


def explain_change(
    results: Path,
    account: str,
    since: pd.Timestamp,
    time: pd.Timestamp,
    set_name: str | None = None,
) -> Change:
    """The change of total MMR from one time to a later one, USD.

    Args:
        results: results folder of a run; its dataset must still be where it was.
        account: account id.
        since: where the change begins; a time of the run's grid, UTC.
        time: where it ends.
        set_name: parameter set, default the first of the run.

    Raises:
        ConfigError: unknown account or set, a time off the grid, an account that is unpriced, or a
            run that moves cash or positions by itself.
    """
    if not since < time:
        raise ConfigError(f"the change from {since} to {time}: allowed: an earlier time first")
    manifest = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    config = RunConfig.model_validate(manifest["config"])
    _check(config)
    entry = set_section(config, results, set_name)
    dataset = Dataset.open(Path(manifest["dataset"]["path"]))
    past = AccountHistory(dataset, config, account)
    rules = SetRules(entry.name, entry.file, Currencies([]), dataset, past.grid_us)
    first_us, last_us = (int(micros(pd.DatetimeIndex([utc(t)]))[0]) for t in (since, time))
    before, after = past.portfolio(utc(since)), past.portfolio(utc(time))
    held = past.portfolio_of(last_us, first_us)
    numbers = {t: rules.numbers_at(t) for t in (first_us, last_us)}
    priced = _with_market(held, after, PRICES)
    path = [
        (f"{since:%Y-%m-%d %H:%M}", before, first_us),
        ("positions", held, first_us),
        ("prices", priced, first_us),
        ("volatilities", _with_market(priced, after, ("mark_iv",)), first_us),
        ("time", after, first_us),
        ("parameters", after, last_us),
    ]
    values = []
    for step, portfolio, rules_us in path:
        found = reference.margin(portfolio, numbers[rules_us])
        if found["detail"]["unpriced"]:
            missing = ", ".join(found["detail"]["unpriced"])
            raise ConfigError(f"account '{account}' is unpriced at step '{step}': {missing}")
        values.append((step, float(found["account"]["total_mmr"])))
    stored = stored_row(results, entry.name, account, utc(time))
    measured = None if stored is None else stored["total_mmr"]
    return Change(entry.name, waterfall(values, measured))


def _check(config: RunConfig) -> None:
    moving = {
        "replay.interest": config.replay.interest,
        "replay.conversion": config.replay.conversion,
        "liquidation.mode": config.liquidation.mode == "simulate",
    }
    for key, moves in moving.items():
        if moves:
            raise ConfigError(
                f"the run moves holdings by itself ('{key}'); a change is explained for runs that "
                "do not"
            )


def _with_market(
    portfolio: dict[str, Any], later: dict[str, Any], keys: tuple[str, ...]
) -> dict[str, Any]:
    """The portfolio with some market data of a later one of the same positions.

    What is not quoted any more keeps its last value: an expiry is a matter of time.
    """
    rows = {key: later[key] for key in ("positions", "orders")}
    found = dict(portfolio)
    for part, after in rows.items():
        pairs = zip(portfolio[part], after, strict=True)
        found[part] = [
            old | {k: new[k] for k in keys if new.get(k) is not None} for old, new in pairs
        ]
    if "mark_price" in keys:
        found["index_usd"] = later["index_usd"]
    return found
