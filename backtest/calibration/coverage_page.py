"""The page of core-model and margin-adequacy backtests, from saved tables; the two stay apart."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from backtest.calibration.coverage_study import KINDS
from backtest.calibration.study_page import study_page
from backtest.durable import write_bytes
from backtest.errors import DataError
from backtest.report import cells, frames, text, theme
from backtest.report.cells import Column, page_table
from backtest.report.reader import Results
from backtest.report.section import Picture, Section


TITLES = {"adequacy": "Margin adequacy", "core": "Core model"}
_WHAT = {
    "adequacy": "Was the whole requirement enough for what the account then lost? Loss: fall of "
    "adjusted equity; margin: total MMR.",
    "core": "Are the stress charges right? Without the fee floor and borrowing, and without the "
    "depeg charge where no stablecoin moves; collateral in full. Loss: fall of equity; margin: "
    "the MMR of the derivatives.",
}
_CAVEATS = (
    (
        "Portfolios are frozen: nobody trades, deposits or is liquidated. What becomes of an "
        "account that is liquidated is another question, and in the report of a run."
    ),
    (
        "Accounts breach together in a crash. Intervals and verdicts come from resampling blocks "
        "of time; horizons longer than the interval overlap, which blocks allow for."
    ),
    (
        "A margin that holds at 99 % of times and fails in one crash for everybody passes a count "
        "and fails its accounts: look at the largest exception and the regimes."
    ),
)


def build_coverage_page(folder: str | Path) -> Path:
    """Write the page of a study from its saved tables; returns it."""
    folder = Path(folder)
    if not (folder / "coverage.json").is_file():
        raise DataError(f"{folder}: coverage.json is missing, so this is no finished backtest")
    about = json.loads((folder / "coverage.json").read_text(encoding="utf-8"))
    files = {name: folder / "tables" / f"{name}.parquet" for name in KINDS}
    tables = {name: pd.read_parquet(file) for name, file in files.items() if file.is_file()}
    target, pictures = folder / "report", {}
    for name, frame in tables.items():
        figure = figure_coverage(frame, TITLES[name])
        pictures[f"coverage_{name}"] = theme.to_svg(figure, f"coverage_{name}")
        write_bytes(target / f"coverage_{name}.png", theme.to_png(figure))
        write_bytes(target / "tables" / f"{name}.csv", frame.to_csv(index=False).encode())
    manifest = Results(folder / "adequacy").manifest
    html = study_page(
        kind="Backtest of margin",
        first="Finding",
        title=about["name"],
        facts=[
            ("Window", _window(manifest["replay"])),
            ("Accounts", text.number(manifest["accounts"])),
            ("Target", f"{text.percent(1.0 - about['probability'])} of losses covered"),
        ],
        sentence=sentence(tables["adequacy"], about["probability"]),
        points=[(TITLES[name], _verdicts(frame)) for name, frame in tables.items()],
        caveats=_CAVEATS,
        sections=[_section(name, frame) for name, frame in tables.items()],
        pictures=pictures,
        config=about,
        footer="Tables are in tables/ as CSV and beside report/ as Parquet, figures beside this "
        "page as PNG; the two replays are in adequacy/ and core/.",
    )
    write_bytes(target / "index.html", html.encode())
    return target / "index.html"


def _window(replay: dict[str, Any]) -> str:
    return f"{text.time(replay['start'])} to {text.time(replay['end'])}"


def totals(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows over all accounts and times."""
    return frames.rows(frame, frame["grouping"] == "total")


def sentence(frame: pd.DataFrame, probability: float) -> str:
    """The finding: the horizon where coverage is lowest, under the first set."""
    name = frame["set"].iloc[0]
    mine = [r for r in frames.records(totals(frame)) if r["set"] == name]
    worst = min(mine, key=lambda r: r["coverage_frac"])
    return (
        f"Under {name} margin covers {text.percent(worst['coverage_frac'])} of the losses of "
        f"{worst['horizon']} ({_point(worst['point'])}), its lowest; the target is "
        f"{text.percent(1.0 - probability)}: {worst['verdict']}."
    )


