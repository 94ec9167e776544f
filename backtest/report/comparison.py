"""The paired comparison of two sets as plain data, for JSON and for the terminal."""

import dataclasses
import math
from typing import Any

import pandas as pd

from . import frames
from .compare import flip_table, flipped_accounts, pairing
from .frequency import block_plan, rate_differences, rates
from .reader import Results
from .tables import summary_table
from .verdict import verdict


def comparison(results: Results, champion: str, challenger: str) -> dict[str, Any]:
    """Everything about two sets on the same accounts and prices; null where there is no number.

    Keys: champion, challenger, verdict, sets (two rows of ``summary_table``), pairs (the flip table
    and McNemar's test), frequency, difference (challenger less champion, three denominators),
    bootstrap, groups (flip table by who they are), flipped_accounts (the 100 largest).
    """
    results.check_set(champion)
    results.check_set(challenger)
    pair = pairing(results, champion, challenger)
    found = verdict(results, champion, challenger)
    frame = summary_table(results, champion, [challenger])
    plan = block_plan(results)
    flipped = flipped_accounts(results, champion, challenger).head(100)
    data = {
        "champion": champion,
        "challenger": challenger,
        "verdict": {"label": found.label, "sentence": found.sentence, "points": dict(found.points)},
        "sets": frames.records(frame),
        "pairs": dataclasses.asdict(pair) | {"pairs": pair.pairs},
        "frequency": {n: dataclasses.asdict(rates(results, n)) for n in (champion, challenger)},
        "difference": dataclasses.asdict(rate_differences(results, champion, challenger)),
        "bootstrap": dataclasses.asdict(plan)
        | {"interval_seconds": results.interval_seconds, "confidence": 0.95},
        "groups": frames.records(flip_table(results, champion, challenger)),
        "flipped_accounts": frames.records(flipped),
    }
    return _plain(data)


def _plain(value: Any) -> Any:
    """The value with types that JSON has: NaN, infinity and NaT become null, times ISO text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if value is pd.NaT or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
