"""What the run could not score, and whether the saved numbers agree with each other."""

from dataclasses import dataclass

import pandas as pd

from . import frames, text
from .account_stats import account_stats
from .break_even import has_break_even
from .compare import pairing
from .frequency import by_time
from .reader import Results
from .switches import periods


@dataclass(frozen=True)
class Check:
    """One identity between saved numbers; ``holds`` is None where it cannot be checked."""

    name: str
    holds: bool | None
    detail: str


def row_counts(results: Results) -> dict[str, int]:
    """Account-times of the run over all sets: in, scored, unpriced, quarantined."""
    rows = results.manifest.get("rows") or {}
    frame = results.summary()
    counted = {
        "in": frames.count(frame, "accounts"),
        **{k: frames.count(frame, k) for k in ("scored", "unpriced", "quarantined")},
    }
    return {k: int(rows.get(k, counted[k])) for k in counted}


def quarantine_table(results: Results) -> pd.DataFrame:
    """Quarantined rows by table and reason.

    Counts are those of the manifest where it has them (``quarantined_counts``), else of its list,
    which holds the first 1,000 rows.
    """
    counts = results.manifest.get("quarantined_counts")
    if isinstance(counts, dict) and counts:
        rows = [{"table": "", "reason": str(k), "rows": int(v)} for k, v in counts.items()]
        return frames.ordered(pd.DataFrame(rows), "rows", ascending=False)
    listed = pd.DataFrame(
        results.manifest.get("quarantined") or [], columns=["table", "file", "row", "key", "reason"]
    )
    table = frames.sized(listed, ["table", "reason"], "rows")
    return frames.ordered(table, "rows", ascending=False)


def input_table(results: Results) -> pd.DataFrame:
    """Rows read of each table of the dataset, and those quarantined; empty if not recorded."""
    counts = results.manifest.get("input_rows") or {}
    rows = [
        {"table": name, "rows": int(c.get("in", 0)), "quarantined": int(c.get("quarantined", 0))}
        for name, c in counts.items()
    ]
    return pd.DataFrame(rows, columns=["table", "rows", "quarantined"])


def unpriced_table(results: Results) -> pd.DataFrame:
    """Instruments without a usable mark and the number of times that they were needed."""
    listed = results.manifest.get("unpriced_instruments") or []
    table = pd.DataFrame(listed, columns=["instrument_id", "times"])
    return frames.ordered(table, "times", ascending=False)


def checks(results: Results) -> list[Check]:
    """All identities that a reader may rely on, each tested on the saved numbers."""
    key = ("checks",)
    if key not in results.memo:
        found = [_rows_check(results)]
        for name in results.set_names:
            found += [_summary_check(results, name), _episode_check(results, name)]
            found += [_break_even_check(results, name)] if has_break_even(results) else []
        found += [_flip_check(results, challenger) for challenger in results.challengers]
        found += [_period_check(results, name) for name in results.schedules]
        results.memo[key] = found
    return results.memo[key]


def checks_table(results: Results) -> pd.DataFrame:
    """The identities as a table; ``holds`` is yes, no or not checked."""
    words = {True: "yes", False: "no", None: "not checked"}
    rows = [{"check": c.name, "holds": words[c.holds], "detail": c.detail} for c in checks(results)]
    return pd.DataFrame(rows, columns=["check", "holds", "detail"])


def _rows_check(results: Results) -> Check:
    rows = row_counts(results)
    out = rows["scored"] + rows["unpriced"] + rows["quarantined"]
    detail = (
        f"{text.number(rows['in'])} account-times in = {text.number(rows['scored'])} scored + "
        f"{text.number(rows['unpriced'])} unpriced + {text.number(rows['quarantined'])} quarantined"
    )
    if rows["in"] != out:
        detail += f" (they add up to {text.number(out)})"
    return Check("Rows in = scored + unpriced + quarantined", rows["in"] == out, detail)


def _summary_check(results: Results, name: str) -> Check:
    stats, frame = account_stats(results, name), by_time(results, name)
    pairs = {
        "scored": (stats.scored_times, frames.count(frame, "scored")),
        "unpriced": (stats.unpriced_times, frames.count(frame, "unpriced")),
        "quarantined": (stats.quarantined_times, frames.count(frame, "quarantined")),
    }
    detail = "; ".join(f"{k}: {text.number(a)} = {text.number(b)}" for k, (a, b) in pairs.items())
    holds = all(a == b for a, b in pairs.values())
    return Check(f"{name}: account-times by account = by time", holds, detail)


def _episode_check(results: Results, name: str) -> Check:
    stats = account_stats(results, name)
    started = frames.count(by_time(results, name), "episodes_started")
    counts = {"by account": stats.episodes, "by time": started}
    if results.has("events"):
        counts["liquidation events"] = len(results.events(["episode"], name, "liquidation"))
    detail = ", ".join(f"{text.number(v)} {k}" for k, v in counts.items())
    return Check(
        f"{name}: episodes counted alike everywhere", len(set(counts.values())) == 1, detail
    )


def _break_even_check(results: Results, name: str) -> Check:
    stats = account_stats(results, name)
    charges = results.charges(name)
    off = {c.short: stats.liquidated_at(c.name, 1.0) for c in charges}
    off = {c: n for c, n in off.items() if n != stats.liquidated}
    detail = f"{text.number(stats.liquidated)} of {text.number(stats.scored)} accounts liquidated"
    if off:
        detail += "; at multiplier 1: " + ", ".join(f"{c} {text.number(n)}" for c, n in off.items())
    else:
        detail += f", and at multiplier 1 of each of the {len(charges)} charges"
    return Check(f"{name}: F(1) = share liquidated, every charge", not off, detail)


def _flip_check(results: Results, challenger: str) -> Check:
    a, b = account_stats(results, results.champion), account_stats(results, challenger)
    pair = pairing(results, results.champion, challenger)
    name = f"{results.champion} to {challenger}: flip table adds up"
    detail = (
        f"{text.number(pair.both)} both + {text.number(pair.only_champion)} saved + "
        f"{text.number(pair.only_challenger)} newly liquidated + {text.number(pair.neither)} "
        f"neither = {text.number(pair.pairs)} pairs"
    )
    if a.scored != pair.pairs or b.scored != pair.pairs:
        detail += f"; {text.number(pair.not_paired)} accounts not scored under both sets"
        return Check(name, None, detail)
    same = pair.both + pair.only_champion == a.liquidated
    same = same and pair.both + pair.only_challenger == b.liquidated
    return Check(name, same, detail)


def _period_check(results: Results, name: str) -> Check:
    frame, found = by_time(results, name), periods(results, name)
    columns = {"scored": "account-times", "episodes_started": "episodes"}
    columns["first_liquidations"] = "accounts newly liquidated"
    parts: list[str] = []
    same = True
    for column, words in columns.items():
        counts = [frames.count(frame.iloc[p.first : p.stop], column) for p in found]
        whole = frames.count(frame, column)
        same = same and sum(counts) == whole
        added = " + ".join(text.number(c) for c in counts) or "0"
        parts.append(f"{added} = {text.number(whole)} {words}")
    return Check(f"{name}: rule periods add up to the window", same, "; ".join(parts))
