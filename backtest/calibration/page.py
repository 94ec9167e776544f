"""The page of a calibration: one HTML file, figures as PNG, tables as Parquet and CSV."""

from pathlib import Path
from typing import Any

import pandas as pd

from backtest.calibration.config import OBJECTIVES, Objective
from backtest.calibration.figures import figures_of
from backtest.calibration.linear import scaling_of
from backtest.calibration.saved import OVERFITTING_ALONE, SENSITIVITIES, TITLES, Saved
from backtest.calibration.study_page import study_page
from backtest.calibration.verdict import caveats, facts, points, sentence, show
from backtest.durable import write_bytes
from backtest.report import cells, frames, text, theme
from backtest.report.cells import Cell, Column, PageTable, page_table
from backtest.report.html import accounts_fact
from backtest.report.reverse import has_reverse_stress, reverse_section
from backtest.report.section import Picture, Section, number_cell


MOST_ROWS = 60


def build_page(folder: str | Path) -> Path:
    """Write the report of a calibration from its saved results; returns the page."""
    saved = Saved(folder)
    target = saved.path / "report"
    pictures = {}
    for name, draw in figures_of(saved).items():
        figure = draw(saved)
        pictures[name] = theme.to_svg(figure, name)
        write_bytes(target / f"{name}.png", theme.to_png(figure))
    for name, frame in saved.tables.items():
        write_bytes(target / "tables" / f"{name}.csv", frame.to_csv(index=False).encode())
    write_bytes(target / "index.html", render(saved, pictures).encode())
    return target / "index.html"


def render(saved: Saved, pictures: dict[str, str]) -> str:
    """The page; ``pictures`` holds the inline SVG of each figure by name."""
    return study_page(
        kind="Portfolio margin calibration",
        first="Decision",
        title=saved.summary["name"],
        facts=_facts(saved),
        sentence=sentence(saved),
        points=points(saved),
        caveats=caveats(saved),
        sections=sections(saved),
        pictures=pictures,
        config=saved.config,
        footer="Tables are in tables/ as Parquet and CSV, figures beside this page as PNG. Batches "
        "of candidates are in batches/, parameter files in sets/.",
    )


def _facts(saved: Saved) -> list[tuple[str, str]]:
    summary, replay = saved.summary, saved.bundle.manifest["replay"]
    return [
        ("Window", f"{text.time(replay['start'])} to {text.time(replay['end'])}"),
        ("Accounts", accounts_fact(saved.bundle)),
        ("Candidates", text.number(summary["candidates"])),
        ("Method", saved.config["search"]["method"]),
        ("Starts from", summary["today_set"]),
        *facts(saved),
    ]


def sections(saved: Saved) -> list[Section]:
    """Sections in reading order."""
    found = [_frontier(saved), _choice(saved), _walk(saved), search_section(saved), _curves(saved)]
    if SENSITIVITIES in saved.tables:
        found.append(_slopes(saved))
    if has_reverse_stress(saved.bundle):
        found.append(reverse_section(saved.bundle))
    return found


def _objective_columns(names: tuple[Objective, ...]) -> list[Column]:
    return [Column(name, TITLES[name], lambda v, name=name: show(name, v)) for name in names]


def _frontier(saved: Saved) -> Section:
    frame = saved.tables["candidates"]
    names = list(saved.summary["levels"])
    frame = frames.ordered(frame, ["on_frontier", "margin"], [False, True])
    words = {
        "on_frontier": ("dominated", "frontier"),
        "feasible": ("no", "yes"),
        "in_confidence_set": ("no", "yes"),
    }
    for column, (no, yes) in words.items():
        frame[column] = [yes if v else no for v in frame[column].tolist()]
    columns = [
        Column("candidate", "Set"),
        Column("on_frontier", "Frontier"),
        Column("feasible", "Holds constraints"),
        *(Column(name, name, cells.ratio) for name in names),
        *_objective_columns(OBJECTIVES),
        Column("in_confidence_set", "May be the best"),
    ]
    return Section(
        "frontier",
        "Frontier",
        "A set is dominated if another is no worse in every objective of the frontier and better "
        "in one. Knee: nearest to the best of all objectives at once.",
        [
            Picture("frontier", "Each mark is one parameter set over the whole window."),
            Picture("heat", _heat_words(saved)),
        ],
        [page_table(frame, columns, "Parameter sets", MOST_ROWS, folded=True)],
    )


def _heat_words(saved: Saved) -> str:
    """Caption of the heat map: how it was made."""
    if saved.config["search"]["method"] == "grid":
        how = "Every cell is one candidate; other parameters stand at the level nearest to today's."
    else:
        how = (
            "Interpolated between the candidates (marks); where more than two parameters were "
            "searched, the others vary from mark to mark."
        )
    return (
        "Accounts liquidated per account-day over the two parameters whose ranks correlate most "
        f"with it. {how} Line: the frequency at its limit, as a point; constraints hold on a "
        "confidence bound, so marks may break them below the line."
    )


def _choice(saved: Saved) -> Section:
    summary = saved.summary
    rows = [
        [
            Cell(name),
            number_cell(cells.ratio, summary["now"][name]),
            number_cell(cells.ratio, level),
        ]
        for name, level in summary["levels"].items()
    ]
    levels = PageTable(
        "Levels", [("Parameter", "", False), ("Today", "", True), ("Choice", "", True)], rows
    )
    columns = [Column("parameter_set", "Set"), *_objective_columns(OBJECTIVES)]
    bundle = page_table(
        saved.tables["bundle"],
        columns,
        "The choice replayed, and each of its moves alone",
        note="Single moves need not add up to the whole: this run is the joint verification.",
    )
    return Section(
        "choice",
        "The choice",
        "Factors of today's values unless a parameter was searched by its own value. The set is "
        "sets/chosen.toml; its accounts are in runs/bundle.",
        tables=[levels, bundle],
    )


