"""Heat maps of the scenario grid: what is drawn, which cell is framed, how many units fit."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from backtest.grid_figure import MOST_UNITS, grid_figure
from backtest.portfolio_answer import Answer, Answers
from backtest.reference.okx import margin
from backtest.report.theme import to_png
from tests.okx_books import merged_numbers, option, portfolio, swap


INDEX = {"BTC": 60_000.0, "ETH": 3_000.0, "USDT": 1.0}
SOLD = option(
    "BTC-USD-250627-60000-C",
    "2025-06-27T08:00:00Z",
    -10.0,
    0.12,
    mark_iv=0.6,
    forward=61_000.0,
    multiplier=0.1,
)


def answer(*contracts: Any) -> Answer:
    found = margin(portfolio(*contracts, index_usd=INDEX), merged_numbers())
    return Answer({key: found[key] for key in ("units", "account")}, found)


def drawn(now: Answer, after: Answer | None = None) -> Figure:
    return grid_figure(Answers(now, after, "trades", {}, []))


def frames(figure: Figure) -> list[tuple[float, float]]:
    found = [patch for axes in figure.axes for patch in axes.patches]
    return [(float(p.get_x()), float(p.get_y())) for p in found if isinstance(p, Rectangle)]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title("left") for axes in figure.axes]


def test_the_worst_cell_is_framed():
    figure = drawn(answer(SOLD))
    unit = answer(SOLD).kernel["units"]["BTC"]
    assert frames(figure) == [(6.0, 0.0)]  # the highest price, volatility up
    (title,) = titles(figure)
    assert title == f"BTC: worst loss {unit['mr1']:,.2f}, requirement {unit['mmr']:,.2f}"
    assert len(figure.axes[0].texts) == 21
    assert to_png(figure).startswith(b"\x89PNG")


def test_equal_cells_frame_that_of_unchanged_volatility():
    assert frames(drawn(answer(swap("BTC-USDT-SWAP", 1.0, 60_100.0)))) == [(0.0, 1.0)]


def test_before_and_after_stand_side_by_side_with_one_scale():
    small, large = swap("BTC-USDT-SWAP", -1.0, 60_100.0), swap("BTC-USDT-SWAP", -4.0, 60_100.0)
    figure = drawn(answer(small), answer(large, swap("ETH-USDT-SWAP", 1.0, 3_000.0)))
    assert [title.split(":")[0] for title in titles(figure)] == [
        *("BTC now", "BTC after the trades", "ETH now", "ETH after the trades")
    ]
    assert titles(figure)[2] == "ETH now: nothing"
    one, two = (axes.collections[0] for axes in figure.axes[:2])
    assert one.get_clim() == two.get_clim()


def test_the_largest_units_are_drawn():
    found = answer(SOLD)
    unit = found.kernel["units"]["BTC"]
    units = {f"C{k:02}": {**unit, "mmr": float(k)} for k in range(MOST_UNITS + 3)}
    figure = drawn(Answer({**found.kernel, "units": units}, found.reference))
    assert titles(figure)[0].startswith("C03:")
    assert len(figure.axes) == MOST_UNITS
    assert "(12 largest of 15 units)" in figure.get_suptitle()


def test_nothing_to_draw_is_said():
    figure = drawn(answer())
    assert "no risk unit" in figure.axes[0].texts[0].get_text()
