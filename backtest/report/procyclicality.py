"""How margin moves with the market on portfolios that do not change (K16, K17, K18).

In a run of frozen portfolios the margin of everyone, of each segment and of each account named in
``[traces]`` is that of a constant portfolio: these are the benchmarks. Unpriced accounts drop out
of sums, so a benchmark is left out where the number of scored accounts changes.

The tools against procyclicality wrap the path of any set. What they need besides it, a stressed
level and a floor of ten years, no window of a few months knows: the highest and the mean margin of
the window stand in, which shows how a tool works and is no calibration of it.
"""

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backtest.statistics.procyclicality import (
    buffered,
    floored,
    impulse_response,
    largest_increase,
    largest_step,
    largest_step_within,
    peak_to_trough,
    speed_limited,
    step_capped,
    step_quantile,
    stress_weighted,
)

from . import cells, frames, text, theme
from .cells import Column, page_table
from .figures_time import shown_sets, starts_of
from .reader import Results
from .section import Picture, Section


EVERYONE = "all accounts"
DAYS = (1, 5, 20)
MOST_TRACED = 12
"""Accounts named in ``[traces]`` that are benchmarks."""
MOST_MOVED_USD = 1.0
"""A path below this stays at nothing: no ratio is taken of it."""
BUFFER, STRESS_WEIGHT, CAP, SPEED = 0.25, 0.25, 0.25, 0.02
"""Sizes of the tools: those of RTS 28; the cap a day and the limit a time are examples."""
Tool = Callable[[np.ndarray], np.ndarray]


def has_benchmarks(results: Results) -> bool:
    """Whether portfolios are constant, and there is a path to measure."""
    replay = results.manifest.get("replay") or {}
    if replay.get("mode") != "frozen":
        return False
    return any(len(benchmarks(results, name)) for name in results.set_names)


def benchmarks(results: Results, name: str) -> dict[str, pd.Series]:
    """Total MMR of each benchmark by time under a set, USD."""
    key = ("benchmarks", name)
    if key not in results.memo:
        found = _sums(results, name) | _traced(results, name)
        results.memo[key] = {
            who: path
            for who, path in found.items()
            if len(path) > 2 and path.notna().all() and path.min() > MOST_MOVED_USD
        }
    return results.memo[key]


def _sums(results: Results, name: str) -> dict[str, pd.Series]:
    """Margin of everyone and of each segment, where the same accounts are scored throughout."""
    summary = results.summary(name)
    columns = ["scored", "total_mmr"]
    parts = {EVERYONE: summary} | {
        str(segment): frames.rows(summary, summary["segment"] == segment)
        for segment in sorted(set(summary["segment"].tolist()))
    }
    found = {}
    for who, part in parts.items():
        whole = frames.summed(part, "time", columns)
        if len(set(whole["scored"].tolist())) == 1:
            found[who] = frames.names(whole, "total_mmr")
    return found


def _traced(results: Results, name: str) -> dict[str, pd.Series]:
    chosen = (((results.manifest.get("config") or {}).get("traces")) or {}).get("accounts") or []
    if not isinstance(chosen, list) or not results.has("traces"):
        return {}
    rows = results.traces(parameter_set=name)
    found = {}
    for account in chosen[:MOST_TRACED]:
        mine = frames.rows(rows, rows["account_id"] == account)
        found[account] = frames.names(mine.set_index("time"), "total_mmr")
    return found


def horizons(results: Results, count: int) -> dict[str, int]:
    """Steps that are measured, in times of the grid: one interval, then 1, 5 and 20 days."""
    found = {text.duration(results.interval_seconds): 1}
    for days in DAYS:
        times = days * 86_400 / results.interval_seconds
        if times == int(times) and 1 < times < count:
            found[text.plural(days, "day")] = int(times)
    return found


def procyclicality_table(results: Results) -> pd.DataFrame:
    """Measures of every set and benchmark, one row a step length.

    ``step_exact_frac`` is the largest rise over exactly that long, ``step_within_frac`` over any
    shorter stretch too; ``step_q99_frac`` the 99th percentile of the change; ``step_usd`` the
    largest rise in USD. Ratios of margin, no unit.
    """
    rows: list[dict[str, Any]] = []
    for name in results.set_names:
        for who, series in benchmarks(results, name).items():
            path = series.to_numpy(float)
            about = {"parameter_set": name, "benchmark": who, "mean_usd": float(path.mean())}
            about["peak_to_trough"] = float(peak_to_trough(path))
            for words, n in horizons(results, len(path)).items():
                rows.append(
                    about
                    | {
                        "step": words,
                        "step_exact_frac": float(largest_step(path, n)),
                        "step_within_frac": float(largest_step_within(path, n)),
                        "step_q99_frac": float(step_quantile(path, n)),
                        "step_usd": float(largest_increase(path, n)),
                    }
                )
    columns = ["parameter_set", "benchmark", "mean_usd", "peak_to_trough", "step"]
    columns += ["step_exact_frac", "step_within_frac", "step_q99_frac", "step_usd"]
    return pd.DataFrame(rows, columns=columns)


