"""The report as one HTML file that opens from disk and asks nothing of any network."""

import json
from typing import Any

import pyarrow.parquet as pq

from . import cells, text, theme
from .account_pages import account_pages
from .cells import Column, PageTable, page_table
from .decision import decision_table, tiles
from .reader import Results
from .section import Section
from .sections import sections
from .sections_schedule import step_page
from .tables import LABELS, parameter_set_table, summary_table
from .template import page
from .verdict import caveats, verdicts


_SIGNS = {"looser": "▼", "stricter": "▲", "mixed": "◆", "no change": "=", "no answer": "?"}


def render(results: Results, pictures: dict[str, str]) -> str:
    """The page; ``pictures`` holds the inline SVG of each figure by name."""
    shown, summary = sections(results), summary_table(results)
    return page(
        "index.html.j2",
        pictures,
        title=str(results.manifest.get("name") or results.path.name),
        facts=_facts(results),
        tiles=_colored(tiles(summary)),
        verdicts=verdicts(results),
        signs=_SIGNS,
        decision=decision_table(summary),
        caveats=caveats(results),
        sections=shown,
        accounts=account_pages(results),
        titles=_titles(shown),
        provenance=[t for t in (_parameter_sets(results), step_page(results)) if t is not None],
        manifest=_manifest(results),
        manifest_json=json.dumps(
            results.manifest.get("config") or {}, indent=2, ensure_ascii=False, default=str
        ),
    )


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _colored(shown: list[dict[str, str]]) -> list[dict[str, str]]:
    """Tiles with the colour of their set, none beyond the sets that figures draw."""
    for i, tile in enumerate(shown):
        tile["color"] = (
            f"var({theme.variable(theme.set_color(i))})" if i < theme.MOST_SETS else "transparent"
        )
    return shown


def _titles(shown: list[Section]) -> list[tuple[str, str]]:
    return [(s.anchor, text.shorten(s.title, 34)) for s in shown]


def _facts(results: Results) -> list[tuple[str, str]]:
    """What was replayed, in the head of the page."""
    replay = results.manifest.get("replay") or {}
    interval = text.duration(results.interval_seconds)
    count = replay.get("times")
    facts = [
        ("Window", f"{text.time(replay.get('start'))} to {text.time(replay.get('end'))}"),
        ("Times", f"{text.number(count) if count else text.NONE}, one every {interval}"),
        ("Accounts", accounts_fact(results)),
        ("Portfolios", _mode(replay.get("mode"))),
        ("Parameter sets", text.number(len(results.set_names))),
        ("Run on", text.time(results.manifest.get("created_utc"))),
    ]
    return [f for f in facts if f[1] != text.NONE]


def accounts_fact(results: Results) -> str:
    """How many accounts a run has, and how many at once where they come and go."""
    at_once = results.manifest.get("accounts")
    if at_once is None:
        return text.NONE
    if (results.manifest.get("replay") or {}).get("mode") != "actual":
        return text.number(at_once)
    rows = sum(pq.read_metadata(file).num_rows for file in results.files("accounts"))
    ever = rows // len(results.set_names)
    if ever <= at_once:
        return text.number(at_once)
    return f"{text.number(ever)}, at most {text.number(at_once)} at once"


def _mode(mode: object) -> str:
    words = {
        "frozen": "frozen: one snapshot held over the window",
        "actual": "actual: latest snapshot at each time",
    }
    return words.get(str(mode), text.NONE)


def _parameter_sets(results: Results) -> PageTable:
    frame = parameter_set_table(results)
    frame["hash"] = frame["hash"].map(_hash)
    columns = [
        Column("name", "Set"),
        Column("file", "File"),
        Column("hash", "Hash"),
        Column("model", "Model"),
        Column("era", "Era"),
        Column("effective", "Effective", cells.moment, "UTC"),
        *(Column(name, name.capitalize(), cells.count) for name in LABELS.values()),
        Column("numbers", "Values", cells.count),
    ]
    return page_table(
        frame,
        columns,
        "Parameter sets: where their values come from",
        note="Stated by a source document, published by the venue, derived from published numbers, "
        "or assumed.",
    )


def _manifest(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of named values of the manifest, formatted."""
    m = results.manifest
    dataset, code = (m.get(k) or {} for k in ("dataset", "code"))
    run = [("Id", _hash(m.get("run_id"))), ("Config hash", _hash(m.get("config_hash")))]
    run += [("Seed", _word(m.get("seed"))), ("Device", _device(m.get("device")))]
    run.append(("Code", f"{_word(code.get('version'))}, source {_hash(code.get('source_hash'))}"))
    source = [(k.capitalize(), _hash(dataset.get(k))) for k in ("name", "fingerprint")]
    source += [(k.capitalize(), _word(dataset.get(k))) for k in ("path", "source")]
    spent = (m.get("timings_seconds") or {}).items()
    cost = [(k.capitalize(), f"{text.significant(float(v))}{text.SPACE}s") for k, v in spent]
    if m.get("peak_memory_mb") is not None:
        cost.append(("Peak memory", f"{text.number(float(m['peak_memory_mb']))}{text.SPACE}MB"))
    groups = [
        ("Run", run),
        ("Dataset", source),
        ("Cells", [(k.capitalize(), text.number(v)) for k, v in (m.get("cells") or {}).items()]),
        ("Timings", cost),
        ("Versions", [(k, _word(v)) for k, v in (m.get("versions") or {}).items()]),
    ]
    return [(name, rows) for name, rows in groups if rows]


def _word(value: Any) -> str:
    if value is None or value == "":
        return text.NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _device(value: Any) -> str:
    if isinstance(value, dict) and "platform" in value:
        return f"{value['platform']} {text.TIMES} {value.get('count', 1)}"
    return _word(value)


def _hash(value: Any) -> str:
    """The first digits of a hash; manifest.json has the whole."""
    word = _word(value)
    return f"{word[:16]}…" if len(word) > 20 else word
