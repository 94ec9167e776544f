"""The steps of Bybit portfolio margin as rich renderables: grid, contingency, margin rate.

Takes what `backtest.reference.bybit` gives.
"""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from backtest.explain_parts import (
    Detail,
    Labels,
    ModelText,
    Step,
    assumed,
    charge_table,
    grid_table,
    level_text,
    liabilities,
    line,
    marginal,
    money,
    number,
    percent,
    portfolios_line,
    potential_borrowing,
    row,
    signed_terms,
    table,
    unit_sum,
)


TITLES = {
    "max_loss": "stress grid loss",
    "short_options": "short options",
    "vega_spread": "vega spread",
    "stablecoin_spread": "USDT-USDC-USD spread",
    "delta_spread": "delta spread",
    "perpetual_futures": "perpetuals and futures",
    "borrow": "borrowing",
}
CONTINGENCY = tuple(TITLES)[1:-1]
_TIERS = "borrowing.tiers"


def render_unit(name: str, answer: Detail, detail: Detail, labels: Labels) -> RenderableType:
    """Everything about one unit: charges with formulas, the grid, the spreads, the aggregation."""
    head = (
        f"index {number(detail['index'])} USD, delta {number(answer['delta'])} coins, "
        f"cash delta {money(answer['cash_delta'])} USD, "
        f"spot in use {number(answer['spot_in_use'])} coins, "
        f"unrealised PnL {money(answer['upl'])} USD"
    )
    orders = portfolios_line(detail)
    tables = [
        _grid(detail["max_loss"]),
        *_volatilities(detail["max_loss"], labels),
        *_sides("Vega spread, coins for 1.00 of volatility", detail["vega_spread"]),
        *_sides("Delta spread, coins", detail["delta_spread"]),
    ]
    return Group(
        Rule(Text(f"Unit {name}", style="bold"), align="left"),
        line(head),
        *([orders] if orders is not None else []),
        charge_table(charge_formulas(name, detail, labels), TITLES, answer),
        *(Padding(shown, (1, 0, 0, 2)) for shown in tables),
        Padding(aggregation(answer, detail, labels), (1, 0, 1, 0)),
    )


def charge_formulas(coin: str, detail: Detail, labels: Labels) -> dict[str, str]:
    """Formula of each charge with its numbers, as text."""
    at_index = f"index {number(detail['index'])}"
    worst, short = detail["max_loss"]["worst"], detail["short_options"]
    vega, spread = detail["vega_spread"], detail["stablecoin_spread"]
    has_options = bool(detail["max_loss"]["volatilities"])
    tiers = marginal(detail["perpetual_futures"]["tiers"], rates_in_percent=True)

    def mark(*names: str) -> str:
        return assumed(labels, *(f"contingency.{name}" for name in names))

    return {
        "max_loss": f"max(0, -ALL) of the worst of {len(detail['max_loss']['prices'])} prices, "
        f"{percent(worst['price_move'], sign=True)}, volatility {worst['vol']}: linear "
        f"{money(worst['linear'])} + options {money(worst['options'])} + spot "
        f"{money(worst['spot'])} = {money(worst['all'])}"
        f"{assumed(labels, *_grid_paths(coin, detail, labels))}",
        "short_options": f"net short {number(short['short'])} coins "
        f"({signed_terms({'calls': short['net']['C'], 'puts': short['net']['P']}) or 'flat'}) x "
        f"{percent(short['rate'])}{mark('short_option_rate')} x {at_index}"
        if has_options
        else "no options",
        "vega_spread": f"{number(vega['day_difference'])} days apart x hedged vega "
        f"{number(vega['hedged'])} x {percent(vega['rate'])}{mark('vega_spread_rate')} x {at_index}"
        if has_options
        else "no options",
        "stablecoin_spread": f"(sum |d| - |sum d|) / 2 = {number(spread['hedged'])} coins "
        f"({signed_terms(spread['deltas']) or 'no delta'}) x {percent(spread['rate'])}"
        f"{mark('stablecoin_spread_rate')} x {at_index}",
        "delta_spread": _delta_spread(detail["delta_spread"], at_index, labels),
        "perpetual_futures": f"gross size {money(detail['perpetual_futures']['gross_usd'])} USD: "
        f"{tiers}{mark('perpetual_futures')}",
    }


def _grid_paths(coin: str, detail: Detail, labels: Labels) -> list[str]:
    """Key paths of the numbers that the grid of a unit takes, volatilities left out."""
    own = f"grid.price_range.{coin}"
    paths = [own if own in labels else "grid.price_range.default"]
    if any(leg["kind"] == "option" and leg["settle"] == leg["coin"] for leg in detail["legs"]):
        paths.append("option_pnl")
    if any(leg["price_share"] < 1.0 for leg in detail["max_loss"]["volatilities"]):
        paths.append("grid.near_expiry")
    return paths


def _delta_spread(spread: Detail, at_index: str, labels: Labels) -> str:
    """Calendar part and spot basis part, each with its numbers."""
    calendar = (
        f"calendar {number(spread['day_difference'])} days apart x hedged "
        f"{number(spread['hedged'])} coins x {percent(spread['rate'])}"
        f"{assumed(labels, 'contingency.calendar_rate')} x {at_index} = {money(spread['calendar'])}"
    )
    basis = spread["spot_basis"]
    if not basis["hedged_usd"]:
        return f"{calendar}; no spot that hedges"
    rule = "contingency.spot_basis"
    return (
        f"{calendar}; spot {money(basis['hedged_usd'])} USD x min(basis "
        f"{percent(basis['used_basis'])} (weighted {percent(basis['weighted_basis'])}"
        f"{assumed(labels, f'{rule}.threshold_rule')}) x factor {number(basis['factor'])}, cap "
        f"{number(basis['cap'])}{assumed(labels, f'{rule}.cap_share')}) = {money(basis['value'])}"
    )


