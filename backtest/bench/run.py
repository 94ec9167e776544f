"""A whole run of the benchmark: what was asked for, measured, written, ready to print."""

from pathlib import Path

from backtest.bench.bench import Bench, Say, Settings
from backtest.bench.machine import describe
from backtest.bench.measures import MEASURES, pricing_loops, profile
from backtest.bench.results import Findings, Measure
from backtest.bench.runs import RUN_MEASURES, Runs


def run_bench(settings: Settings, folder: Path, say: Say = lambda text: None) -> Findings:
    """Measure the targets that the settings name.

    Args:
        settings: size of the book, laps, targets.
        folder: where whole runs put their datasets and results.
        say: hears what is being done.

    Raises:
        ConfigError: a package of the extra ``bench`` is missing.
        RunError: a peer, the reference or the engine disagree, or a run failed.
    """
    found: dict[str, Measure] = {}
    findings = Findings(describe(), {"accounts": settings.accounts, "repeats": settings.repeats})
    on_book = [name for name in settings.only if name in MEASURES]
    if on_book:
        bench = Bench(settings, say)
        findings = bench.findings
        for name in on_book:
            say(f"measuring {name}")
            found[name] = MEASURES[name](bench)
        if {"P1", "P2"} & set(on_book):
            say("pricing loops")
            pricing_loops(bench)
            say("profile")
            profile(bench)
    runs = Runs(folder / "runs", settings.accounts, settings.repeats, say)
    for name in settings.only:
        if name in RUN_MEASURES:
            found[name] = RUN_MEASURES[name](runs)
    findings.measures = [found[name] for name in settings.only]
    return findings
