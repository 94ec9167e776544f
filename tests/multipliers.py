"""Break-even multipliers of a batch at every time by itself, from what a replay keeps of them."""

from typing import Any

import numpy as np

from backtest.batching import Batch
from backtest.engine import Engine, initial_state
from backtest.window_records import WindowTables


def multipliers_over_times(engine: Engine, batch: Batch, priced: WindowTables) -> dict[str, Any]:
    """Multipliers [time, account] by charge: of replays in which one time counts."""
    times = np.arange(priced.tables.currency_usd.shape[-1])
    state = initial_state(len(batch.accounts), priced.model)
    segment = np.zeros(len(batch.accounts), int)
    alone = []
    for t in times:
        only = np.where(times == t, t, -1)
        alone.append(engine.replay(batch, state, priced, segment, only).state.theta)
    return {name: np.stack([theta[name] for theta in alone]) for name in priced.model.charges}
