"""The page of core-model and margin-adequacy backtests, from saved tables; the two stay apart."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from backtest.calibration.coverage_exceptions import MOST
from backtest.calibration.coverage_figures import figure_cumulative, figure_paths, figure_severity
from backtest.calibration.coverage_study import GROUPINGS, KINDS
from backtest.calibration.study_page import study_page
from backtest.durable import write_bytes
from backtest.errors import DataError
from backtest.report import cells, frames, text, theme
from backtest.report.cells import Column, PageTable, page_table
from backtest.report.html import accounts_fact
from backtest.report.reader import Results
from backtest.report.section import Picture, Section
from backtest.statistics.findings import INSUFFICIENT


TITLES = {"adequacy": "Margin adequacy", "core": "Core model"}
_WHAT = {
    "adequacy": "Was the whole requirement enough for what the account then lost? Loss: fall of "
    "adjusted equity; margin: total MMR.",
    "core": "Are the stress charges right? Without charges whose risk is not in prices (which and "
    "why is told below), collateral in full. Loss: fall of equity; margin: the MMR of the "
    "derivatives.",
}
SHOWN = ("paths", "cumulative", "excess", "shortfalls", "exceptions", "charges")
"""Tables of the figures, exceptions and decisions of each backtest."""
_NO_VERDICT = {v.words: v.words.partition(": ")[2] for v in INSUFFICIENT}
"""Why there is none, by the words of the table."""
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
    (
        "A margin rule promises one number and no distribution of losses behind it. So there is no "
        "probability integral transform, and no test of expected shortfall (Z2): they would test a "
        "distribution that the rules do not name."
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
    shown = {name: _shown(folder, name) for name in tables}
    target, pictures = folder / "report", {}
    for name, frame in tables.items():
        for drawn, figure in _figures(name, frame, shown[name], about.get("shown", "")).items():
            pictures[drawn] = theme.to_svg(figure, drawn)
            write_bytes(target / f"{drawn}.png", theme.to_png(figure))
        for table, rows in {name: frame, **_named(name, shown[name])}.items():
            write_bytes(target / "tables" / f"{table}.csv", rows.to_csv(index=False).encode())
    adequacy = Results(folder / "adequacy")
    html = study_page(
        kind="Backtest of margin",
        first="Finding",
        title=about["name"],
        facts=[
            ("Window", _window(adequacy.manifest["replay"])),
            ("Accounts", accounts_fact(adequacy)),
            ("Target", f"{text.percent(1.0 - about['probability'])} of losses covered"),
        ],
        sentence=sentence(tables["adequacy"], about["probability"]),
        points=[(TITLES[name], _verdicts(frame)) for name, frame in tables.items()],
        caveats=_CAVEATS,
        sections=[
            _section(name, frame, shown[name], about.get("shown", ""))
            for name, frame in tables.items()
        ],
        pictures=pictures,
        config=about,
        footer="Tables are in tables/ as CSV and beside report/ as Parquet, figures beside this "
        "page as PNG; the two replays are in adequacy/ and core/.",
    )
    write_bytes(target / "index.html", html.encode())
    return target / "index.html"


def _shown(folder: Path, name: str) -> dict[str, pd.DataFrame | None]:
    """Tables of the figures of a backtest; None those that it was saved without."""
    files = {table: folder / "tables" / f"{name}_{table}.parquet" for table in SHOWN}
    return {t: pd.read_parquet(file) if file.is_file() else None for t, file in files.items()}


def _named(name: str, shown: dict[str, pd.DataFrame | None]) -> dict[str, pd.DataFrame]:
    """Those that are there, by the name of their file."""
    return {f"{name}_{table}": rows for table, rows in shown.items() if rows is not None}


def _figures(
    name: str, frame: pd.DataFrame, shown: dict[str, pd.DataFrame | None], horizon: str
) -> dict[str, Figure]:
    """Figures of a backtest by file name."""
    title = TITLES[name]
    return {
        f"coverage_{name}": figure_coverage(frame, title),
        f"margin_{name}": figure_paths(shown["paths"], title, horizon),
        f"breaches_{name}": figure_cumulative(
            shown["cumulative"], _zones(frame, horizon), title, horizon
        ),
        f"severity_{name}": figure_severity(shown["excess"], shown["shortfalls"], title, horizon),
    }


def _zones(frame: pd.DataFrame, horizon: str) -> dict[str, str]:
    """Zone of each set over all accounts, for the horizon of the figures."""
    rows = frames.records(totals(frame))
    mine = [r for r in rows if (r["horizon"], r["point"]) == (horizon, "worst")]
    return {r["set"]: r["zone"] for r in mine if "zone" in r}


def _window(replay: dict[str, Any]) -> str:
    return f"{text.time(replay['start'])} to {text.time(replay['end'])}"


def totals(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows over all accounts and times."""
    return frames.rows(frame, frame["grouping"] == "total")