def tools(path: np.ndarray, day: int) -> dict[str, Tool]:
    """The tools by name, sized for a path; ``day`` is a day in times of its grid."""
    return {
        "none": lambda raw: raw,
        f"buffer of {text.percent(BUFFER)}": lambda raw: buffered(raw, BUFFER),
        f"stress weight of {text.percent(STRESS_WEIGHT)}": lambda raw: stress_weighted(
            raw, float(path.max()), STRESS_WEIGHT
        ),
        "floor at the mean": lambda raw: floored(raw, float(path.mean())),
        f"cap of {text.percent(CAP)} a day": lambda raw: step_capped(raw, day, CAP),
        f"limit of {text.percent(SPEED)} a time": lambda raw: speed_limited(raw, SPEED),
    }


def tool_table(results: Results) -> pd.DataFrame:
    """What each tool makes of the margin of all accounts (or the first benchmark) of each set.

    ``mean_of_raw`` is what it costs, ``below_raw_frac`` the share of times at which it asks for
    less than the set does: coverage given up, so margin is backtested again with such a tool.
    """
    rows = []
    for name in results.set_names:
        paths = benchmarks(results, name)
        if not paths:
            continue
        who = next(iter(paths))
        raw = paths[who].to_numpy(float)
        day = _day(results, len(raw))
        for tool, wrap in tools(raw, day).items():
            path = wrap(raw)
            rows.append(
                {
                    "parameter_set": name,
                    "benchmark": who,
                    "tool": tool,
                    "peak_to_trough": float(peak_to_trough(path)),
                    "step_within_frac": float(largest_step_within(path, day)),
                    "mean_of_raw": float(path.mean() / raw.mean()),
                    "below_raw_frac": float((path < raw * (1.0 - 1e-12)).mean()),
                }
            )
    columns = ["parameter_set", "benchmark", "tool", "peak_to_trough", "step_within_frac"]
    return pd.DataFrame(rows, columns=[*columns, "mean_of_raw", "below_raw_frac"])


def _day(results: Results, count: int) -> int:
    """A day in times of the grid, at most the window."""
    return int(np.clip(round(86_400 / results.interval_seconds), 1, count - 1))


def volatility_step(results: Results) -> pd.Timestamp | None:
    """When volatility jumps in the window of a run on a generated market; None: it does not."""
    market = (results.manifest.get("config") or {}).get("market") or {}
    step = market.get("volatility_step")
    if not step:
        return None
    at: Any = pd.Timestamp(market["start"]) + pd.Timedelta(step["after"])
    times: Any = results.summary(results.champion)["time"]
    return at if times.min() < at <= times.max() else None


def shock_time(results: Results, path: pd.Series) -> int:
    """Position of the shock within a path, at least 1.

    It is the step of volatility that the market was generated with (K18), or else the largest move
    of an index.
    """
    step = volatility_step(results)
    if step is not None:
        return int(np.sum(path.index < step))
    index: Any = results.index().pivot(index="time", columns="currency", values="usd")
    index = index.reindex(path.index).ffill()
    moves = (index / index.shift(1) - 1.0).abs().max(axis=1).fillna(0.0).to_numpy(float)
    return max(1, int(moves[1:].argmax()) + 1) if len(moves) > 1 else 1


def response_table(results: Results) -> pd.DataFrame:
    """Response of margin to the shock of the window (``shock_time``), by set and benchmark.

    ``overshoot_frac``: largest response over that at the end, less 1; ``rise_s`` until nine tenths
    of the way are gone; ``half_life_s`` from the peak until half of the overshoot is gone.
    """
    rows = []
    for name in results.set_names:
        for who, series in benchmarks(results, name).items():
            at = shock_time(results, series)
            found = impulse_response(series.to_numpy(float), at)
            rows.append(
                {
                    "parameter_set": name,
                    "benchmark": who,
                    "shock_time": series.index[at],
                    "largest_response": float(found.response.max()),
                    "overshoot_frac": found.overshoot,
                    "rise_s": found.rise * results.interval_seconds,
                    "half_life_s": found.half_life * results.interval_seconds,
                }
            )
    columns = ["parameter_set", "benchmark", "shock_time", "largest_response", "overshoot_frac"]
    return pd.DataFrame(rows, columns=[*columns, "rise_s", "half_life_s"])