def aggregation(answer: Detail, detail: Detail, labels: Labels) -> Text:
    """The sum of the charges with the numbers, and the initial margin."""
    parts = " + ".join(money(answer[name]) for name in CONTINGENCY)
    factor = f"{number(detail['imr_factor'])}{assumed(labels, 'aggregation.imr_factor')}"
    return Text.assemble(
        f"MMR = grid loss {money(answer['max_loss'])} + contingency ({parts})\n",
        f"    = {money(answer['max_loss'])} + {money(answer['contingency'])} = ",
        (f"{money(answer['mmr'])} USD\n", "bold"),
        f"IMR = {factor} x {money(answer['mmr'])} = {money(answer['imr'])} USD",
    )


def _grid(grid: Detail) -> Table:
    """Linear, option and spot PnL at each price; the worst sum and its volatility marked `<`."""
    has_options, worst = bool(grid["volatilities"]), grid["worst"]
    rows: dict[float, dict[str, float]] = {}
    for price in grid["prices"]:
        rows[price["price_move"]] = {"linear": price["linear"]}
    for cell in grid["cells"] if has_options else ():
        rows[cell["price_move"]][f"options {cell['vol']}"] = cell["pnl"]
    for price in grid["prices"]:
        rows[price["price_move"]] |= {"spot": price["spot"], "ALL": price["all"]}
    marked = {(worst["price_move"], "ALL"), (worst["price_move"], f"options {worst['vol']}")}
    title = "Stress grid PnL, USD: ALL = linear + worst options + spot (the worst is marked <)"
    return grid_table(title, rows, marked)


def _volatilities(grid: Detail, labels: Labels) -> list[Table]:
    if not grid["volatilities"]:
        return []
    mark = assumed(labels, "grid.volatility")
    shown = table(f"Volatilities{mark}", "option", "down", "mark", "up", "share of price shock")
    for leg in grid["volatilities"]:
        values = [percent(leg[key]) for key in ("down", "sigma", "up", "price_share")]
        row(shown, leg["instrument_id"], *values)
    return [shown]


def _sides(title: str, spread: Detail) -> list[Table]:
    """Buckets of a calendar spread and its two sides; none where one side hedges nothing."""
    if not spread["hedged"]:
        return []
    shown = table(f"{title}: hedged = the smaller side", "bucket", "days", "amount")
    for name, bucket in spread["buckets"].items():
        row(shown, name, number(bucket["days"]), number(bucket["amount"]))
    for side in ("long", "short"):
        days, amount = spread[side]["days"], spread[side]["amount"]
        row(shown, f"{side} side, average days", number(days), number(amount), style="bold")
    return [shown]


def account_steps(answer: Detail, labels: Labels) -> list[Step]:
    """Totals, adjusted equity, margin rate and its inverse, each as a formula."""
    account, detail = answer["account"], answer["detail"]
    adjusted, total = money(account["adjusted_equity"]), money(account["total_mmr"])
    borrow, rate = account["borrow_mmr"], account["mm_rate"]
    steps = [
        Step(
            "derivatives MMR",
            unit_sum(answer["units"], "mmr"),
            money(account["derivatives_mmr"]),
        ),
        *_borrowing(answer, labels),
        Step("total MMR", f"{money(account['derivatives_mmr'])} + borrow {money(borrow)}", total),
        Step(
            "total IMR",
            f"units {unit_sum(answer['units'], 'imr')} + borrow {money(account['borrow_imr'])}",
            money(account["total_imr"]),
        ),
        Step(
            "adjusted equity",
            f"equity {money(account['equity_usd'])} - haircut loss {money(detail['haircut_loss'])} "
            f"- order loss {money(-detail['order_loss'])}",
            adjusted,
        ),
        Step("MM rate", f"{total} / {adjusted}", level_text(rate)),
        Step("margin level", "1 / MM rate", level_text(account["margin_level"])),
    ]
    if detail["repay_due"]:
        level = level_text(detail["levels"]["repay"])
        steps.append(Step("repayment", f"in debt at a margin level of {level} or less", "due"))
    return steps


def _borrowing(answer: Detail, labels: Labels) -> list[Step]:
    borrow, account = answer["detail"]["borrow"], answer["account"]
    potential = potential_borrowing(borrow["needed"], borrow)
    if not borrow["liabilities"]:
        return [*potential, Step("borrow MMR", "no liabilities", money(0.0))]
    margin, initial = (liabilities(borrow, labels, _TIERS, rate) for rate in ("mmr", "imr"))
    return [
        *potential,
        Step("borrow MMR", margin, money(account["borrow_mmr"])),
        Step("borrow IMR", initial, money(account["borrow_imr"])),
    ]


TEXT = ModelText(
    titles=TITLES,
    borrow="borrow_mmr",
    borrow_charge="borrow",
    extra=("mm_rate",),
    unit=render_unit,
    account=account_steps,
)