def sentence(frame: pd.DataFrame, probability: float) -> str:
    """The finding under the first set: the lowest coverage of the horizons that have a verdict.

    Where none has one, it says so, why, and the lowest coverage of all.
    """
    name = frame["set"].iloc[0]
    mine = [r for r in frames.records(totals(frame)) if r["set"] == name]
    judged = [r for r in mine if r["verdict"] not in _NO_VERDICT]
    worst = min(judged or mine, key=lambda r: r["coverage_frac"])
    covered = text.percent(worst["coverage_frac"])
    losses = f"of the losses of {worst['horizon']} ({_point(worst['point'])})"
    target = f"the target is {text.percent(1.0 - probability)}"
    if not judged:
        reasons = dict.fromkeys(_NO_VERDICT[r["verdict"]] for r in mine)
        return (
            f"Under {name} no horizon has a verdict ({', '.join(reasons)}); margin covers "
            f"{covered} {losses}, its lowest; {target}."
        )
    of = "its lowest" if len(judged) == len(mine) else "the lowest of those with a verdict"
    return f"Under {name} margin covers {covered} {losses}, {of}; {target}: {worst['verdict']}."


def _point(point: str) -> str:
    return {"end": "at the end", "worst": "at the worst point"}[point]


def _verdicts(frame: pd.DataFrame) -> str:
    whole = totals(frame)
    counts = frames.counted(whole["verdict"])
    words = "; ".join(f"{words}: {text.number(int(k))}" for words, k in counts.items())
    if "zone" not in whole:
        return f"{words}."
    zones = frames.counted(whole["zone"])
    return f"{words}. Zones: {'; '.join(f'{z}: {text.number(int(k))}' for z, k in zones.items())}."


_COLUMNS = (
    Column("set", "Set"),
    Column("horizon", "Horizon"),
    Column("point", "Loss at the"),
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
    Column("zone", "Zone"),
    Column("verdict", "Verdict"),
)
_TESTS = (
    Column("set", "Set"),
    Column("horizon", "Horizon"),
    Column("point", "Loss at the"),
    Column("grouping", "By"),
    Column("group", "Group"),
    Column("effective_observations", "Effective observations", cells.count),
    Column("p_value", "Blocks", lambda v: _p(v), "p value"),
    Column("pof_p", "POF", lambda v: _p(v), "p value"),
    Column("cc_p", "CC", lambda v: _p(v), "p value"),
    Column("dq_p", "DQ", lambda v: _p(v), "p value"),
)


_CHARGES = (
    Column("model", "Margin model"),
    Column("charge", "Charge"),
    Column("core", "In the core"),
    Column("why", "Because"),
)
_EXCEPTIONS = (
    Column("set", "Set"),
    Column("time", "Time", cells.moment, "UTC"),
    Column("account", "Account", under="segment"),
    Column("unit", "Risk unit"),
    Column("loss_usd", "Loss", cells.money),
    Column("margin_usd", "Margin", cells.money),
    Column("shortfall_usd", "Exception", cells.money),
    Column("loss_to_margin", "Loss / margin", cells.ratio),
    Column("charges", "Largest charges", under="binding"),
    Column("coin_move_frac", "Furthest move", cells.share, under="coin"),
    Column("explained_frac", "Explained by it", cells.share),
    Column("cause", "Cause"),
)
_BY = {
    "unit": "risk unit",
    "segment": "segment (account type)",
    "tier": "tier of gross notional",
    "side": "side (sign of net delta)",
    "regime": "regime",
}
_ZONES = (
    "Zone: traffic light of effective observations, green below 95 % and yellow below 99.99 % of "
    "the binomial."
)
_NOTE = (
    "Blocks: two-sided p value of the target from blocks of time. POF, CC, DQ: "
    "Kupiec, Christoffersen's conditional coverage and the dynamic quantile of every account alone "
    "on losses that do not overlap, put together by Simes; an account that a test says nothing of "
    "counts as 1."
)


