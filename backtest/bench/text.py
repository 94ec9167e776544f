"""The answer of the benchmark as tables for people: titles, heads and rows of text."""

from dataclasses import dataclass

from backtest.bench.laps import Lap
from backtest.bench.results import Findings, Measure


@dataclass(frozen=True)
class Sheet:
    """One table of text; the first column names, the others are numbers or words."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def sheets(found: Findings) -> list[Sheet]:
    """Every table of a benchmark, the targets first."""
    out = [_targets(found), _rates(found), _checks(found)]
    out += [_stages(found)] if found.profile else []
    out += [_classes(found)] if found.classes else []
    return [sheet for sheet in out if sheet.rows]


def machine_line(found: Findings) -> str:
    """What it ran on, in one sentence."""
    machine = found.machine
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    load = "".join(f"; load {x:.1f} at the start" for x in machine["load_average"][:1])
    book = ", ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in found.book.items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{', '.join(machine['caches'])}; Python {machine['python']}, {versions}{load}; {book}"
    )


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def value_text(measure: Measure) -> str:
    """Value of a target with its unit."""
    if measure.value is None:
        return "-"
    unit = measure.target.unit
    if unit == "fraction":
        return f"{100 * measure.value:.1f} %"
    if unit == "s":
        return f"{measure.value:.2f} s"
    return f"{measure.value:.3g}" if unit == "exponent" else f"{measure.value:,.3g} x"


def _targets(found: Findings) -> Sheet:
    rows = []
    for m in found.measures:
        verdict = {None: "-", True: "yes", False: "no"}[m.met]
        more = ", ".join(f"{k} {v:,.4g}" for k, v in m.more.items())
        note = "; ".join(x for x in (m.note, more) if x)
        spread = f"{100 * m.spread:.0f} %" if m.value is not None else "-"
        rows.append([m.id, m.target.what, value_text(m), m.target.text, verdict, spread, note])
    heads = ["", "What", "Measured", "Target", "Met", "Spread", "Note"]
    return Sheet("Targets", heads, rows)


def _rates(found: Findings) -> Sheet:
    rows = []
    for name, lap in found.laps.items():
        rate = _rate(name, lap) if lap.work != 1.0 else ""
        rows.append([name, f"{lap.median_s:.4g}", f"{100 * lap.spread:.0f} %", rate])
    return Sheet("Laps", ["", "Median s", "Spread", "Rate"], rows)


def _rate(name: str, lap: Lap) -> str:
    if name.startswith("sgemm"):
        return f"{lap.rate / 1e9:,.0f} GFLOP/s"
    if name == "copy":
        return f"{lap.rate / 1e9:,.1f} GB/s"
    return f"{lap.rate / 1e6:,.4g} million/s"


def _checks(found: Findings) -> Sheet:
    rows = [[c.what, f"{c.numbers:,}", f"{c.worst:.1e}"] for c in found.checks]
    return Sheet("Agreement (relative)", ["", "Numbers", "Worst"], rows)


def _stages(found: Findings) -> Sheet:
    names = list(dict.fromkeys(k for stages in found.profile.values() for k in stages))
    rows = []
    for name in names:
        cells = []
        for stages in found.profile.values():
            value = stages.get(name, 0.0)
            share = f" ({100 * value / stages['total']:.0f} %)"
            is_rate = name.startswith("account_times")
            cells.append(f"{value:,.0f}" if is_rate else f"{value:.3f}{share}")
        rows.append([name, *cells])
    return Sheet("Our stages, seconds in one thread", ["", *found.profile], rows)


def _classes(found: Findings) -> Sheet:
    rows = []
    for row in found.classes:
        shape = row["shape"]
        name = (
            f"{shape['units']} units x {shape['legs']} legs, {shape['option_units']} option units "
            f"x {shape['option_legs']} legs"
        )
        rate = f"{row['account_times_per_s']:,.0f}"
        rows.append([name, f"{row['accounts']:,}", f"{row['seconds']:.3f}", rate])
    heads = ["", "Accounts", "Seconds", "Account-times/s"]
    return Sheet("Our shape classes, float64, one thread", heads, rows)
