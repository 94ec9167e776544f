"""Commands ``pmstress dataset build / check / describe / report``: canonical datasets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backtest.config_errors import read_section
from backtest.dataset import Dataset
from backtest.errors import DataError
from backtest.quality import CheckReport, Description, check as check_dataset, describe as look_at


app = typer.Typer(no_args_is_help=True, help="Make, validate, summarise a canonical dataset.")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Dataset folder.")]


@app.command()
def build(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="Configuration; only [market] is read.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the new dataset.")],
) -> None:
    """Build a market dataset from real history, recorded option chains or a seeded generator.

    Example: pmstress dataset build configs/demo.toml --out build/datasets/demo
    """
    from backtest.market.build import build_market  # slow to import

    _print_description(look_at(build_market(load_market_config(config), out)))


@app.command()
def check(folder: _Folder, as_json: _Json = False) -> None:
    """Validate every row of a dataset; exit code 3 where rows are quarantined.

    Also reported, without being errors: gaps in the market grid, coverage, options without a
    volatility, positions in expired instruments.

    Example: pmstress dataset check build/datasets/demo
    """
    report = check_dataset(Dataset.open(folder))
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, default=str))
    else:
        _print_report(report)
    if report.quarantined:
        raise DataError(_quarantine_text(folder, report))


@app.command()
def describe(folder: _Folder, as_json: _Json = False) -> None:
    """Summarise a dataset: rows, time span, coins, instruments, accounts, snapshots, size.

    Example: pmstress dataset describe build/datasets/demo
    """
    found = look_at(Dataset.open(folder))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _print_description(found)


@app.command()
def report(
    folder: _Folder,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the report.")],
) -> None:
    """Report on the quality of a dataset: one page with pictures, and tables.

    Gaps, coverage, listings and delistings, stale marks, jumps, absurd or crossed
    volatilities, put-call parity and calendar arbitrage. Findings are no errors.

    Example: pmstress dataset report build/datasets/demo --out build/quality
    """
    from backtest.market_report.build import build_report  # slow to import

    made = build_report(Dataset.open(folder), out)
    for name, count in made.findings.items():
        typer.echo(f"{name}: {count:,}")
    typer.echo(f"report: {made.page}")


def load_market_config(path: Path) -> Any:
    """Section ``[market]`` of a configuration file.

    Raises:
        ConfigError: no such file or section, an unknown key or a bad value.
    """
    from backtest.market.config import MarketConfig  # slow to import

    return read_section(path, "market", MarketConfig)


def _quarantine_text(folder: Path, report: CheckReport) -> str:
    counts: list[str] = []
    for table, reasons in report.reasons.items():
        counts += [f"{table}: {count} {reason}" for reason, count in reasons.items()]
    first = report.first_rows[0]
    return (
        f"{folder}: {report.quarantined} rows are quarantined ({'; '.join(counts)}); "
        f"first: {first['file']} row {first['row']}, {first['key']}: {first['reason']}"
    )


def _print_report(report: CheckReport) -> None:
    console = _console()
    table = Table("table", "rows", "quarantined", "reasons")
    for name, rows in report.rows.items():
        reasons = report.reasons.get(name, {})
        text = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        table.add_row(name, f"{rows:,}", f"{sum(reasons.values()):,}", text)
    console.print(table, markup=False)
    for line in _findings(report):
        _say(console, line)


def _findings(report: CheckReport) -> Iterator[str]:
    for row in report.first_rows:
        yield f"quarantined: {row['file']} row {row['row']}, {row['key']}: {row['reason']}"
    yield f"grid: {report.grid_times:,} times, {report.missing_grid_times:,} missing"
    for gap in report.gaps:
        yield f"gap: {gap.missing_times:,} times after {gap.after}, before {gap.before}"
    for name, share in {**report.coverage, **report.lowest_coverage}.items():
        yield f"coverage of {name}: {share:.2%}"
    if report.option_rows_without_volatility:
        names = ", ".join(report.options_without_volatility)
        count = report.option_rows_without_volatility
        yield f"options without a volatility or forward: {count:,} rows ({names})"
    if report.expired_positions:
        yield f"positions in expired instruments: {report.expired_positions:,} rows"
    for row in report.first_expired_positions:
        yield f"expired: {row['file']} row {row['row']}, {row['key']}"
    yield from (f"note: {warning}" for warning in report.warnings)


def _print_description(found: Description) -> None:
    console = _console()
    _say(console, f"{found.name}: {found.first_time} to {found.last_time}")
    if isinstance(found.source, str):
        _say(console, f"source: {found.source}")
    else:
        for key, value in found.source.items():
            for line in _source_lines(key, value):
                _say(console, line[:150])
    table = Table("table", "rows", "files", "size")
    for name, rows in found.rows.items():
        table.add_row(name, f"{rows:,}", f"{found.files[name]:,}", _size(found.bytes[name]))
    table.add_row("all", f"{sum(found.rows.values()):,}", "", _size(found.total_bytes))
    console.print(table, markup=False)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.instruments_by_kind.items())
    _say(console, f"interval: {found.interval_seconds} s; buckets: {found.buckets}")
    _say(console, f"instruments: {kinds}")
    _say(console, f"coins: {', '.join(found.coins)}")
    _say(console, f"currencies with an index: {', '.join(found.currencies)}")
    times = found.snapshots
    span = f" ({times[0]} to {times[-1]})" if times else ""
    _say(console, f"accounts: {found.accounts:,}; snapshots: {len(times)}{span}")


def _source_lines(key: str, value: Any) -> Iterator[str]:
    """A statement about the source; of several sources, a line each."""
    if not isinstance(value, dict):
        yield f"source {key}: {value}"
        return
    for name, about in value.items():
        if isinstance(about, dict):
            about = ", ".join(f"{k} {v}" for k, v in about.items()) or "none"
        yield f"{key}: {name}: {about}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _console() -> Console:
    """Wide enough for files and pipes; the terminal's own width on a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    units = ("KiB", "MiB", "GiB", "TiB")
    power = min((count.bit_length() - 1) // 10, len(units))
    return f"{count / 1024**power:,.1f} {units[power - 1]}"
