"""The stages of an OKX liquidation (section 10): cancel, DDH1, DDH2, basis hedge, reduction.

The order of the stages is stated; sizes and prices are assumed. Beyond that, assumed where the
rule text is silent:

* a charge is the largest of its unit when none of the other seven is larger; stages are asked in
  their order after every slice, within a stage the unit with the largest such charge first;
* a slice of any stage is traded only if it lowers the maintenance margin of the account, borrowing
  included, costs paid. Where that holds for no leg at all, the same share of all is closed;
* DDH1 and the basis hedge take the slice from all legs of a side that have the side's sign, by
  the same share of each;
* DDH2 trades no more than the net delta; it reduces the largest leg first, and opens perpetuals
  in the order of `ddh2.perpetuals`, by what they settle in, where their price is known;
* the reduction counts debts as legs: a slice is repaid by selling assets (`reduction.debts`).
"""

import math
from collections.abc import Iterator

from backtest.reference.liquidation_debts import debts, repayment
from backtest.reference.liquidation_stages import (
    NO_GAIN,
    NO_OPPOSITE,
    NO_STABLE_PAIRS,
    NOT_DUE,
    NOT_LARGEST,
    NOTHING_LEFT,
    Choice,
    Stage,
    State,
    best,
    best_reason,
    cancel,
    candidate,
    first_of,
    largest_first,
    leg_fills,
    slice_of_all,
)
from backtest.reference.liquidation_trades import (
    Account,
    Fill,
    Row,
    contract_usd,
    slice_of,
    spot_fill,
    unit_of,
)
from backtest.reference.okx_charges import Numbers
from backtest.reference.okx_legs import SECONDS_PER_DAY, parse_time


__all__ = ["STAGES", "basis", "choose", "ddh1", "ddh2", "is_safe", "reduction"]

UNIT_CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9")
TOO_SMALL = "the net delta is below the least size of a slice"


def is_safe(level: float, numbers: Numbers) -> bool:
    """Above 110 %, the bound itself not."""
    return level > numbers["levels"]["safe"]


def choose(state: State) -> Choice | dict[str, str]:
    """The next slice of an account that is being liquidated, else why no stage has one."""
    order = state.rules["stages"]["order"]
    if not state.active:
        return dict.fromkeys(order, NOT_DUE)
    return first_of([(name, STAGES[name]) for name in order], state)


def ddh1(state: State) -> Choice | str:
    """DDH1, while MR9 is the largest charge of its unit: close both sides of the worst pair.

    A slice is the share `slices.fraction` of what the pair hedged at the step's start, in USD of
    cash delta, the same on both sides. The worst pair has the largest charge.

    Source: section 10, sequence [S], slices [A].
    Example: 1,000,000 USD long in USDT against as much short in USDC: 100,000 USD of each.
    """
    if state.numbers["era"] == "split":
        return NO_STABLE_PAIRS
    why = NOT_LARGEST
    for name in _units_led_by(("mr9",), state):
        rows = state.account.answer["detail"]["units"][name]["mr9"]["pairs"]
        pair = max(rows, key=lambda row: row["value"])
        target = f"{name} {pair['pair']}"
        before = state.origin("ddh1").answer["detail"]["units"].get(name)
        at_first = before["mr9"]["pairs"] if before else []
        begun = sum(row["hedged"] for row in at_first if row["pair"] == pair["pair"])
        amount = slice_of(begun, pair["hedged"], state.rules["slices"]["min_usd"], state.rules)
        groups = state.account.answer["detail"]["units"][name]["mr9"]["groups"]
        fills = []
        for currency in pair["pair"].split("-"):
            mine = [row for row in _legs_of(name, state) if _group(row) == currency]
            fills += _close_side(mine, math.copysign(amount, groups[currency]), state)
        after = state.after(fills)
        if state.falls(after):
            reason = f"MR9 of {pair['value']:,.2f} USD is the largest charge of {name}"
            return Choice("ddh1", target, reason, fills, after)
        why = NO_GAIN
    return why


def ddh2(state: State) -> Choice | str:
    """DDH2, while MR1 or MR6 is the largest: trade futures and perpetuals against the net delta.

    Legs that add to the net delta are reduced first, a share of what they were at the step's
    start; then a perpetual is opened, a share of the net delta at the step's start.

    Source: section 10, sequence [S], slices and order [A].
    Example: 10 BTC net long of which a perpetual is 6: 0.6 BTC of it is sold.
    """
    why = NOT_LARGEST
    for name in _units_led_by(("mr1", "mr6"), state):
        unit = state.account.answer["units"][name]
        index = state.account.answer["detail"]["units"][name]["index"]
        if abs(unit["delta"]) * index < state.rules["slices"]["min_usd"]:
            why = TOO_SMALL
            continue
        why = NO_GAIN
        for fill in _against(name, unit["delta"], index, state):
            after = state.after([fill])
            if state.falls(after):
                led = "MR1" if unit["mr1"] >= unit["mr6"] else "MR6"
                charge = max(unit["mr1"], unit["mr6"])
                reason = (
                    f"{led} of {charge:,.2f} USD is the largest charge of {name}, "
                    f"net delta {unit['delta']:,.6g} coins"
                )
                return Choice("ddh2", name, reason, [fill], after)
    return why


