"""Command ``pmstress run``: the main job."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backtest.progress import RunProgress, duration, style_of


LEAVING_S = 3.0
"""How long an interrupted run may take to call back the workers of a scheduler."""


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to run.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Results folder; build/runs/NAME if absent."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Buckets at once; as configured."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="Existing Dask scheduler, tcp://... or tls://...; its workers see the folders.",
        ),
    ] = None,
    tls_ca_file: Annotated[
        Path | None,
        typer.Option("--tls-ca-file", metavar="FILE", help="Who signed the scheduler's name."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="Certificate shown to the scheduler."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key.")
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            "--memory-limit",
            metavar="SIZE",
            help="Refuse a run that is predicted to need more, for example 4GB.",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh/--resume", help="Start anew, or reuse what an interrupted run finished."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Results without report.")] = False,
) -> None:
    """Replay history under every parameter set; save results and report.

    Builds the dataset and draws the accounts first where they are absent.
    An interrupted run goes on where it stopped when it is started again.

    Example: pmstress run configs/demo.toml --out build/runs/demo
    """
    from backtest.cells import safe_name  # slow to import
    from backtest.config import load_config
    from backtest.memory import check_memory, parse_size
    from backtest.run import run as replay

    limit = parse_size(memory_limit) if memory_limit else None
    files = {"tls_ca_file": tls_ca_file, "tls_cert": tls_cert, "tls_key": tls_key}
    settings = load_config(config).with_engine({k: f for k, f in files.items() if f is not None})
    folder = out or Path("build") / "runs" / safe_name(settings.name)
    with RunProgress(style_of(quiet)) as progress:
        sizes: list[tuple[int, int]] = []

        def on_plan(plan: Any) -> None:
            if limit is not None:
                at_once = 1 if scheduler else workers or settings.engine.workers
                needed = check_memory(settings, plan, limit, at_once)
                progress.say(f"predicted memory: {needed.text()}")
            sizes.append(_size(settings, plan))
            progress.start(*sizes[0])

        manifest = _in_thread(
            lambda stop: replay(
                settings,
                folder,
                workers=workers,
                scheduler=scheduler,
                fresh=fresh,
                say=progress.say,
                on_cell=lambda cells, _: progress.advance(cells),
                on_plan=on_plan,
                on_round=lambda number: progress.start(*sizes[0], f"round {number}"),
                stop=stop,
            ),
            patience=LEAVING_S if scheduler else 0.0,
        )
    _print(manifest, folder)
    if not settings.replay.details:
        typer.echo("no report: replay.details is false")
    elif not no_report:
        _report(folder)


def _size(settings: Any, plan: Any) -> tuple[int, int]:
    """Cells and account-times of the run."""
    sets = len(settings.parameter_sets)
    cells = sets * len(plan.buckets) * len(plan.windows)
    return cells, sets * plan.num_accounts * len(plan.times_us)


def _in_thread(compute: Callable[[threading.Event], Any], patience: float) -> Any:
    """The result of a computation; an interrupt is heard even while a program compiles.

    An interrupt asks the computation to call back its workers elsewhere, within ``patience``
    seconds; those of this machine end with the program. Further ones change nothing.
    """
    result: list[Any] = []
    failure: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            result.append(compute(stop))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="run", daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.set()
        thread.join(patience)
        raise
    if failure:
        raise failure[0]
    return result[0]


def _print(manifest: dict[str, Any], folder: Path) -> None:
    rows, cells = manifest["rows"], manifest["cells"]
    typer.echo(f"results: {folder}")
    typer.echo(f"cells: computed {cells['computed']:,}, reused {cells['reused']:,}")
    counts = ", ".join(f"{rows[k]:,} {k}" for k in ("scored", "unpriced", "quarantined"))
    seconds = manifest["timings_seconds"]["replay"]
    text = f"account-times: {counts}, in {duration(seconds)}"
    if not cells["reused"] and seconds > 0.0:
        text += f" ({rows['in'] / seconds:,.0f} a second)"
    typer.echo(text)


def _report(folder: Path) -> None:
    """Build the report, print the comparison of the sets and where the page is."""
    from backtest.report.build import build_report
    from backtest.report.frames import records
    from backtest.report.reader import Results
    from backtest.report.tables import summary_table
    from backtest.report.terminal import summary_rows

    results = Results(folder)
    files = build_report(results)
    sets = records(summary_table(results))
    names = [str(one["parameter_set"]) for one in sets]
    table = Table("", title="Comparison", title_justify="left")
    for name in names:
        table.add_column(escape(name), justify="right", overflow="fold")
    for row in summary_rows(sets):
        table.add_row(*(escape(cell) for cell in row))
    found = Console(highlight=False)
    (found if found.is_terminal else Console(width=140, highlight=False)).print(table)
    typer.echo(f"report: {files.page}")