def _walk(saved: Saved) -> Section:
    found = saved.tables["out_of_sample"]
    rows = []
    for row in frames.records(found):
        name: Objective = row["objective"]
        interval = text.NONE
        if not pd.isna(row["difference_low"]):
            interval = (
                f"{show(name, row['difference_low'])} to {show(name, row['difference_high'])}"
            )
        rows.append(
            [
                Cell(TITLES[name]),
                Cell(show(name, row["today"]), row["today"], role="number"),
                Cell(show(name, row["walk"]), row["walk"], role="number"),
                Cell(interval, role="number"),
            ]
        )
    headings = [("Objective", "", False), ("Today", "", True), ("Walk", "", True)]
    headings.append(("Walk less today", f"95{text.SPACE}% interval", True))
    pooled = PageTable("All trial stretches together", headings, rows, sortable=False)
    columns = [
        Column("fold", "Fold", cells.count),
        Column("train_from", "Chosen from", cells.moment, "UTC"),
        Column("test_from", "Tried from", cells.moment, "UTC"),
        Column("test_to", "To", cells.moment, "UTC"),
        Column("candidate", "Set"),
    ]
    for name in saved.frontier_objectives:
        columns += [
            Column(f"{name}_train", TITLES[name], lambda v, n=name: show(n, v), "in sample"),
            Column(f"{name}_test", TITLES[name], lambda v, n=name: show(n, v), "out of sample"),
            Column(f"{name}_today_test", "Today", lambda v, n=name: show(n, v), "out of sample"),
        ]
    table = page_table(saved.tables["walk_forward"], columns, "Folds")
    return Section(
        "walk",
        "Out of sample",
        "On each stretch the cheapest set that holds the constraints there is chosen, within reach "
        "of the one before; what it gives is read off the next stretch, after a purge.",
        [Picture("walk", "Lines join folds; the first point is today's rules.")],
        [pooled, table],
    )


def search_section(saved: Saved) -> Section:
    """How much the search has learnt from noise."""
    return Section(
        "search",
        "Has the search learnt from noise?",
        "The window is cut into blocks; on every half of them the best set is chosen and ranked on "
        "the other half.",
        [Picture("overfitting", "Left of 0 the set chosen on one half is below the middle.")],
        _overfitting_alone(saved),
    )


def _overfitting_alone(saved: Saved) -> list[PageTable]:
    frame = saved.tables.get(OVERFITTING_ALONE)
    if frame is None or not len(frame):
        return []
    return [
        page_table(
            frame.assign(title=[TITLES[name] for name in frame["objective"]]),
            [
                Column("title", "Objective"),
                Column("probability", "Probability of overfitting", cells.share),
                Column("dearest_block", "Today's dearest block", cells.moment, "UTC"),
                Column("dearest_block_frac", "Its share", cells.share, "of the whole window"),
            ],
            "Each objective alone",
            note="Above they count alike. A block with most of an objective lies in one half only: "
            "what is best with it differs from what is best without it.",
        )
    ]


def _curves(saved: Saved) -> Section:
    rows = [[Cell(p["name"]), *_scaling(saved, p)] for p in saved.config["parameters"]]
    headings = [("Parameter", "", False), ("Read off the curve", "", False), ("Why", "", False)]
    table = PageTable("Which parameters the curves hold for", headings, rows, sortable=False)
    return Section(
        "curves",
        "How close the rest are",
        "Share of accounts liquidated if one charge were scaled, from one replay of each set: "
        "today and the choice.",
        [
            Picture("break_even", "At multiplier 1: as replayed."),
            Picture("elasticities", "Accounts that flip if a charge is a tenth smaller or larger."),
        ],
        [table],
    )


def _slopes(saved: Saved) -> Section:
    section = saved.config["gradients"]
    frame = frames.ordered(saved.tables[SENSITIVITIES], ["is_searched"], [False])
    step = text.percent(section["step_frac"])
    columns = [Column("parameter", "Parameter")]
    for name in ("margin", "shortfall"):
        head = name.capitalize()
        columns += [
            Column(f"{name}_slope_usd", f"{head}, slope", cells.money, "USD for 100 %"),
            Column(f"{name}_down_usd", head, cells.money, f"USD for {text.MINUS}{step}"),
            Column(f"{name}_up_usd", head, cells.money, f"USD for +{step}"),
        ]
    table = page_table(frame, columns, "Slopes of every parameter", MOST_ROWS, folded=True)
    count = text.number(int(frame["accounts"].iloc[0]))
    return Section(
        "slopes",
        "What each parameter moves",
        f"Gradients at today's rules through the kernels of the replay, over {count} account-times "
        "of the first training stretch. Shortfall: what the loss of "
        f"{section['horizon']} leaves uncovered of the margin at its start, smoothed over "
        f"{text.percent(section['smoothing_frac'])} of gross notional.",
        [
            Picture(
                SENSITIVITIES,
                "Bars: the change computed again; marks: the gradient's. They part where margin "
                "has a kink: of charges that compete only the largest counts.",
            )
        ],
        [table],
    )


def _scaling(saved: Saved, parameter: dict[str, Any]) -> list[Cell]:
    known = saved.summary["leaves"]
    found = scaling_of(parameter["leaves"], known)
    if found is None or parameter["scale"] != "relative":
        return [Cell("no"), Cell("it scales no single charge")]
    return [Cell("exactly" if found.exact else "approximately"), Cell(found.note)]