def basis(state: State) -> Choice | str:
    """Basis hedge, in the unit with the highest MR4: close opposite maturities together.

    Of all pairs of a long and a short bucket (spot in use, perpetuals, each expiry) the one that
    would free most of MR4; a slice is a share of what they hedged at the step's start.

    Source: section 10, sequence [S]; pairs and slices [A].
    Example: 100 BTC of a future long, 60 BTC of perpetual short: 6 BTC of each.
    """
    units = state.account.answer["units"]
    why = NO_OPPOSITE
    for name in largest_first(units, lambda unit: unit["mr4"]):
        pairs = _opposite(name, state) if units[name]["mr4"] > 0.0 else {}
        if not pairs:
            continue
        long, short = largest_first(pairs, lambda freed: freed)[0]
        target = f"{name} {long} / {short}"
        begun, now = (
            _hedged(name, (long, short), each, state)
            for each in (state.origin("basis"), state.account)
        )
        amount = slice_of(begun, now, state.rules["slices"]["min_usd"], state.rules)
        fills = [
            fill
            for bucket, signed in ((long, amount), (short, -amount))
            for fill in _close_bucket(name, bucket, signed, state)
        ]
        after = state.after(fills)
        if state.falls(after):
            reason = f"MR4 of {units[name]['mr4']:,.2f} USD of {name} is the highest"
            return Choice("basis", target, reason, fills, after)
        why = NO_GAIN
    return why


def reduction(state: State) -> Choice | str:
    """Position reduction: a slice of the leg that lowers the margin most per USD of cost.

    Source: section 10, sequence [S], slices [A]; debts as legs, all legs at once [A].
    """
    legs = state.account.legs
    found = [
        candidate(name, leg_fills(row, state, "reduction"), state) for name, row in legs.items()
    ]
    owed = debts(state) if state.rules["reduction"]["debts"] else {}
    for currency in owed:
        fills = repayment(currency, "reduction", state)
        if fills:
            found.append(candidate(f"debt in {currency}", fills, state))
    top = best(found, state)
    if top is not None:
        return Choice("reduction", "", best_reason(top), top.fills, top.after)
    return slice_of_all(state, "reduction") if legs else NOTHING_LEFT


STAGES: dict[str, Stage] = {
    "cancel": cancel,
    "ddh1": ddh1,
    "ddh2": ddh2,
    "basis": basis,
    "reduction": reduction,
}


def _units_led_by(names: tuple[str, ...], state: State) -> list[str]:
    """Units in which one of some charges is the largest, the largest of them first."""
    found = {}
    for unit, values in state.account.answer["units"].items():
        leading = max(values[name] for name in names)
        if leading > 0.0 and leading >= max(values[name] for name in UNIT_CHARGES):
            found[unit] = leading
    return largest_first(found, lambda value: value)


def _legs_of(unit: str, state: State) -> list[Row]:
    return [row for row in state.account.legs.values() if unit_of(row, state.numbers) == unit]


def _group(row: Row) -> str:
    return "USD" if row["style"] == "inverse" else row["settle"]


def _close_side(rows: list[Row], signed: float, state: State) -> list[Fill]:
    """Close so much cash delta (USD, of this sign) of the legs that have its sign, all alike."""
    side = [row for row in rows if row["cash_delta"] * signed > 0.0]
    total = sum(row["cash_delta"] for row in side)
    share = min(1.0, signed / total) if side else 0.0
    return [state.fill(row, -row["contracts"] * share) for row in side]


def _against(unit: str, delta: float, index: float, state: State) -> Iterator[Fill]:
    """Trades against the net delta of a unit in the order in which they are tried."""
    origin = state.origin("ddh2")
    existing = {
        row["instrument_id"]: row
        for row in _legs_of(unit, state)
        if row["kind"] != "option" and row["delta"] * delta > 0.0
    }
    for name in largest_first(existing, lambda row: abs(row["cash_delta"])):
        row = existing[name]
        begun = abs(origin.legs.get(name, row)["contracts"])
        minimum = state.rules["slices"]["min_usd"] / contract_usd(row, state.account.indexes)
        amount = slice_of(begun, abs(row["contracts"]), minimum, state.rules)
        amount = min(amount, abs(row["contracts"] * delta / row["delta"]))
        yield state.fill(row, -math.copysign(amount, row["contracts"]))
    if not state.rules["ddh2"]["may_open"]:
        return
    begun = abs(origin.answer["units"][unit]["delta"]) if unit in origin.answer["units"] else 0.0
    coins = slice_of(begun, abs(delta), state.rules["slices"]["min_usd"] / index, state.rules)
    for row in _perpetuals(unit, state):
        one = row["multiplier"] / (row["mark"] if row["style"] == "inverse" else 1.0)
        yield state.fill(row, -math.copysign(coins / one, delta))


