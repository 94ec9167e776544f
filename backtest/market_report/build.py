"""The page, its pictures and its tables in a folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from backtest.dataset import Dataset
from backtest.durable import write_bytes
from backtest.market.series import floats_of, names_of, rows_of
from backtest.market_report.figures import coverage_figure, findings_figure
from backtest.market_report.scan import Limits, MarketFindings, scan
from backtest.quality import Description, describe
from backtest.report import cells, text, theme
from backtest.report.cells import Column, PageTable, page_table
from backtest.report.template import page


_TEMPLATES = Path(__file__).parent / "templates"
_MOST_ROWS = 30
_MEANING = {
    "stale marks": "equal marks one after the other while the index moves; rows",
    "jumps of marks": "change from one row to the next; fraction",
    "jumps of the index": "change from one row to the next; fraction",
    "far from the index": "perpetuals and futures against the index, both in USD; fraction",
    "absurd or crossed volatilities": "mark volatility out of range, or a bid above its ask",
    "marks against Black-76": "mark against the row's own volatility and forward; coins",
    "put-call parity": "call minus put against 1 - K/F; coins",
    "calendar arbitrage": "fall of total variance to the next expiry at equal ln(K/F); fraction",
}


@dataclass(frozen=True)
class ReportFiles:
    """Where the report lies, and how much it found."""

    page: Path
    figures: list[Path]
    tables: list[Path]
    findings: dict[str, int]


def build_report(dataset: Dataset, out: Path, limits: Limits | None = None) -> ReportFiles:
    """Write the report of a dataset: ``index.html``, figures as PNG, tables as CSV.

    Args:
        dataset: opened dataset.
        out: folder of the report; files of the same names are replaced.
        limits: what counts as a finding.
    """
    found = scan(dataset, limits)
    drawn = {"coverage": coverage_figure(found.coverage), "findings": findings_figure(found)}
    pictures = {name: theme.to_svg(figure, name) for name, figure in drawn.items()}
    figures = [out / f"{name}.png" for name in drawn]
    for path, figure in zip(figures, drawn.values(), strict=True):
        write_bytes(path, theme.to_png(figure))
    tables = _write_tables(found, out / "tables")
    page = _render(dataset, describe(dataset), found, pictures)
    write_bytes(out / "index.html", page.encode())
    counts = {name: len(rows) for name, rows in found.found.items()}
    return ReportFiles(out / "index.html", figures, tables, counts)


def _write_tables(found: MarketFindings, folder: Path) -> list[Path]:
    frames = {name.replace(" ", "-"): rows for name, rows in found.found.items()}
    frames |= {"instruments": found.life, "coverage": _coverage_table(found)}
    paths: list[Path] = []
    for name, frame in frames.items():
        paths.append(folder / f"{name}.csv")
        written = frame.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%SZ")
        write_bytes(paths[-1], written.encode())
    return paths


def _coverage_table(found: MarketFindings) -> pd.DataFrame:
    mean = pd.DataFrame(found.coverage.share).mean(axis=1)
    return pd.DataFrame({"line": found.coverage.lines, "share": mean})


def _render(
    dataset: Dataset, about: Description, found: MarketFindings, pictures: dict[str, str]
) -> str:
    return page(
        "dataset.html.j2",
        pictures,
        _TEMPLATES,
        title=about.name,
        facts=_facts(about, found),
        verdict=_verdict(found),
        summary=_summary(found),
        checks=[_check_table(name, rows) for name, rows in found.found.items() if len(rows)],
        rows=_rows(found),
        gaps=_gaps(found),
        lowest=_lowest(found),
        lives=_lives(found),
        notes=found.check.warnings,
        limits=[(name, str(value)) for name, value in vars(found.limits).items()],
        source=str(os.fspath(dataset.root)),
    )


def _facts(about: Description, found: MarketFindings) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{text.number(n)} {kind}" for kind, n in about.instruments_by_kind.items())
    return [
        ("Window", f"{text.time(about.first_time)} to {text.time(about.last_time)}"),
        ("Grid", f"one row every {text.duration(about.interval_seconds)}"),
        ("Instruments", kinds),
        ("Coins", text.listing(about.coins, 12)),
        ("Rows", text.number(sum(about.rows.values()))),
        ("Quarantined", text.number(found.check.quarantined)),
    ]


def _verdict(found: MarketFindings) -> str:
    report = found.check
    total = sum(len(rows) for rows in found.found.values())
    where = [name for name, rows in found.found.items() if len(rows)]
    parts = [
        f"{text.number(report.quarantined)} rows cannot be used",
        f"{text.number(report.missing_grid_times)} of the grid's times are missing",
        f"{text.number(total)} findings to look at"
        + (f" ({text.listing(where, 4)})" if where else ""),
    ]
    return "; ".join(parts) + "."


def _summary(found: MarketFindings) -> PageTable:
    rows = [
        {
            "check": name,
            "meaning": _MEANING.get(name, ""),
            "findings": len(rows),
            "subjects": len(set(rows["subject"])),
            "worst": float(floats_of(rows, "size").max()) if len(rows) else None,
        }
        for name, rows in found.found.items()
    ]
    columns = [
        Column("check", "Check"),
        Column("meaning", "What is counted; unit of the worst"),
        Column("findings", "Findings", cells.count),
        Column("subjects", "Subjects", cells.count),
        Column("worst", "Worst", cells.ratio),
    ]
    return page_table(pd.DataFrame(rows), columns, "Checks of the market")


def _check_table(name: str, rows: pd.DataFrame) -> PageTable:
    by = rows.assign(size=rows["size"].astype("float64")).sort_values(by="size", ascending=False)
    groups = by.groupby("subject", sort=False)
    table = pd.DataFrame(
        {
            "findings": groups["size"].size(),
            "first": groups["time"].min(),
            "last": groups["time"].max(),
            "worst": groups["size"].max(),
            "detail": groups["detail"].first(),
        }
    ).reset_index()
    columns = [
        Column("subject", "Subject"),
        Column("findings", "Findings", cells.count),
        Column("first", "First", cells.moment, "UTC"),
        Column("last", "Last", cells.moment, "UTC"),
        Column("worst", "Worst", cells.ratio),
        Column("detail", "Its worst"),
    ]
    caption = f"{name[:1].upper()}{name[1:]}: {_MEANING.get(name, '')}"
    return page_table(table, columns, caption, limit=_MOST_ROWS, folded=True)


def _rows(found: MarketFindings) -> PageTable:
    report = found.check
    rows = [
        {
            "table": name,
            "rows": count,
            "quarantined": sum(report.reasons.get(name, {}).values()),
            "reasons": ", ".join(f"{n} {why}" for why, n in report.reasons.get(name, {}).items()),
        }
        for name, count in report.rows.items()
    ]
    columns = [
        Column("table", "Table"),
        Column("rows", "Rows", cells.count),
        Column("quarantined", "Quarantined", cells.count),
        Column("reasons", "Reasons"),
    ]
    return page_table(pd.DataFrame(rows), columns, "Rows of every table")


def _gaps(found: MarketFindings) -> PageTable:
    frame = pd.DataFrame(
        [vars(gap) for gap in found.check.gaps], columns=["after", "before", "missing_times"]
    )
    columns = [
        Column("after", "After"),
        Column("before", "Before"),
        Column("missing_times", "Missing times", cells.count),
    ]
    return page_table(frame, columns, "Gaps of the grid", empty="No gap.")


def _lowest(found: MarketFindings) -> PageTable:
    items = found.check.lowest_coverage.items()
    frame = pd.DataFrame(list(items), columns=["name", "share"])
    columns = [Column("name", "Series"), Column("share", "Times with a row", cells.share)]
    return page_table(frame, columns, "Lowest coverage", empty="Everything is covered.")


def _lives(found: MarketFindings) -> PageTable:
    frame = rows_of(found.life, names_of(found.life, "note") != "")
    frame = frame.sort_values(by=["note", "instrument_id"])
    columns = [
        Column("instrument_id", "Instrument"),
        Column("note", "What"),
        Column("first_mark", "First mark", cells.moment, "UTC"),
        Column("last_mark", "Last mark", cells.moment, "UTC"),
        Column("listed", "Listed", cells.moment, "UTC"),
        Column("expiry", "Expiry", cells.moment, "UTC"),
    ]
    caption = "Listings and delistings: marks that begin or end where the window does not"
    return page_table(pd.DataFrame(frame), columns, caption, limit=200, folded=True, empty="None.")
