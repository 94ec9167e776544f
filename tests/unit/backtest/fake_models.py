"""Margin models of fake results: closed-form rules for one risk unit.

Counts, episodes, charges and break-even multipliers of an account agree as those of a real run do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.unit.backtest.fake_world import FakeStep, World


Rates = tuple[float, float, float]  # charge / gross notional, by driver: delta, option, gross
Scale = Mapping[str, float | np.ndarray]


@dataclass(frozen=True)
class FakeModel:
    """Charges with their labels and rates, and what a manifest says of them."""

    labels: dict[str, str]
    rates: dict[str, Rates]
    stressed: tuple[str, ...]
    borrow: str
    how: str
    levels: dict[str, float]
    worst_of: tuple[str, ...] = ()
    """Charges of which the largest counts; none in a model whose charges add up."""
    floor: str | None = None

    @property
    def charges(self) -> tuple[str, ...]:
        return tuple(self.labels)


OKX = FakeModel(
    labels={
        "mr1": "MR1 spot shock",
        "mr2": "MR2 theta",
        "mr3": "MR3 vega term structure",
        "mr4": "MR4 basis",
        "mr5": "MR5 interest rate",
        "mr6": "MR6 extreme move",
        "mr7": "MR7 minimum charge",
        "mr8": "MR8 borrowing",
        "mr9": "MR9 stablecoin depeg",
    },
    rates={
        "mr1": (0.12, 0.06, 0.004),
        "mr2": (0.0, 0.004, 0.0),
        "mr3": (0.0, 0.002, 0.0),
        "mr4": (0.0, 0.0, 0.006),
        "mr5": (0.0, 0.001, 0.0),
        "mr6": (0.12, 0.09, 0.003),
        "mr7": (0.0, 0.008, 0.005),
        "mr8": (0.0, 0.0, 0.001),
        "mr9": (0.0, 0.0, 0.0015),
    },
    stressed=("mr1", "mr6", "mr9"),
    borrow="mr8",
    how="In each risk unit only the largest of MR1, MR2 and MR6 counts and MR7 is a floor",
    levels={"warning": 3.0, "liquidation": 1.0, "safe": 1.1},
    worst_of=("mr1", "mr2", "mr6"),
    floor="mr7",
)
BYBIT = FakeModel(
    labels={
        "max_loss": "Stress grid loss",
        "short_options": "Short options",
        "vega_spread": "Vega spread",
        "stablecoin_spread": "USDT-USDC-USD spread",
        "delta_spread": "Delta spread",
        "perpetual_futures": "Perpetuals and futures",
        "borrow": "Borrowing",
    },
    rates={
        "max_loss": (0.15, 0.08, 0.003),
        "short_options": (0.0, 0.009, 0.0),
        "vega_spread": (0.0, 0.004, 0.0),
        "stablecoin_spread": (0.0, 0.0, 0.001),
        "delta_spread": (0.0, 0.0, 0.003),
        "perpetual_futures": (0.01, 0.0, 0.004),
        "borrow": (0.0, 0.0, 0.001),
    },
    stressed=("max_loss", "stablecoin_spread"),
    borrow="borrow",
    how="",
    levels={"warning": 3.0, "liquidation": 1.0, "safe": 1 / 0.9},
)
MODELS = {"okx": OKX, "bybit": BYBIT}


def scale_by_time(world: World, steps: tuple[FakeStep, ...]) -> Scale:
    """What scales each charge at each time under a schedule."""
    clock = np.linspace(0, 1, len(world.times))
    rule = sum((clock >= s.at for s in steps[1:] if s.at is not None), np.zeros(len(clock), int))
    names = {name for s in steps for name in s.scale}
    return {n: np.array([s.scale.get(n, 1.0) for s in steps])[rule] for n in names}


def score_world(world: World, scale: Scale, model: FakeModel = OKX) -> dict[str, np.ndarray]:
    """Charges, margins, level, status, episodes and break-even multipliers of all accounts."""
    delta = np.abs(world.accounts["delta"].to_numpy())[:, None]
    option = world.accounts["option"].to_numpy()[:, None]
    charge = {}
    for k, (by_delta, by_option, by_gross) in model.rates.items():
        driver = by_delta * delta + by_option * option + by_gross * np.ones_like(delta)
        stress = world.stress if k in model.stressed else 1.0
        charge[k] = scale.get(k, 1.0) * driver * world.gross * stress
    zero = np.zeros_like(world.gross)
    worst = np.max([zero, *(charge[k] for k in model.worst_of)], axis=0)
    apart = {*model.worst_of, model.floor, model.borrow}
    extra = sum((v for k, v in charge.items() if k not in apart), zero)
    floor = charge[model.floor] if model.floor else zero
    derivatives = np.maximum(worst + extra, floor)
    total = derivatives + charge[model.borrow]
    adjusted = world.equity - 0.02 * np.abs(world.equity)
    level = np.divide(adjusted, total, out=np.full_like(total, np.nan), where=total > 0)
    scored = world.state == 0
    level[~scored] = np.nan
    theta = _theta(model, charge, worst, extra, adjusted)
    theta = {k: np.where(scored, v, np.inf).min(axis=1) for k, v in theta.items()}
    return {
        **charge,
        **{f"theta_{k}": v for k, v in theta.items()},
        "derivatives_mmr": derivatives,
        "total_mmr": total,
        "total_imr": 1.3 * derivatives + 2 * charge[model.borrow],
        "adjusted_equity": adjusted,
        "margin_level": level,
        "status": _status(world, level, total),
    } | _episodes(level, model.levels["safe"])


def _theta(
    model: FakeModel,
    charge: dict[str, np.ndarray],
    worst: np.ndarray,
    extra: np.ndarray,
    adjusted: np.ndarray,
) -> dict[str, np.ndarray]:
    """Closed-form break-even multiplier of each charge at each time, one risk unit."""
    left = adjusted - charge[model.borrow]
    floor = charge[model.floor] if model.floor else np.zeros_like(left)
    room = {}
    for k, own in charge.items():
        if k == model.borrow:
            room[k] = adjusted - np.maximum(worst + extra, floor)
        elif k == model.floor:
            room[k] = np.where(worst + extra <= left, left, -1.0)
        elif k in model.worst_of:
            others = np.max([charge[j] for j in model.worst_of if j != k], axis=0)
            room[k] = np.where((others + extra <= left) & (floor <= left), left - extra, -1.0)
        else:
            room[k] = np.where(floor <= left, left - worst - extra + own, -1.0)
    out = {}
    for k, v in room.items():
        ratio = np.divide(v, charge[k], out=np.where(v >= 0, np.inf, 0.0), where=charge[k] > 0)
        out[k] = np.maximum(ratio, 0.0)
    return out


def _status(world: World, level: np.ndarray, total: np.ndarray) -> np.ndarray:
    status = np.select(
        [total <= 0, world.equity < 0, level <= 1, world.equity < 10_000, level < 3],
        ["no_requirement", "bankrupt", "liquidation", "ineligible", "warning"],
        "ok",
    ).astype(object)
    status[world.state == 1] = "unpriced"
    status[world.state == 2] = "quarantined"
    return status


def _episodes(level: np.ndarray, safe: float) -> dict[str, np.ndarray]:
    """Hysteresis: an episode starts at 100 % or below and ends above the safe level."""
    active = np.zeros(level.shape[0], dtype=bool)
    starts = np.zeros(level.shape, dtype=bool)
    ends = np.zeros(level.shape, dtype=bool)
    for t in range(level.shape[1]):
        starts[:, t] = ~active & (level[:, t] <= 1)
        ends[:, t] = active & (level[:, t] > safe)
        active = (active | starts[:, t]) & ~ends[:, t]
    return {"starts": starts, "ends": ends}
