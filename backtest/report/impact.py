"""What liquidations did to prices, in a run whose liquidations move them: rounds, moves, figure."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import cells, frames, text, theme
from .cells import Column, page_table
from .liquidations import over_sets
from .reader import Results
from .section import Picture, Section
from .tipping import TIPPING_CAPTION, has_tipping, tipping_points, tipping_table


MOST_COINS = 3
"""Coins in the figure: those that moved furthest."""


def has_impact(results: Results) -> bool:
    """Whether liquidations of the run moved prices."""
    return results.has("impact_rounds")


def sets_with_impact(results: Results) -> list[str]:
    """Parameter sets whose liquidations moved prices, the champion first."""
    names = {str(one["parameter_set"]) for one in results.manifest.get("impact") or []}
    return [name for name in (results.champion, *results.challengers) if name in names]


def rounds(results: Results, name: str) -> pd.DataFrame:
    """One row a round of a set."""
    return frames.ordered(results.simulated("impact_rounds", name), "round")


def feedback(results: Results, name: str) -> pd.DataFrame:
    """One row: the first round against the last one, and whether prices stood still in it.

    Amplification is last over first: of the largest move, where the first is what the liquidations
    of unmoved prices do; of the liquidated notional; and of the accounts liquidated.
    """
    if name not in sets_with_impact(results):
        return pd.DataFrame()
    every = rounds(results, name)
    first, last = every.iloc[0], every.iloc[-1]
    row: dict[str, Any] = {
        "rounds": int(last["round"]),
        "stands_still": _settled(last),
        "first_move_frac": float(first["largest_change_frac"]),
        "last_move_frac": float(last["largest_move_frac"]),
        "move_amplification": _over(last["largest_move_frac"], first["largest_change_frac"]),
        "notional_amplification": _over(last["notional_usd"], first["notional_usd"]),
        "accounts_amplification": _over(last["liquidated"], first["liquidated"]),
    }
    for column in ("liquidated", "notional_usd", "bad_debt_usd"):
        row |= {f"{column}_without": float(first[column]), f"{column}_with": float(last[column])}
    return pd.DataFrame([row])


def furthest(results: Results, name: str) -> pd.DataFrame:
    """One row a coin: its furthest move, when, its price without and with it, what was sold."""
    columns = ["coin", "time", "move_frac", "index_usd", "moved_usd", "sold_usd", "bought_usd"]
    if name not in sets_with_impact(results):
        return pd.DataFrame(columns=columns)
    rows, found = results.simulated("impact", name), []
    for coin in sorted(set(rows["coin"].tolist())):
        mine = frames.rows(rows, rows["coin"] == coin)
        moves, traded = frames.numbers(mine, "move_frac"), frames.numbers(mine, "traded_usd")
        at = int(np.abs(moves).argmax())
        usd = float(mine["index_usd"].iloc[at])
        found.append(
            {
                "coin": coin,
                "time": mine["time"].iloc[at],
                "move_frac": float(moves[at]),
                "index_usd": usd,
                "moved_usd": usd * (1.0 + float(moves[at])),
                "sold_usd": float(-traded[traded < 0.0].sum()),
                "bought_usd": float(traded[traded > 0.0].sum()),
            }
        )
    return pd.DataFrame(found, columns=columns)


def impact_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Tables of what liquidations did to prices by file name."""
    if not has_impact(results):
        return {}
    return {
        "impact_feedback": over_sets(results, feedback),
        "impact_furthest": over_sets(results, furthest),
        "impact_rounds": over_sets(results, _all_rounds),
        "impact_moves": over_sets(results, _moves),
        **({"impact_tipping": tipping_table(results)} if has_tipping(results) else {}),
    }


def impact_section(results: Results) -> Section:
    """Prices with and without what liquidations did to them."""
    settled = {
        str(one["parameter_set"]): bool(one["stands_still"]) for one in results.manifest["impact"]
    }
    intro = (
        "What liquidations bought and sold of futures and perpetuals moved marks, and the accounts "
        "were replayed at the moved prices until these stood still. Size of the move, its decay "
        "and the depth of the book are assumed; nobody publishes them. All accounts of a round see "
        "the same prices, and hedges of options, spot and funding move nothing."
    )
    if wrong := [name for name, stands in settled.items() if not stands]:
        intro += (
            f" Not settled: prices of {text.listing(wrong)} still changed in the last round, so "
            "the numbers of this run are those of a cascade that was cut off, not of its end."
        )
    tables = [
        page_table(
            over_sets(results, feedback),
            _FEEDBACK,
            "With and without feedback",
            note="Amplification: last round over first. The first move is what the liquidations "
            "at unmoved prices do, the last one is at prices that stand still.",
        ),
        page_table(over_sets(results, furthest), _FURTHEST, "Furthest move of each coin"),
    ]
    caption = (
        "Index prices of the coins that moved furthest in the champion, without and with what its "
        "liquidations did to marks; below, the liquidated notional of every round."
    )
    pictures = [Picture("impact", caption)]
    if has_tipping(results):
        pictures.append(Picture("impact_tipping", TIPPING_CAPTION))
        tables.append(tipping_points(results))
    return Section("impact", "What liquidations did to prices", intro, pictures, tables)