def _p(value: Any) -> str:
    return text.p_value(None if value is None else float(value))


def _section(
    name: str, frame: pd.DataFrame, shown: dict[str, pd.DataFrame | None], horizon: str
) -> Section:
    columns = [c for c in _COLUMNS if c.key in frame]
    of_all = [c for c in columns if c.key != "group"]
    note = _ZONES if "zone" in frame else ""
    whole = page_table(totals(frame), of_all, f"{TITLES[name]}: all accounts", note=note)
    known = set(frame["grouping"])
    parts = [
        page_table(
            frames.rows(frame, frame["grouping"] == by),
            columns,
            f"{TITLES[name]}: by {_BY[by]}",
            200,
            folded=True,
        )
        for (by,) in (g for g in GROUPINGS if g)
        if by in known
    ]
    if "zone" in frame:
        tested = frames.rows(frame, frame["grouping"] != "regime")
        caption = f"{TITLES[name]}: p values"
        parts.append(page_table(tested, list(_TESTS), caption, 400, folded=True, note=_NOTE))
    exceptions = shown["exceptions"]
    if exceptions is not None:
        parts.append(_exceptions(name, exceptions, horizon))
    charges = shown["charges"]
    if charges is not None:
        caption = f"{TITLES[name]}: charges that stay and that are left out"
        parts.append(page_table(charges, list(_CHARGES), caption, 200, folded=True))
    return Section(name, TITLES[name], _WHAT[name], _pictures(name, horizon), [whole, *parts])


def _exceptions(name: str, rows: pd.DataFrame, horizon: str) -> PageTable:
    note = (
        "The largest exception of each account. Charges: the three largest at that time, as shares "
        "of all charges; below, what bound at the account's first warning or liquidation within "
        "the horizon. Move: the furthest of a coin that it holds. Explained: share of the loss "
        "that net delta at the start times that move comes to; half or more is called price, else "
        "a stablecoin that moved by 1 %, else other: volatility, basis, convexity, collateral. "
        "Frozen portfolios are not liquidated, so no stage was reached."
    )
    caption = f"{TITLES[name]}: the {MOST} largest exceptions over {horizon}"
    return page_table(rows, list(_EXCEPTIONS), caption, 2 * MOST, folded=True, note=note)


def _pictures(name: str, horizon: str) -> list[Picture]:
    title = TITLES[name]
    return [
        Picture(
            f"coverage_{name}",
            "Points: share of losses above margin; lines: 95 % interval from blocks of time; "
            "dashed: target.",
        ),
        Picture(
            f"margin_{name}",
            f"{title}: margin at each time (line, USD) and the worst loss of the {horizon} that "
            "follow (area), crosses where the loss is larger. Of each risk unit the account with "
            "the largest gross notional at the start, whatever it lost; its portfolio is frozen.",
        ),
        Picture(
            f"breaches_{name}",
            f"{title}: breaches of all accounts so far (line) and as expected (dashed). Bands: "
            "green up to 95 % and yellow up to 99.99 % of a binomial with the effective number of "
            "observations, for accounts that breach together and windows that overlap are not "
            "independent; of independent observations the bands would be far narrower.",
        ),
        Picture(
            f"severity_{name}",
            f"{title}, left: quantiles of how far breaches exceed margin against an exponential of "
            "the same mean, the tail of distributions that are not heavy; points above the line on "
            "the right: the largest losses are worse than the others lead to expect. Right: "
            "breaches by shortfall, USD, bins of a quarter of a decade. Breaches of one crash are "
            "not independent.",
        ),
    ]


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