def _perpetuals(unit: str, state: State) -> list[Row]:
    """Perpetuals of a unit whose price is known, the most liquid first, as legs of 0 contracts."""
    portfolio, order = state.account.portfolio, state.rules["ddh2"]["perpetuals"]
    priced = {
        row["instrument_id"]: row["mark_price"]
        for row in (portfolio.get("positions") or [])
        if row.get("mark_price")
    }
    found = {}
    for terms in portfolio.get("instruments", []):
        name = terms["instrument_id"]
        family = "COIN" if terms["style"] == "inverse" else terms["settle"]
        if terms["kind"] != "perpetual" or name not in priced or family not in order:
            continue
        row = {**terms, "mark": float(priced[name]), "contracts": 0.0}
        if unit_of(row, state.numbers) == unit:
            found[order.index(family), name] = row
    return [found[key] for key in sorted(found)]


def _buckets(unit: str, account: Account, state: State) -> dict[str, float]:
    """Net cash delta in USD by maturity: `spot` (in use), `perpetuals`, expiry times.

    Spot takes part where MR4 charges it (since 2024-06-05), options where MR4 charges them.
    """
    found = dict[str, float]()
    answer = account.answer["units"].get(unit)
    if answer is None:
        return found
    index = account.answer["detail"]["units"][unit]["index"]
    if state.numbers["mr4"]["charge_spot"] and answer["spot_in_use"] != 0.0:
        found["spot"] = answer["spot_in_use"] * index
    for name, row in account.legs.items():
        if unit_of(row, state.numbers) == unit and _is_charged(row, state.numbers):
            bucket = _bucket(name, state)
            found[bucket] = found.get(bucket, 0.0) + row["cash_delta"]
    return found


def _is_charged(row: Row, numbers: Numbers) -> bool:
    """Whether a leg belongs to a bucket: options where MR4 charges them."""
    return row["kind"] != "option" or numbers["mr4"]["charge_options"]


def _bucket(name: str, state: State) -> str:
    terms = next(
        each for each in state.account.portfolio["instruments"] if each["instrument_id"] == name
    )
    return parse_time(terms["expiry"]).isoformat() if terms.get("expiry") else "perpetuals"


def _hedged(unit: str, pair: tuple[str, str], account: Account, state: State) -> float:
    """The smaller cash delta of two buckets, USD, whatever their signs."""
    buckets = _buckets(unit, account, state)
    return min(abs(buckets.get(name, 0.0)) for name in pair)


def _opposite(unit: str, state: State) -> dict[tuple[str, str], float]:
    """Pairs of a long and a short bucket, and how much of MR4 closing them would free, USD."""
    buckets = _buckets(unit, state.account, state)
    moves = {name: _move(unit, name, state) for name in buckets}
    least = state.rules["slices"]["min_usd"]
    return {
        (long, short): min(buckets[long], -buckets[short]) * (moves[long] + moves[short])
        for long in buckets
        for short in buckets
        if buckets[long] > 0.0 > buckets[short] and min(buckets[long], -buckets[short]) >= least
    }


def _move(unit: str, bucket: str, state: State) -> float:
    """What MR4 charges of a bucket: `max(near, annual T)`, nothing where it takes no part."""
    rule = state.numbers["mr4"]
    group = state.account.answer["detail"]["units"][unit]["group"]
    if bucket == "perpetuals" and not rule["charge_perpetuals"]:
        return 0.0
    years = 0.0
    if bucket not in ("spot", "perpetuals"):
        left = parse_time(bucket) - parse_time(state.account.portfolio["time"])
        years = left.total_seconds() / SECONDS_PER_DAY / 365.0
    return max(rule["near"][group], rule["annual"][group] * years)


def _close_bucket(unit: str, bucket: str, signed: float, state: State) -> list[Fill]:
    """Close so much cash delta of a bucket; spot is exchanged for `basis.spot_quote`.

    A file without the index of that currency leaves USD.
    """
    if bucket == "spot":
        coin = unit.split("-")[0]
        units = -signed / state.account.indexes[coin]
        quote = state.rules["basis"]["spot_quote"]
        quote = quote if quote in state.account.indexes else "USD"
        return [spot_fill(coin, quote, units, state.account, state.numbers, state.rules)]
    mine = [
        row
        for row in _legs_of(unit, state)
        if _bucket(row["instrument_id"], state) == bucket and _is_charged(row, state.numbers)
    ]
    return _close_side(mine, signed, state)
