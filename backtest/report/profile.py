"""What a sudden move of all prices liquidates, move by move."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import cells, frames, text, theme
from .cells import Cell, PageTable
from .figures_time import shown_sets
from .reader import Results
from .section import Picture, Section, head, number_cell


TABLE = "liquidation_profile"
TITLE_MOVE = -0.2
"""Move that the title speaks of."""
TABLE_MOVES = (-0.5, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
_NEAR = 1e-9
_PANELS = {
    "liquidated_usd": "Gross notional of accounts at or below the liquidation level",
    "fund_draw_usd": "What their equity leaves uncovered",
}


def has_profile(results: Results) -> bool:
    """Whether somebody has looked at what sudden moves of this run's accounts do."""
    return results.has(TABLE)


def profile(results: Results, name: str) -> pd.DataFrame:
    """Rows of a set by move, ascending; none where it was not looked at."""
    rows = results.single(TABLE)
    mine = frames.rows(rows, rows["parameter_set"].astype(str) == name)
    return frames.ordered(mine, "price_move_frac")


def profile_tables(results: Results) -> dict[str, pd.DataFrame]:
    """The table of all moves by file name."""
    return {TABLE: results.single(TABLE)} if has_profile(results) else {}


def profile_section(results: Results) -> Section:
    """What sudden moves liquidate under every set."""
    anchor, title = "profile", "Liquidation profile: a sudden move of all prices"
    if not has_profile(results):
        intro = "Not looked at: pmstress reverse-stress, with this run's folder, adds it."
        return Section(anchor, title, intro)
    names = _names(results)
    when = text.time(results.single(TABLE)["time"].iloc[0])
    intro = (
        f"All accounts as they stand on {when}, margined again in full after marks and indices of "
        "all coins have moved by one fraction; options are revalued at unchanged volatilities, "
        "stablecoins stay. First round only: no price reacts, and nobody is closed on the way. A "
        "hedged book may be safer after a move than before it, so curves may fall."
    )
    caption = (
        "Top: gross notional, before the move, of the accounts that it leaves at or below the "
        "liquidation level. Below: the part of closing them that their equity does not cover."
    )
    headings = [("Move of all prices", "", False)]
    headings += [(head(n), "USD liquidated; accounts, share of notional", True) for n in names]
    tables = {name: profile(results, name) for name in names}
    rows = [
        [Cell(_signed(move), move), *(_cell(_at(tables[name], move)) for name in names)]
        for move in TABLE_MOVES
    ]
    page = PageTable("What a sudden move liquidates", headings, rows)
    return Section(anchor, title, intro, [Picture("liquidation_profile", caption)], [page])


def _names(results: Results) -> list[str]:
    known = set(results.single(TABLE)["parameter_set"].astype(str).tolist())
    return [n for n in (results.champion, *results.challengers) if n in known]


def _at(rows: pd.DataFrame, move: float) -> dict[str, Any] | None:
    """The row of a move, None where it was not looked at."""
    near = np.abs(frames.numbers(rows, "price_move_frac") - move) < _NEAR
    return frames.records(frames.rows(rows, near))[0] if near.any() else None


def _cell(row: dict[str, Any] | None) -> Cell:
    if row is None:
        return Cell(text.NONE, None, "", "number")
    note = text.plural(row["accounts_liquidated"], "account")
    whole = row["gross_notional_usd"]
    note += f", {text.percent(row['liquidated_usd'] / whole)}" if whole > 0.0 else ""
    return number_cell(cells.money, row["liquidated_usd"], note)


def _signed(move: float) -> str:
    return f"{'+' if move > 0.0 else ''}{text.percent(move)}"


def figure_profile(results: Results) -> Figure:
    """USD liquidated and what is uncovered against the move, one curve a set."""
    names = [n for n in shown_sets(results) if n in _names(results)]
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(_title(results, names[0]), 4.6, 2, 1, sharex=True)
        for axis, (column, words) in zip(axes[:, 0].tolist(), _PANELS.items(), strict=True):
            for name in names:
                rows, k = profile(results, name), shown_sets(results).index(name)
                axis.plot(
                    frames.numbers(rows, "price_move_frac"),
                    frames.numbers(rows, column),
                    color=theme.set_color(k),
                    linestyle=theme.set_style(k),
                    label=theme.label(name),
                )
            axis.axvline(0.0, color=theme.MUTED, linewidth=0.8)
            axis.set_ylim(0.0, max(axis.get_ylim()[1], 1e-3))
            axis.set_ylabel("USD")
            axis.set_title(words)
            axis.yaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
        theme.legend_above(axes[0, 0])
        axes[1, 0].set_xlabel("sudden move of all prices")
        theme.percent_axis(axes[1, 0], "x")
    return figure


def _title(results: Results, name: str) -> str:
    row = _at(profile(results, name), TITLE_MOVE)
    if row is None:
        return f"What a sudden move of all prices liquidates under {theme.quoted(name)}"
    usd = text.usd(row["liquidated_usd"])
    return (
        f"A sudden fall of {text.percent(-TITLE_MOVE)} liquidates {usd} of gross notional under "
        f"{theme.quoted(name)}"
    )
