"""Numbers and instruments as arrays: parameter sets and contract terms as kernel records."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from backtest import precision as precision
from backtest.errors import ConfigError
from kernels.models import okx
from kernels.records import (
    FUTURE,
    NULL,
    NUM_QUOTES,
    OPTION,
    PERPETUAL,
    QUOTES,
    SPOT,
    Contract,
)
from kernels.tiers import MarginalTiers, StepTiers


KIND_CODES = {"spot": SPOT, "perpetual": PERPETUAL, "future": FUTURE, "option": OPTION}
ERAS = ("merged",)
NULL_NAME = "(none)"
MAX_DOUBLINGS = 60
"""Borrow tails that grow by a ratio are listed this many tiers far (2^60 times the last bound)."""


class Currencies:
    """The currency axis of a run: quote currencies, the null currency, then coins by name."""

    def __init__(self, coins: list[str]) -> None:
        self.names = [*QUOTES, NULL_NAME, *sorted(set(coins) - set(QUOTES))]
        self.position = {name: k for k, name in enumerate(self.names)}

    @property
    def coins(self) -> list[str]:
        """Names of the coins, without quote currencies and null."""
        return self.names[NUM_QUOTES + 1 :]


def contract_records(instruments: pd.DataFrame, currencies: Currencies) -> Contract:
    """Contract terms with a null contract in front; instrument axis first.

    Args:
        instruments: rows of the ``instruments`` table, in the order of the instrument axis.
        currencies: the currency axis.
    """
    kind = instruments["kind"].astype(str)
    expiry = pd.to_datetime(instruments["expiry"], utc=True)
    expiry_s = np.where(expiry.isna(), np.inf, _epoch_seconds(expiry))
    sign = [{"C": 1.0, "P": -1.0}.get(str(t), 1.0) for t in instruments["option_type"]]
    is_inverse = (instruments["style"].astype(str) == "inverse") & (kind != "option")

    def with_null(values: Any, null: Any, dtype: Any) -> Array:
        return jnp.asarray(np.concatenate([[null], np.asarray(values)]).astype(dtype))

    def position(column: str) -> list[int]:
        return [currencies.position[name] for name in instruments[column].astype(str)]

    strike = instruments["strike"].astype(float)
    return Contract(
        kind=with_null([KIND_CODES[k] for k in kind], NULL, np.int32),
        is_inverse=with_null(is_inverse, False, bool),
        multiplier=with_null(instruments["multiplier"], 0.0, float),
        # A strike of 1 keeps the unused option branch of other contracts finite.
        strike_usd=with_null(strike.fillna(1.0), 1.0, float),
        call_sign=with_null(sign, 1.0, float),
        expiry_s=with_null(expiry_s, np.inf, float),
        coin=with_null(position("coin"), NUM_QUOTES, np.int32),
        settle=with_null(position("settle"), NUM_QUOTES, np.int32),
    )


def _epoch_seconds(times: pd.Series) -> np.ndarray:
    epoch = pd.Timestamp("1970-01-01", tz="UTC")
    return ((times - epoch) / pd.Timedelta(seconds=1)).to_numpy(float)


def okx_parameters(numbers: dict[str, Any], currencies: Currencies) -> okx.OkxParameters:
    """Kernel record of an OKX parameter set (``ParameterSet.numbers()``).

    Every tier table is padded to one fixed width, so that sets share compiled programs.
    """
    if numbers["quote_currencies"] != list(QUOTES):
        raise ConfigError(
            f"quote_currencies {numbers['quote_currencies']}: this version supports {list(QUOTES)}"
        )
    if numbers["era"] not in ERAS:
        raise ConfigError(
            f"parameter set '{numbers['name']}': era '{numbers['era']}' is not replayed by this "
            f"version; allowed: {', '.join(ERAS)}"
        )
    group = _groups(numbers["groups"], currencies)
    return okx.OkxParameters(
        **_scenario_fields(numbers, group),
        **_rate_fields(numbers, group),
        **_fee_fields(numbers["mr7"], group, currencies),
        **_depeg_fields(numbers["mr9"]),
        **_account_fields(numbers, currencies),
        worst_of=jnp.asarray([f"mr{k + 1}" in numbers["aggregation"]["worst"] for k in range(9)]),
        imr_factor=_float(numbers["aggregation"]["imr_factor"]),
    )


def _scenario_fields(numbers: dict[str, Any], group: list[str]) -> dict[str, Any]:
    """Price moves and volatility shocks: MR1, MR2, MR6."""
    moves = [_mirrored(numbers["mr1"]["price_moves"][g]) for g in group]
    if len(moves[0]) != okx.NUM_MOVES:
        raise ConfigError(
            f"mr1.price_moves: {len(moves[0])} prices, this version evaluates {okx.NUM_MOVES} "
            "(0 and three moves, up and down)"
        )
    volatility = numbers["mr1"]["volatility"]
    return {
        "price_moves": _float(moves),
        "points_days": _nodes(volatility["points_days"]),
        "points": _nodes(volatility["points"]),
        "percent_days": _nodes(volatility["percent_days"]),
        "percent": _nodes(volatility["percent"]),
        "has_points": jnp.asarray(len(volatility["points"]) > 0),
        "has_percent": jnp.asarray(len(volatility["percent"]) > 0),
        "combine": jnp.asarray(okx.COMBINE.index(volatility["combine"]), jnp.int32),
        "vol_floor": _float(volatility["floor"]),
        "pnl_in_coin": jnp.asarray(numbers["option_pnl"] == "coin"),
        "theta_days": _float(numbers["mr2"]["days"]),
        "extreme_move": _float([numbers["mr6"]["extreme_move"][g] for g in group]),
        "extreme_factor": _float(numbers["mr6"]["factor"]),
    }


def _rate_fields(numbers: dict[str, Any], group: list[str]) -> dict[str, Any]:
    """Vega, basis and interest rates: MR3, MR4, MR5."""
    vega, basis, rate = numbers["mr3"], numbers["mr4"], numbers["mr5"]
    return {
        "vega_rate": _float(vega["rate"]),
        "vega_reference_days": _float(vega["reference_days"]),
        "vega_min_days": _float(vega["min_days"]),
        "basis_near": _float([basis["near"][g] for g in group]),
        "basis_annual": _float([basis["annual"][g] for g in group]),
        "basis_charges_spot": jnp.asarray(basis["charge_spot"]),
        "basis_charges_perpetuals": jnp.asarray(basis["charge_perpetuals"]),
        "basis_charges_options": jnp.asarray(basis["charge_options"]),
        "rate_parallel": _float(rate["parallel"]),
        "rate_slope": _float(rate["slope"]),
        "rate_slope_span_yr": _float(rate["slope_span_years"]),
    }


def _fee_fields(fee: dict[str, Any], group: list[str], currencies: Currencies) -> dict[str, Any]:
    """Minimum charge: MR7."""
    linear = [
        fee["coin_linear_rate"].get(name, fee["linear_rate"][g])
        for name, g in zip(currencies.names, group, strict=True)
    ]
    tiers = [(fee["tiers"][g]["bounds_usd"], fee["tiers"][g]["multipliers"]) for g in group]
    return {
        "fee_linear": _float(linear),
        "fee_short_option": _float(fee["short_option_rate"]),
        "fee_long_option": _float(fee["long_option_rate"]),
        "fee_tiers": _marginal(tiers, 16),
    }


def _depeg_fields(depeg: dict[str, Any]) -> dict[str, Any]:
    """Stablecoin depeg: MR9."""
    bounds = [0.0, *depeg["bounds_usd"]]
    return {
        "depeg_enabled": jnp.asarray(depeg["enabled"]),
        "depeg_floor_usd": _float(bounds),
        "depeg_width_usd": _float([*np.diff(bounds), np.inf]),
        "depeg_calm_index": _float(depeg["calm_index"]),
        "depeg_calm_rate_step": _float(depeg["calm_rate_step"]),
        "depeg_stress_index": _float(depeg["stress_index"]),
        "depeg_base_index": _float(depeg["base_index"]),
        "depeg_base_rate": _float(depeg["base_rate"]),
        "depeg_offset": _float(depeg["size_offset"]),
        "depeg_max_rate": _float(depeg["max_rate"]),
    }


def _account_fields(numbers: dict[str, Any], currencies: Currencies) -> dict[str, Any]:
    """Collateral, borrowing (MR8) and margin levels."""
    collateral, collateral_in_usd = _collateral(numbers["collateral"], currencies)
    borrowing, borrowing_in_usd = _borrowing(numbers["mr8"]["tiers"], currencies)
    levels = numbers["levels"]
    return {
        "collateral": collateral,
        "collateral_in_usd": collateral_in_usd,
        "borrowing": borrowing,
        "borrowing_in_usd": borrowing_in_usd,
        "borrow_fee_rate": _float(numbers["mr8"]["fee_rate"]),
        "warning_level": _float(levels["warning"]),
        "liquidation_level": _float(levels["liquidation"]),
        "safe_level": _float(levels["safe"]),
        "min_equity_usd": _float(levels["min_equity_usd"]),
    }


def _float(values: Any) -> Array:
    return jnp.asarray(np.asarray(values, np.float64))


def _groups(groups: dict[str, list[str]], currencies: Currencies) -> list[str]:
    of_coin = {coin: name for name, coins in groups.items() for coin in coins}
    return [of_coin.get(name, "G3") for name in currencies.names]


def _mirrored(moves: list[float]) -> list[float]:
    return [-x for x in reversed(moves[1:])] + list(moves)


def _nodes(values: list[float], width: int = 8) -> Array:
    # Repeating the last node keeps an interpolation table flat after its end.
    if len(values) > width:
        raise ConfigError(f"mr1.volatility: {len(values)} nodes, at most {width} are supported")
    padded = list(values) or [0.0]
    return _float(padded + [padded[-1]] * (width - len(padded)))


def _marginal(rows: list[tuple[list[float], list[float]]], width: int) -> MarginalTiers:
    """Tier tables from (bounds between tiers, rates of the tiers) per currency."""
    floor = np.full((len(rows), width), np.inf)
    rate, base = np.zeros_like(floor), np.zeros_like(floor)
    for k, (bounds, rates) in enumerate(rows):
        if len(rates) > width:
            raise ConfigError(f"{len(rates)} tiers in one table, at most {width} are supported")
        starts = np.concatenate([[0.0], bounds])
        floor[k, : len(rates)] = starts
        rate[k, : len(rates)] = rates
        base[k, 1 : len(rates)] = np.cumsum(np.diff(starts) * np.asarray(rates)[:-1])
    return MarginalTiers(floor=_float(floor), rate=_float(rate), base=_float(base))


def _collateral(table: dict[str, Any], currencies: Currencies) -> tuple[MarginalTiers, Array]:
    rows, in_usd = [], []
    for name in currencies.names:
        tiers = table.get(name, table["default"])
        bounds, rates = list(tiers["bounds"]), list(tiers["rates"])
        # Beyond the last bound nothing counts; without bounds one rate holds for all.
        rows.append((bounds, [*rates, 0.0] if bounds else rates))
        in_usd.append(tiers["unit"] == "usd")
    return _marginal(rows, 128), jnp.asarray(in_usd)


def _borrowing(table: dict[str, Any], currencies: Currencies) -> tuple[StepTiers, Array]:
    names, width = currencies.names, 64
    floor = np.full((len(names), width), np.inf)
    mmr, imr = np.zeros_like(floor), np.zeros_like(floor)
    last, step, rate_step = np.full(len(names), np.inf), np.zeros(len(names)), np.zeros(len(names))
    for k, name in enumerate(names):
        tiers = table.get(name, table["default"])
        bounds, rates = list(tiers["bounds"]), [list(tiers["mmr"]), list(tiers["imr"])]
        if tiers["tail_ratio"] > 1:
            for _ in range(min(MAX_DOUBLINGS, width - 1 - len(bounds))):
                bounds.append(bounds[-1] * tiers["tail_ratio"])
                for column in rates:
                    column.append(column[-1] + tiers["tail_rate_step"])
        elif tiers["tail_step"] > 0:
            last[k], step[k] = bounds[-1], tiers["tail_step"]
            rate_step[k] = tiers["tail_rate_step"]
        starts = [0.0, *bounds[:-1]]
        floor[k, : len(starts)] = starts
        mmr[k, : len(starts)], imr[k, : len(starts)] = rates
    record = StepTiers(
        floor=_float(floor),
        mmr=_float(mmr),
        imr=_float(imr),
        last=_float(last),
        tail_step=_float(step),
        tail_rate_step=_float(rate_step),
    )
    in_usd = [table.get(n, table["default"])["unit"] == "usd" for n in names]
    return record, jnp.asarray(in_usd)