def procyclicality_section(results: Results) -> Section:
    """Peak to trough, steps, tools and response on constant portfolios."""
    steps = page_table(
        procyclicality_table(results),
        [
            Column("parameter_set", "Set"),
            Column("benchmark", "Benchmark"),
            Column("peak_to_trough", "Peak / trough", cells.ratio, "of USD of margin"),
            Column("step", "Step"),
            Column("step_exact_frac", "Largest rise", cells.share, "over exactly that"),
            Column("step_within_frac", "Largest rise", cells.share, "within that"),
            Column("step_q99_frac", "Change", cells.share, "99th percentile"),
            Column("step_usd", "Largest rise", cells.money, "over exactly that"),
        ],
        "Steps of margin",
        80,
    )
    wrapped = page_table(
        tool_table(results),
        [
            Column("parameter_set", "Set"),
            Column("tool", "Tool"),
            Column("peak_to_trough", "Peak / trough", cells.ratio),
            Column("step_within_frac", "Largest rise", cells.share, "within a day"),
            Column("mean_of_raw", "Mean margin", cells.ratio, "of that without"),
            Column("below_raw_frac", "Times below", cells.share, "what the set asks for"),
        ],
        "Tools against procyclicality",
        note="Stressed level and floor are the highest and the mean margin of this window.",
    )
    shock = _shock_words(results)
    response = page_table(
        response_table(results),
        [
            Column("parameter_set", "Set"),
            Column("benchmark", "Benchmark"),
            Column("shock_time", shock.capitalize(), cells.moment, "UTC"),
            Column("largest_response", "Largest response", cells.ratio, "of margin before"),
            Column("overshoot_frac", "Overshoot", cells.share),
            Column("rise_s", "Nine tenths after", _lasting),
            Column("half_life_s", "Half gone after", _lasting),
        ],
        f"Response to the {shock}",
        folded=volatility_step(results) is None,
    )
    return Section(
        "procyclicality",
        "How margin moves with the market",
        "Portfolios are frozen, so what moves margin is the market and the rules, and contracts "
        "that expire. Benchmarks: all accounts, each segment, accounts named in the configuration.",
        [
            Picture(
                "procyclicality",
                "Top: margin in USD over its lowest, all accounts. Below: the champion's with each "
                f"tool, and margin after the {shock} over that before it.",
            )
        ],
        [steps, wrapped, response],
    )


def _shock_words(results: Results) -> str:
    return "largest move" if volatility_step(results) is None else "volatility step"


def _lasting(value: Any) -> str:
    return "beyond the window" if value == float("inf") else text.duration(value)


def figure_procyclicality(results: Results) -> Figure:
    """Margin of one constant portfolio over its lowest, with tools, and after the shock."""
    names = [n for n in shown_sets(results) if benchmarks(results, n)]
    first = benchmarks(results, names[0])
    who = next(iter(first))
    title = (
        f"Margin in USD of {theme.label(who)} peaks at {text.TIMES} "
        f"{text.significant(float(peak_to_trough(first[who].to_numpy(float))))} of its lowest "
        f"under {theme.quoted(names[0])}"
    )
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 6.4, 3)
        top, middle, bottom = grid[:, 0]
        for k, name in enumerate(names):
            paths = benchmarks(results, name)
            if who not in paths:
                continue
            path = paths[who]
            look: dict[str, Any] = {"color": theme.set_color(k), "linestyle": theme.set_style(k)}
            _draw_path(top, _clock(path), path / path.min(), label=theme.label(name), **look)
            at = shock_time(results, path)
            response = impulse_response(path.to_numpy(float), at).response
            hours = np.arange(len(response)) * results.interval_seconds / 3_600.0
            _draw_path(bottom, hours, response, label=theme.label(name), **look)
        raw = first[who].to_numpy(float)
        for k, (tool, wrap) in enumerate(tools(raw, _day(results, len(raw))).items()):
            color, style = theme.charge_color(k), theme.set_style(k)
            label = "as it is" if tool == "none" else tool
            wrapped = wrap(raw) / raw.min()
            _draw_path(
                middle, _clock(first[who]), wrapped, color=color, linestyle=style, label=label
            )
        top.set_title("Margin in USD / its lowest")
        middle.set_title(f"The same under {theme.quoted(names[0])} with tools / its lowest without")
        bottom.set_title(f"Margin in USD after the {_shock_words(results)} / before")
        bottom.set_xlabel("hours after it")
        for axis in (top, middle):
            theme.time_axis(axis, _clock(first[who]))
        theme.legend_above(top)
        theme.legend_below(middle, 32, 3)
    return figure


def _draw_path(axis: Axes, x: np.ndarray, values: Any, **look: Any) -> None:
    """A line with so many points at most as a page can hold; each is the highest of its stretch."""
    starts = starts_of(len(x))
    highest = np.maximum.reduceat(np.asarray(values, float), starts)
    axis.plot(x[starts], highest, **look)


def _clock(path: pd.Series) -> np.ndarray:
    return pd.DatetimeIndex(path.index).tz_convert(None).to_numpy()
