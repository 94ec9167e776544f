"""How long accounts go without a liquidation, all of them and by segment."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import CensoredData, ecdf

from . import frames, text, theme
from .account_stats import account_stats
from .figures_time import shown_sets
from .frequency import times
from .liquidations import SECONDS_PER_DAY, has_liquidations, over_sets
from .reader import Results


MOST_SEGMENTS = 6
"""Segments that have a curve, those with most accounts."""
CAPTION = (
    "Share of accounts not liquidated yet (Kaplan and Meier), by set and, under the champion, by "
    "segment (those with most accounts); accounts that leave or are never liquidated are censored "
    "when they were last scored."
)


def survival(results: Results, name: str) -> pd.DataFrame:
    """Share not liquidated yet by days since the start (Kaplan and Meier), segment after segment.

    ``segment`` is null for all accounts, which come last. The first liquidation is that of an
    account's first slice where the run simulates, else the start of its first episode. An account
    that leaves, or is never liquidated, is censored when it was last scored.
    """
    lives = _lives(results, name)
    parts = [(str(s), lives.loc[lives["segment"] == s]) for s in sorted(set(lives["segment"]))]
    found = [_curve(rows).assign(segment=segment) for segment, rows in parts]
    return pd.concat([*found, _curve(lives).assign(segment=None)], ignore_index=True)


def survival_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Tables of survival by file name."""
    return {"survival": over_sets(results, survival)}


def _lives(results: Results, name: str) -> pd.DataFrame:
    """Segment of each account, seconds to its liquidation (NaN: none) and until last scored."""
    key = ("lives", name)
    if key in results.memo:
        return results.memo[key]
    start: Any = pd.Timestamp(results.manifest["replay"]["start"])
    simulated: dict[str, float] | None = None
    if has_liquidations(results):
        rows = results.simulated("liquidation_totals", name)
        seconds = _seconds_since(start, frames.names(rows, "first_time"))
        simulated = dict(zip(frames.names(rows, "account_id"), seconds.tolist(), strict=True))
    columns = ["segment", "scored", "unpriced", "first_liquidation_time"]
    columns += [] if simulated is None else ["account_id"]
    parts = [pd.DataFrame({"segment": [], "hit_s": [], "last_s": []}).astype({"segment": str})]
    for batch in results.account_batches(columns, name):
        frame = batch.to_pandas()
        seconds = _seconds_since(start, frames.names(frame, "first_liquidation_time"))
        if simulated is not None:
            ids = frames.names(frame, "account_id")
            seconds = np.asarray([simulated.get(k, np.nan) for k in ids], float)
        seen = frames.numbers(frame, "scored") + frames.numbers(frame, "unpriced")
        last = np.maximum(seen - 1.0, 0.0) * results.interval_seconds
        segment = frame["segment"].astype(str)
        whole = pd.DataFrame({"segment": segment, "hit_s": seconds, "last_s": last})
        parts.append(frames.rows(whole, seen > 0))
    results.memo[key] = pd.concat(parts, ignore_index=True)
    return results.memo[key]


def _seconds_since(start: Any, moments: pd.Series) -> np.ndarray:
    """Seconds from the start to each moment, NaN where there is none."""
    return np.asarray((pd.to_datetime(moments, utc=True) - start).dt.total_seconds(), float)


def _curve(lives: pd.DataFrame) -> pd.DataFrame:
    hit = frames.numbers(lives, "hit_s")
    is_hit = np.isfinite(hit)
    if not is_hit.any():
        return pd.DataFrame({"days": [0.0], "survival": [1.0]})
    left = frames.numbers(lives, "last_s")[~is_hit]
    curve = ecdf(CensoredData(uncensored=hit[is_hit], right=left)).sf
    days = np.concatenate([[0.0], curve.quantiles / SECONDS_PER_DAY])
    return pd.DataFrame({"days": days, "survival": np.concatenate([[1.0], curve.probabilities])})


def figure_survival(results: Results) -> Figure:
    """Accounts not liquidated yet: one curve a set, and one a segment under the champion."""
    champion = survival(results, results.champion)
    end = (len(times(results)) - 1) * results.interval_seconds / SECONDS_PER_DAY
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(_title(results, champion), 3.4, 1, 2, sharey=True)
        by_set, by_segment = axes[0].tolist()
        for k, name in enumerate(shown_sets(results)):
            rows = survival(results, name)
            _draw(by_set, rows.loc[rows["segment"].isna()], end, k, theme.label(name))
        for k, segment in enumerate(_largest(results)):
            rows = champion.loc[champion["segment"] == segment]
            _draw(by_segment, rows, end, k, theme.label(segment, 18))
        by_set.set_title("All accounts, by set")
        by_segment.set_title(f"By segment, {theme.quoted(results.champion)}")
        theme.percent_axis(by_set)
        for axis in (by_set, by_segment):
            axis.set_xlabel("days since the start")
            if axis.lines:
                axis.legend(loc="lower left", fontsize=7.5)
    return figure


def _largest(results: Results) -> list[str]:
    """Segments with most accounts under the champion."""
    scored = account_stats(results, results.champion).segments["scored"].to_dict()
    return sorted((str(s) for s in scored), key=lambda s: -float(scored[s]))[:MOST_SEGMENTS]


def _draw(axis: Axes, rows: pd.DataFrame, end: float, k: int, label: str) -> None:
    """A curve, on to the end of the window after its last step."""
    days, share = frames.numbers(rows, "days"), frames.numbers(rows, "survival")
    axis.step(
        np.append(days, max(end, days[-1])),
        np.append(share, share[-1]),
        where="post",
        color=theme.set_color(k),
        linestyle=theme.set_style(k),
        label=label,
    )


def _title(results: Results, champion: pd.DataFrame) -> str:
    last = float(frames.numbers(champion, "survival")[-1])
    name = theme.quoted(results.champion)
    return f"{text.percent(last)} of accounts are not liquidated by the end under {name}"