def figure_impact(results: Results) -> Figure:
    """Prices with and without feedback, and notional by round."""
    names = sets_with_impact(results)
    coins = furthest(results, names[0])
    coins = coins.assign(size=coins["move_frac"].abs()).sort_values("size", ascending=False)
    top = frames.records(coins.head(MOST_COINS))
    if not top or not top[0]["size"]:
        return theme.empty_figure("Prices with and without feedback", "No price was moved.")
    chosen = [str(row["coin"]) for row in top]
    title = f"Liquidations moved {chosen[0]} by up to {text.percent(top[0]['move_frac'])}"
    rows, index = results.simulated("impact", names[0]), results.index()
    with mpl.rc_context(theme.style()):
        count = len(chosen) + 1
        figure, axes = theme.new_figure(title, 1.6 * count, count, 1)
        for panel, coin, row in zip(axes[:-1, 0], chosen, top, strict=True):
            mine = frames.ordered(frames.rows(rows, rows["coin"] == coin), "time")
            path = frames.ordered(frames.rows(index, index["currency"] == coin), "time")
            path = path.merge(mine[["time", "move_frac"]], on="time", how="left")
            usd = frames.numbers(path, "usd")
            moved = usd * (1.0 + np.nan_to_num(frames.numbers(path, "move_frac")))
            clock = pd.DatetimeIndex(path["time"]).tz_convert(None).to_numpy()
            panel.plot(clock, usd, color=theme.MUTED, label="without")
            panel.plot(clock, moved, color=theme.set_color(0), linewidth=0.8, label="with")
            panel.set_ylabel(f"{coin}, USD")
            theme.time_axis(panel, clock)
            panel.set_xlabel("time, UTC" if coin == chosen[-1] else "")
            words = f"furthest {text.percent(row['move_frac'])}, {text.time(row['time'])}"
            place = {"xycoords": "axes fraction", "fontsize": 8, "color": theme.set_color(0)}
            panel.annotate(words, (0.01, 0.06), **place)
        theme.legend_above(axes[0, 0])
        last = axes[-1, 0]
        for k, name in enumerate(names):
            every = rounds(results, name)
            last.plot(
                frames.numbers(every, "round"),
                frames.numbers(every, "notional_usd"),
                marker="o",
                markersize=3,
                color=theme.set_color(k),
                linestyle=theme.set_style(k),
                label=theme.label(name),
            )
        last.set_xlabel("round")
        last.set_ylabel("liquidated, USD")
        last.yaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
        theme.legend_above(last)
    return figure


def _all_rounds(results: Results, name: str) -> pd.DataFrame:
    return rounds(results, name) if name in sets_with_impact(results) else pd.DataFrame()


def _moves(results: Results, name: str) -> pd.DataFrame:
    if name not in sets_with_impact(results):
        return pd.DataFrame()
    return frames.ordered(results.simulated("impact", name), ["time", "coin"])


def _settled(last: pd.Series) -> str:
    if bool(last["stands_still"]):
        return "yes"
    return "no, goes in a circle" if last.get("goes_in_a_circle", False) else "no"


def _over(one: object, other: object) -> float | None:
    top, bottom = float(str(one)), float(str(other))
    return top / bottom if bottom > 0.0 else None


SET = Column("parameter_set", "Set")
_FEEDBACK = (
    SET,
    Column("rounds", "Rounds", cells.count),
    Column("stands_still", "Settled"),
    Column("first_move_frac", "Largest move", cells.share, "first round"),
    Column("last_move_frac", "Largest move", cells.share, "last round"),
    Column("move_amplification", "Amplification", cells.ratio, "of the move"),
    Column("liquidated_without", "Liquidated", cells.count, "without"),
    Column("liquidated_with", "Liquidated", cells.count, "with"),
    Column("accounts_amplification", "Amplification", cells.ratio, "of the accounts"),
    Column("notional_usd_without", "Size traded", cells.money, "without"),
    Column("notional_usd_with", "Size traded", cells.money, "with"),
    Column("notional_amplification", "Amplification", cells.ratio, "of the size"),
    Column("bad_debt_usd_without", "Bad debt", cells.money, "without"),
    Column("bad_debt_usd_with", "Bad debt", cells.money, "with"),
)
_FURTHEST = (
    SET,
    Column("coin", "Coin"),
    Column("time", "Time, UTC", cells.moment),
    Column("move_frac", "Move", cells.share),
    Column("index_usd", "Price, USD", cells.ratio, "without"),
    Column("moved_usd", "Price, USD", cells.ratio, "with"),
    Column("sold_usd", "Sold", cells.money, "net of each time"),
    Column("bought_usd", "Bought", cells.money, "net of each time"),
)
