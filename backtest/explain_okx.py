"""The steps of OKX portfolio margin as rich renderables: charges of a unit, numbers of the account.

Takes what `backtest.reference.okx` gives.
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
    table,
    unit_sum,
)


TITLES = {
    "mr1": "MR1 spot x volatility",
    "mr2": "MR2 theta",
    "mr3": "MR3 vega term structure",
    "mr4": "MR4 basis",
    "mr5": "MR5 interest rate",
    "mr6": "MR6 extreme move",
    "mr7": "MR7 minimum charge",
    "mr8": "MR8 borrowing",
    "mr9": "MR9 stablecoin depeg",
}


def render_unit(name: str, answer: Detail, detail: Detail, labels: Labels) -> RenderableType:
    """Everything about one unit: charges with formulas, their tables, the aggregation."""
    head = (
        f"group {detail['group']}, index {number(detail['index'])} USD, "
        f"delta {number(answer['delta'])} coins, cash delta {money(answer['cash_delta'])} USD, "
        f"spot in use {number(answer['spot_in_use'])} coins, "
        f"unrealised PnL {money(answer['upl'])} USD"
    )
    parts: list[RenderableType] = [
        Rule(Text(f"Unit {name}", style="bold"), align="left"),
        line(head),
    ]
    orders = portfolios_line(detail)
    parts += [orders] if orders is not None else []
    parts.append(charge_table(charge_formulas(detail, labels), TITLES, answer))
    parts += [Padding(shown, (1, 0, 0, 2)) for shown in _detail_tables(detail, labels)]
    parts.append(Padding(aggregation(answer, detail, labels), (1, 0, 1, 0)))
    return Group(*parts)


def charge_formulas(detail: Detail, labels: Labels) -> dict[str, str]:
    """Formula of each charge with its numbers, as text."""
    group = detail["group"]
    one, six, five = detail["mr1"]["worst"], detail["mr6"], detail["mr5"]["worst"]
    has_options = bool(detail["mr1"]["volatilities"])
    options = ("option_pnl", "mr1.volatility") if has_options else ()
    fees = ("mr7.short_option_rate", "mr7.long_option_rate") if has_options else ()
    losses = [money(leg["loss"]) for leg in detail["mr2"]["legs"]]
    buckets = detail["mr4"]["buckets"].values()
    basis = [f"|{money(b['cash_delta'])}| x {percent(b['move'])}" for b in buckets]
    pairs = [
        f"{pair['pair']}: {marginal(pair['tiers'], rates_in_percent=True)}"
        for pair in detail["mr9"]["pairs"]
    ]
    return {
        "mr1": f"max(0, -PnL) of the worst of {len(detail['mr1']['cells'])} cells, price "
        f"{percent(one['price_move'], sign=True)}, volatility {one['vol']}: "
        f"PnL {money(one['pnl'])}{assumed(labels, f'mr1.price_moves.{group}', *options)}",
        "mr2": f"max(0, sum n m (V(T) - V(T - {number(detail['mr2']['days'])} d))) = "
        f"max(0, {' + '.join(losses)}){assumed(labels, 'mr2')}"
        if losses
        else "no options",
        "mr3": f"{percent(detail['mr3']['rate'])} x hedged vega {money(detail['mr3']['hedged'])}"
        f"{assumed(labels, 'mr3')}"
        if has_options
        else "no options",
        "mr4": f"sum |d_b| x move_b = {' + '.join(basis) or '0'}"
        f"{assumed(labels, f'mr4.near.{group}', f'mr4.annual.{group}')}",
        "mr5": f"max(0, -PnL) of the worst of 4 curves, parallel "
        f"{percent(five['parallel'], sign=True)}, slope {percent(five['slope'], sign=True)}: "
        f"PnL {money(five['pnl'])}{assumed(labels, 'mr5')}"
        if has_options
        else "no options",
        "mr6": f"{number(six['factor'])} x max(0, -PnL) at "
        f"{percent(six['worst']['price_move'], sign=True)}: PnL {money(six['worst']['pnl'])}"
        f"{assumed(labels, f'mr6.extreme_move.{group}', 'mr6.factor', *options[:1])}",
        "mr7": f"raw {money(detail['mr7']['raw'])} through the multipliers: "
        f"{marginal(detail['mr7']['tiers'], rates_in_percent=False)}"
        f"{assumed(labels, f'mr7.linear_rate.{group}', f'mr7.tiers.{group}', *fees)}",
        "mr9": ("; ".join(pairs) or "no opposite settlement currencies")
        + (assumed(labels, "mr9") if pairs else ""),
    }


def aggregation(answer: Detail, detail: Detail, labels: Labels) -> Text:
    """The aggregation line of the rule book with the numbers, and the initial margin."""
    rule = detail["aggregation"]
    inner = ", ".join(f"{name.upper()} {money(answer[name])}" for name in rule["worst"])
    added = " + ".join(
        f"{name.upper()} {money(answer[name])}" for name in ("mr3", "mr4", "mr5", "mr9")
    )
    total = rule["stress"] + rule["added"]
    binding = "MR7 binds" if rule["binding"] == "mr7" else "the stress part binds"
    return Text.assemble(
        f"MMR = max( max({inner}) + {added}, MR7 {money(answer['mr7'])} )\n",
        f"    = max({money(total)}, {money(answer['mr7'])}) = ",
        (f"{money(answer['mmr'])} USD", "bold"),
        (f"   {binding}{assumed(labels, 'aggregation.worst')}\n", "dim"),
        f"IMR = {number(rule['imr_factor'])} x {money(answer['mmr'])} = ",
        f"{money(answer['imr'])} USD",
    )


def _detail_tables(detail: Detail, labels: Labels) -> list[Table]:
    """The tables behind the charges, without those that would be empty."""
    tables = [_grid(detail["mr1"])]
    if detail["mr1"]["volatilities"]:
        tables += [
            _volatilities(detail["mr1"], labels),
            _losses(detail["mr2"]),
            _vegas(detail["mr3"]),
            _curves(detail["mr5"]),
        ]
    if detail["mr4"]["buckets"]:
        tables.append(_buckets(detail["mr4"], detail["group"], labels))
    tables.append(_extremes(detail["mr6"]))
    if detail["mr7"]["legs"]:
        tables.append(_minimum(detail["mr7"]))
    if any(detail["mr9"]["groups"].values()):
        tables.append(_settlement(detail["mr9"]))
    return tables


def _grid(mr1: Detail) -> Table:
    """The MR1 cells, a row a price, a column a volatility; the worst one marked `<`."""
    rows: dict[float, dict[str, float]] = {}
    for cell in mr1["cells"]:
        rows.setdefault(cell["price_move"], {})[cell["vol"]] = cell["pnl"]
    worst = {(mr1["worst"]["price_move"], mr1["worst"]["vol"])}
    return grid_table("MR1 PnL, USD (the worst cell is marked <)", rows, worst)


def _volatilities(mr1: Detail, labels: Labels) -> Table:
    mark = assumed(labels, "mr1.volatility")
    shown = table(f"MR1 volatilities{mark}", "option", "down", "mark", "up")
    for leg in mr1["volatilities"]:
        values = [percent(leg[key]) for key in ("down", "sigma", "up")]
        row(shown, leg["instrument_id"], *values)
    return shown


def _losses(mr2: Detail) -> Table:
    shown = table("MR2 value lost as time passes, USD", "option", "n m (V(T) - V(T - d))")
    for leg in mr2["legs"]:
        row(shown, leg["instrument_id"], money(leg["loss"]))
    row(shown, "sum", money(sum(leg["loss"] for leg in mr2["legs"])), style="bold")
    return shown


def _vegas(mr3: Detail) -> Table:
    shown = table(
        "MR3 vega, USD for 1.00 of volatility: hedged = (sum |w| - |sum w|) / 2",
        *("expiry", "days", "vega", "w = vega sqrt(30 / days)"),
    )
    for expiry, values in mr3["expiries"].items():
        days = number(values["days"])
        row(shown, expiry, days, money(values["vega"]), money(values["weighted"]))
    row(shown, "hedged", "", "", money(mr3["hedged"]), style="bold")
    return shown


def _buckets(mr4: Detail, group: str, labels: Labels) -> Table:
    near = f"{percent(mr4['near'])}{assumed(labels, f'mr4.near.{group}')}"
    annual = f"{percent(mr4['annual'])}{assumed(labels, f'mr4.annual.{group}')}"
    shown = table(
        f"MR4 buckets: move = max({near}, {annual} x years)",
        *("bucket", "cash delta USD", "years", "move", "charge USD"),
    )
    for name, bucket in mr4["buckets"].items():
        cells = (money(bucket["cash_delta"]), number(bucket["years"]), percent(bucket["move"]))
        row(shown, name, *cells, money(bucket["charge"]))
    return shown


def _curves(mr5: Detail) -> Table:
    shown = table("MR5 curves, USD", "parallel", "slope", "PnL", left=0)
    for cell in mr5["cells"]:
        moves = [percent(cell[key], sign=True) for key in ("parallel", "slope")]
        row(shown, *moves, money(cell["pnl"]), style="bold red" if cell == mr5["worst"] else "")
    return shown


def _extremes(mr6: Detail) -> Table:
    shown = table("MR6 extreme moves, USD", "price", "PnL", left=0)
    for cell in mr6["cells"]:
        style = "bold red" if cell == mr6["worst"] else ""
        row(shown, percent(cell["price_move"], sign=True), money(cell["pnl"]), style=style)
    return shown


def _minimum(mr7: Detail) -> Table:
    shown = table("MR7 minimum charge", "leg", "size USD", "rate", "raw USD")
    for leg in mr7["legs"]:
        cells = (money(leg["size"]), percent(leg["rate"]), money(leg["value"]))
        row(shown, leg["instrument_id"], *cells)
    row(shown, "sum", "", "", money(mr7["raw"]), style="bold")
    return shown


def _settlement(mr9: Detail) -> Table:
    shown = table("MR9 settlement groups and pairs", "group or pair", "index", "USD")
    for name, value in mr9["groups"].items():
        row(shown, name, "", money(value))
    for pair in mr9["pairs"]:
        row(shown, f"{pair['pair']} hedged", number(pair["index"]), money(pair["hedged"]))
    return shown


def account_steps(answer: Detail, labels: Labels) -> list[Step]:
    """Aggregation over units, borrowing, adjusted equity and margin level, each as a formula."""
    account, detail = answer["account"], answer["detail"]
    derivatives, adjusted = money(account["derivatives_mmr"]), money(account["adjusted_equity"])
    borrow, total = money(account["borrow_imr"]), money(account["total_mmr"])
    factor = f"{number(detail['imr_factor'])} x {derivatives} + borrow IMR {borrow}"
    return [
        Step("derivatives MMR", unit_sum(answer["units"], "mmr"), derivatives),
        *_borrowing(detail["mr8"], labels),
        Step("total MMR", f"{derivatives} + MR8 {money(account['mr8'])}", total),
        Step(
            "total IMR",
            f"{factor}{assumed(labels, 'aggregation.imr_factor')}",
            money(account["total_imr"]),
        ),
        Step("adjusted equity", _adjusted_equity(detail), adjusted),
        Step(
            "margin level",
            f"{adjusted} / ({total} + fee {money(detail['borrow_fee'])})",
            level_text(account["margin_level"]),
        ),
    ]


def _adjusted_equity(detail: Detail) -> str:
    collateral = sum(value["value"] for value in detail["collateral"].values())
    if not detail["orders"]:
        return "sum of collateral"
    return (
        f"collateral {money(collateral)} - order loss {money(detail['order_loss'])} "
        f"- premium of bought options {money(detail['premium'])}"
    )


def _borrowing(mr8: Detail, labels: Labels) -> list[Step]:
    """MR8, borrow IMR and borrow fee, liability by liability."""
    potential = potential_borrowing(mr8["outgoing"], mr8)
    owed = mr8["liabilities"].values()
    if not owed:
        return [*potential, Step("MR8 borrowing", "no liabilities", money(0.0))]
    fees = " + ".join(
        f"{money(debt['liability_usd'])} x (1 + {percent(debt['mmr'])})" for debt in owed
    )
    value = sum(debt["liability_usd"] * debt["mmr"] for debt in owed)
    margin, initial = (liabilities(mr8, labels, "mr8.tiers", rate) for rate in ("mmr", "imr"))
    return [
        *potential,
        Step("MR8 borrowing", margin, money(value)),
        Step("borrow IMR", initial, money(mr8["imr"])),
        Step("borrow fee", f"({fees}) x {percent(mr8['fee_rate'])}", money(mr8["fee"])),
    ]


TEXT = ModelText(
    titles=TITLES,
    borrow="mr8",
    borrow_charge="mr8",
    extra=(),
    unit=render_unit,
    account=account_steps,
)
