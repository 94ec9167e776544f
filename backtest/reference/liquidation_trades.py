"""What a slice of a liquidation trades, what that costs, and the portfolio after it.

Every trade is made at the mark (spot: the index); what it costs leaves the settlement currency on
top, so the equity of an account falls by fees and slippage and by nothing else. Symbols as in
`okx_legs`. A trade that costs the share `k` of its size has the price `mark (1 -+ k)`.

Assumed where the rule text is silent:

* a slice closes every lot of an instrument by the same share;
* the size of an option is that of its coins (`n m S`); its fee is at most a share of its value,
  and selling one never costs more than it brings;
* spot trades cost the fee, and the slippage of a linear contract for every side that is a coin.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backtest.reference.models import margin
from backtest.reference.okx_charges import Numbers, group_of
from backtest.reference.okx_legs import inverse_pnl, linear_pnl, parse_time


Rules = dict[str, Any]
"""The plain numbers of a liquidation file (`configs/liquidation/`)."""
Row = dict[str, Any]

DUST = 1e-9
"""What is left of a leg counts as nothing below this share of what it was."""


@dataclass(frozen=True)
class Account:
    """A portfolio file with its margin (the answer of `models.margin`)."""

    portfolio: dict[str, Any]
    answer: dict[str, Any]

    @property
    def level(self) -> float:
        """Margin level, 1.0 = 100 %; infinite where nothing is required."""
        level = self.answer["account"]["margin_level"]
        return float("inf") if level is None else level

    @property
    def mmr(self) -> float:
        """Maintenance margin of the account, borrowing included, USD."""
        return self.answer["account"]["total_mmr"]

    @property
    def equity_usd(self) -> float:
        """Equity before any discount, USD."""
        return self.answer["account"]["equity_usd"]

    @property
    def indexes(self) -> dict[str, float]:
        """USD per unit of every currency of the file, also of those that the account lacks."""
        listed = {c: float(x) for c, x in self.portfolio["index_usd"].items() if x is not None}
        return {"USD": 1.0, **listed, **self.answer["detail"]["index_usd"]}

    @property
    def equities(self) -> dict[str, float]:
        """Equity of every currency, in its units."""
        return {c: row["equity"] for c, row in self.answer["detail"]["collateral"].items()}

    @property
    def cash(self) -> dict[str, float]:
        """Balance of every currency, in its units."""
        return self.answer["detail"]["cash"]

    @property
    def legs(self) -> dict[str, Row]:
        """Net positions that are not flat, by instrument, in alphabetical order."""
        rows = {row["instrument_id"]: row for row in self.answer["detail"]["legs"]}
        return {name: rows[name] for name in sorted(rows) if rows[name]["contracts"] != 0.0}

    @property
    def is_unpriced(self) -> bool:
        """Whether a price is missing."""
        return self.answer["account"]["status"] == "unpriced"

    def charges(self) -> dict[str, float]:
        """Every charge summed over the units, USD, that of borrowing last."""
        detail, units = self.answer["detail"], self.answer["units"].values()
        if detail["model"] == "bybit":
            return dict(detail["charges"])
        names = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9")
        found = {name: float(sum(unit[name] for unit in units)) for name in names}
        return {**found, "mr8": self.answer["account"]["mr8"]}


def account_of(portfolio: dict[str, Any], numbers: Numbers) -> Account:
    """A portfolio with its margin under the numbers of a parameter set."""
    return Account(portfolio, margin(portfolio, numbers))


@dataclass(frozen=True)
class Fill:
    """One trade of a slice.

    `contracts` is the signed change: contracts of a derivative, units of `coin` of spot. `mark`
    and `price` have the unit of the mark price; `settle` pays the costs, which are in USD;
    `delta_usd` is the cash delta that is bought (positive) or sold.
    """

    instrument_id: str
    kind: str
    coin: str
    settle: str
    contracts: float
    mark: float
    price: float
    notional_usd: float
    fee_usd: float
    slippage_usd: float
    delta_usd: float

    @property
    def cost_usd(self) -> float:
        """Fee and slippage, USD."""
        return self.fee_usd + self.slippage_usd


def unit_of(row: Row, numbers: Numbers) -> str:
    """Name of the risk unit of a leg."""
    if numbers["era"] != "split":
        return row["coin"]
    return f"{row['coin']}-{'USD' if row['style'] == 'inverse' else row['settle']}"


def contract_usd(row: Row, indexes: Mapping[str, float]) -> float:
    """Size of one contract, USD: linear `m P fx`, inverse `m`, option `m S`."""
    if row["kind"] == "option":
        return row["multiplier"] * indexes[row["coin"]]
    if row["style"] == "inverse":
        return row["multiplier"]
    return row["multiplier"] * row["mark"] * indexes[row["settle"]]


def contract_value(row: Row, indexes: Mapping[str, float]) -> float:
    """Value of one contract of an option at its mark, USD."""
    return row["multiplier"] * row["mark"] * indexes[row["settle"]]


def slice_of(start: float, left: float, minimum: float, rules: Rules) -> float:
    """How much of something a slice takes, all in one unit and positive.

    The share `slices.fraction` of what there was at the start of the step (or is, where that is
    more), at least the minimum; all of it where no more than the minimum would be left.

    Example:
        A leg of 100 at the start, 35 now, minimum 1: 10, then 10, then 10, then the last 5.
    """
    amount = max(rules["slices"]["fraction"] * max(start, left), minimum)
    return left if left - amount <= max(minimum, DUST * start) else amount


def closing_slice(row: Row, start: float, indexes: Mapping[str, float], rules: Rules) -> float:
    """Contracts (positive) of a leg that a slice closes; `start` is what it was at first."""
    minimum = rules["slices"]["min_usd"] / contract_usd(row, indexes)
    return slice_of(abs(start), abs(row["contracts"]), minimum, rules)


def fill_of(row: Row, contracts: float, account: Account, numbers: Numbers, rules: Rules) -> Fill:
    """The trade of so many contracts (signed) in an instrument, with its costs.

    Args:
        row: A leg of the account's margin, or the same keys of an instrument that is opened.
        contracts: Change of the position.
        account: The account before the slice.
        numbers: The parameter set.
        rules: The liquidation rules.

    Example:
        Selling 10 contracts of 0.01 BTC at 60,000 USDT, fee 0.05 %, slippage 0.225 %: size
        6,000 USD, fee 3.00, slippage 13.50, price 59,835.
    """
    indexes, is_option = account.indexes, row["kind"] == "option"
    size = abs(contracts) * contract_usd(row, indexes)
    fee = rules["fees"]["taker_rate"] * size
    slippage = slippage_rate(row, account, numbers, rules) * size
    if is_option:
        value = abs(contracts) * contract_value(row, indexes)
        fee = min(fee, rules["fees"]["option_cap_share"] * value)
        if contracts < 0.0:
            slippage = min(slippage, max(0.0, value - fee))
    scale = abs(contracts) * contract_value(row, indexes) if is_option else size
    share = (fee + slippage) / scale if scale > 0.0 else 0.0
    return Fill(
        instrument_id=row["instrument_id"],
        kind=row["kind"],
        coin=row["coin"],
        settle=row["settle"],
        contracts=contracts,
        mark=row["mark"],
        price=row["mark"] * (1.0 + share if contracts > 0.0 else 1.0 - share),
        notional_usd=size,
        fee_usd=fee,
        slippage_usd=slippage,
        delta_usd=contracts / row["contracts"] * row["cash_delta"]
        if row["contracts"]
        else math.copysign(size, contracts),
    )


def spot_fill(
    coin: str, settle: str, amount: float, account: Account, numbers: Numbers, rules: Rules
) -> Fill:
    """The exchange of `amount` units of a coin (negative: sold) against another currency."""
    indexes = account.indexes
    size = abs(amount) * indexes[coin]
    mark = indexes[coin] / indexes[settle]
    coins = [name for name in (coin, settle) if name not in numbers["quote_currencies"]]
    rate = sum(_linear_slippage(name, account, numbers, rules) for name in coins)
    fee, slippage = rules["fees"]["spot_rate"] * size, rate * size
    share = (fee + slippage) / size if size > 0.0 else 0.0
    return Fill(
        instrument_id=f"{coin}-{settle}",
        kind="spot",
        coin=coin,
        settle=settle,
        contracts=amount,
        mark=mark,
        price=mark * (1.0 + share if amount > 0.0 else 1.0 - share),
        notional_usd=size,
        fee_usd=fee,
        slippage_usd=slippage,
        delta_usd=math.copysign(size, amount),
    )


def slippage_rate(row: Row, account: Account, numbers: Numbers, rules: Rules) -> float:
    """Slippage of a trade in a leg, as a fraction of its size.

    `mr7`: the share of the leg's MR7 rate (half of it) times the multiplier of its unit's tier;
    `flat`: a rate by coin, and one of options; `none`: 0. A long option takes no more than its
    own value (as MR7 does).

    Source: okx_pm section 10, [A].
    Example: BTC perpetual, MR7 rate 0.45 %, tier multiplier 2: 0.45 %.
    """
    rule = rules["slippage"]
    if row["kind"] != "option":
        unit = unit_of(row, numbers)
        return _linear_slippage(row["coin"], account, numbers, rules, unit)
    if rule["model"] == "none":
        return 0.0
    long = row["contracts"] > 0.0
    coins = contract_value(row, account.indexes) / contract_usd(row, account.indexes)
    if rule["model"] == "flat":
        return min(rule["option_rate"], coins) if long else rule["option_rate"]
    coins = row.get("model_price", coins)
    mr7 = numbers["mr7"]
    rate = min(mr7["long_option_rate"], coins) if long else mr7["short_option_rate"]
    return rule["mr7_share"] * rate * tier_multiplier(unit_of(row, numbers), account, rules)


def tier_multiplier(unit: str, account: Account, rules: Rules) -> float:
    """Multiplier of MR7 that a unit trades at: of its highest tier, its average, or 1.

    Example:
        A raw charge of 300,000 USD of G1, tiers x1 to 250,000 and x2 above: `tier` 2, `average`
        1.1667, `none` 1.
    """
    detail = account.answer["detail"]["units"].get(unit)
    choice = rules["slippage"]["multiplier"]
    if choice == "none" or detail is None or not detail["mr7"]["tiers"]:
        return 1.0
    tiers = detail["mr7"]["tiers"]
    if choice == "tier":
        return tiers[-1]["rate"]
    return sum(part["value"] for part in tiers) / detail["mr7"]["raw"]


def _linear_slippage(
    coin: str, account: Account, numbers: Numbers, rules: Rules, unit: str = ""
) -> float:
    """Slippage rate of futures, perpetuals and spot of a coin; spot has the multiplier 1."""
    rule = rules["slippage"]
    if rule["model"] == "none":
        return 0.0
    if rule["model"] == "flat":
        return rule["linear_rates"].get(coin, rule["linear_rates"]["default"])
    mr7 = numbers["mr7"]
    rate = mr7["coin_linear_rate"].get(coin, mr7["linear_rate"][group_of(coin, numbers)])
    return rule["mr7_share"] * rate * tier_multiplier(unit, account, rules)


def after_fills(account: Account, fills: Iterable[Fill]) -> dict[str, Any]:
    """The portfolio file after some trades: equity falls by their costs alone.

    Positions that become flat keep a row of 0 contracts, which still says their price.
    """
    portfolio = account.portfolio
    rows = [dict(row) for row in portfolio.get("positions") or []]
    cash = {name: float(amount) for name, amount in (portfolio.get("balances") or {}).items()}
    terms = {item["instrument_id"]: item for item in portfolio.get("instruments", [])}
    for fill in fills:
        if fill.kind == "spot":
            cash[fill.coin] = cash.get(fill.coin, 0.0) + fill.contracts
            gain = -fill.contracts * fill.mark
        else:
            gain = _trade(rows, portfolio, terms[fill.instrument_id], fill)
        cost = fill.cost_usd / account.indexes[fill.settle]
        cash[fill.settle] = cash.get(fill.settle, 0.0) + gain - cost
    return {**portfolio, "positions": rows, "balances": cash}


def _trade(rows: list[Row], portfolio: dict[str, Any], terms: Row, fill: Fill) -> float:
    """Change the rows of an instrument; what that pays in the settlement currency, no costs.

    What closes all but dust closes all; what is beyond the position is opened at the mark.
    """
    mine = [row for row in rows if row["instrument_id"] == fill.instrument_id]
    net = sum(float(row["contracts"]) for row in mine)
    quote = mine[0] if mine else _quote(portfolio, fill.instrument_id)
    if net * fill.contracts >= 0.0:
        return _opened(rows, quote, terms, fill, fill.contracts)
    share = -fill.contracts / net
    beyond = fill.contracts + net if share > 1.0 + DUST else 0.0
    share = 1.0 if share >= 1.0 - DUST else share
    paid = 0.0
    for row in mine:
        closed = float(row["contracts"]) * share
        size = closed * float(terms["multiplier"])
        row["contracts"] = float(row["contracts"]) - closed
        if fill.kind == "option":
            paid += size * fill.mark
            continue
        entry = fill.mark if row.get("entry_price") is None else float(row["entry_price"])
        pnl = inverse_pnl if terms["style"] == "inverse" else linear_pnl
        paid += pnl(size, entry, fill.mark)
    return paid + (_opened(rows, quote, terms, fill, beyond) if beyond else 0.0)


def _opened(rows: list[Row], quote: Row, terms: Row, fill: Fill, contracts: float) -> float:
    """Add a lot at the mark; what that pays: an option costs its premium."""
    rows.append({**quote, "contracts": contracts, "entry_price": fill.mark})
    return -contracts * terms["multiplier"] * fill.mark if fill.kind == "option" else 0.0


def _quote(portfolio: dict[str, Any], name: str) -> Row:
    rows = [*(portfolio.get("positions") or []), *(portfolio.get("orders") or [])]
    return next(row for row in rows if row["instrument_id"] == name)


def cancelled(portfolio: dict[str, Any]) -> dict[str, Any]:
    """The portfolio without its orders; a row of 0 contracts keeps the price of each contract."""
    terms = {item["instrument_id"]: item for item in portfolio.get("instruments", [])}
    now = parse_time(portfolio["time"])
    rows = list(portfolio.get("positions") or [])
    known = {row["instrument_id"] for row in rows}
    for order in portfolio.get("orders") or []:
        name = order["instrument_id"]
        if name in known or terms[name]["kind"] == "spot" or _has_expired(terms[name], now):
            continue
        known.add(name)
        kept = {key: order.get(key) for key in ("mark_price", "mark_iv", "forward")}
        rows.append({"instrument_id": name, "contracts": 0.0, "entry_price": None, **kept})
    return {**portfolio, "positions": rows, "orders": []}


def _has_expired(terms: Row, now: datetime) -> bool:
    return bool(terms.get("expiry")) and parse_time(terms["expiry"]) <= now