def _point(point: str) -> str:
    return {"end": "at the end", "worst": "at the worst point"}[point]


def _verdicts(frame: pd.DataFrame) -> str:
    counts = frames.counted(totals(frame)["verdict"])
    return "; ".join(f"{words}: {text.number(int(k))}" for words, k in counts.items()) + "."


_COLUMNS = (
    Column("set", "Set"),
    Column("horizon", "Horizon"),
    Column("point", "Loss at the"),
    Column("grouping", "By"),
    Column("group", "Group"),
    Column("observations", "Observations", cells.count),
    Column("breaches", "Exceptions", cells.count),
    Column("expected_breaches", "Expected", cells.ratio),
    Column("coverage_frac", "Coverage", cells.share),
    Column("target_coverage_frac", "Target", cells.share),
    Column("largest_shortfall_usd", "Largest exception", cells.money),
    Column("average_shortfall_usd", "Average exception", cells.money),
    Column("total_shortfall_usd", "All exceptions", cells.money),
    Column("first_breach_utc", "First", cells.moment, "UTC"),
    Column("last_breach_utc", "Last", cells.moment, "UTC"),
    Column("verdict", "Verdict"),
)


def _section(name: str, frame: pd.DataFrame) -> Section:
    whole = page_table(totals(frame), list(_COLUMNS), f"{TITLES[name]}: all accounts")
    parts = [
        page_table(
            frames.rows(frame, frame["grouping"] == by),
            list(_COLUMNS),
            f"{TITLES[name]}: by {by}",
            200,
            folded=True,
        )
        for by in ("unit", "segment", "tier", "regime")
    ]
    caption = (
        "Points: share of losses above margin; lines: 95 % interval from blocks of time; dashed: "
        "target."
    )
    return Section(
        name, TITLES[name], _WHAT[name], [Picture(f"coverage_{name}", caption)], [whole, *parts]
    )


def figure_coverage(frame: pd.DataFrame, title: str) -> Figure:
    """Exceptions by horizon, at its end and its worst point, with block intervals."""
    mine = totals(frame)
    names, horizons = list(dict.fromkeys(mine["set"])), list(dict.fromkeys(mine["horizon"]))
    target = 1.0 - float(mine["target_coverage_frac"].iloc[0])
    worst = max(frames.records(mine), key=lambda r: r["breaches"] / r["observations"])
    share = worst["breaches"] / worst["observations"]
    heading = (
        f"{title}: at most {text.percent(share)} of losses exceed margin, over "
        f"{worst['horizon']} under {theme.quoted(worst['set'])}"
    )
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(heading, 3.2, 1, 2, sharey=True)
        for axis, point in zip(grid[0], ("end", "worst"), strict=True):
            for k, name in enumerate(names):
                rows = [r for r in frames.records(mine) if r["set"] == name and r["point"] == point]
                at = np.array([horizons.index(r["horizon"]) for r in rows])
                rate = np.array([r["breaches"] / r["observations"] for r in rows])
                ends = np.array([[r["breach_rate_low"], r["breach_rate_high"]] for r in rows]).T
                spread = np.nan_to_num(np.abs(ends - rate))
                axis.errorbar(
                    at + 0.1 * (k - 0.5 * (len(names) - 1)),
                    rate,
                    spread,
                    fmt="osD^v"[k % 5],
                    color=theme.set_color(k),
                    markersize=4.5,
                    capsize=2.5,
                    linewidth=1.1,
                    label=theme.label(name),
                )
            axis.axhline(target, color=theme.MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
            axis.set_title(f"Losses above margin, {_point(point)} of the horizon")
            axis.set_xticks(range(len(horizons)), horizons)
            theme.percent_axis(axis)
        grid[0, 0].set_ylim(bottom=0)  # both panels share the axis, so only once both are drawn
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
