"""Portfolio files of one market through the kernels, in the shape of the reference's answers."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from backtest import what_if
from backtest.batching import Snapshot, batches
from backtest.engine import Engine, over_times, use_compilation_cache
from backtest.leg_lists import Terms
from backtest.liquidation_ledger import LiquidationLedger, after, applied
from backtest.liquidation_records import hedges, liquidation_record, listing_record
from backtest.liquidation_room import rooms
from backtest.liquidation_steps import Step
from backtest.liquidator import STATUSES, Liquidated, liquidate
from backtest.model_records import Currencies, contract_records
from backtest.parameter_records import has_split_units, parameter_record
from backtest.reference import liquidation_stages as said
from backtest.reference.liquidation import Liquidation as Reference, Step as ReferenceStep
from backtest.reference.liquidation_okx import TOO_SMALL
from backtest.settle import some_of
from kernels.liquidation.records import WHY, LiquidationRules, Listing
from kernels.records import QUOTES, Contract


@dataclass(frozen=True)
class World:
    """Accounts of one market as the kernels take them; ``union`` knows every price."""

    names: list[str]
    currencies: Currencies
    terms: Terms
    contracts: Contract
    listing: Listing
    rules: LiquidationRules
    numbers: dict[str, Any]
    snapshot: Snapshot
    union: dict[str, Any]
    table: Any
    params: Any
    surplus_share: float

    @property
    def is_split(self) -> bool:
        """Whether units are by settlement family too."""
        return has_split_units(self.numbers)

    @property
    def names_of_accounts(self) -> np.ndarray:
        """Ids of the accounts."""
        return self.snapshot.account_ids

    def at(self, factor: float) -> "World":
        """The world when the prices of all coins are so many times what they were."""
        union = fallen(self.union, factor)
        return replace(self, table=_table(union, self.contracts, self.currencies, self.numbers))


def fallen(union: dict[str, Any], factor: float) -> dict[str, Any]:
    """A file with the prices of coins changed; options keep their prices in coins."""
    kinds = {item["instrument_id"]: item["kind"] for item in union["instruments"]}
    rows = []
    for row in union["positions"]:
        forward = row.get("forward")
        new = {"forward": None if forward is None else forward * factor}
        if kinds[row["instrument_id"]] != "option":
            new["mark_price"] = row["mark_price"] * factor
        rows.append({**row, **new})
    index = {
        c: usd if c in ("USD", *QUOTES) else usd * factor for c, usd in union["index_usd"].items()
    }
    return {**union, "positions": rows, "index_usd": index}


def at_prices(portfolio: dict[str, Any], union: dict[str, Any]) -> dict[str, Any]:
    """A portfolio file with the prices of another one."""
    keys = ("mark_price", "mark_iv", "forward")
    quotes = {row["instrument_id"]: {k: row.get(k) for k in keys} for row in union["positions"]}

    def priced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, **quotes[row["instrument_id"]]} for row in rows]

    return {
        **portfolio,
        "positions": priced(portfolio["positions"]),
        "orders": priced(portfolio["orders"]),
        "index_usd": {c: union["index_usd"][c] for c in portfolio["index_usd"]},
    }


def world_of(
    portfolios: list[dict[str, Any]], numbers: dict[str, Any], rules: dict[str, Any]
) -> World:
    """Portfolios of one time and market; every price stands in each file that knows it."""
    use_compilation_cache()
    union = _union(portfolios)
    instruments = what_if._instruments(union)
    coins = [*instruments["coin"], *instruments["settle"], *union["balances"]]
    currencies = Currencies([str(c) for c in coins])
    contracts = contract_records(instruments, currencies)
    params = over_times(parameter_record(numbers, currencies), 1)
    names = [str(name) for name in instruments["instrument_id"]]
    return World(
        names=names,
        currencies=currencies,
        terms=what_if.terms_of(contracts),
        contracts=contracts,
        listing=listing_record(contracts, names, rules),
        rules=liquidation_record(rules, numbers, currencies),
        numbers=numbers,
        snapshot=_joined([what_if._snapshot(p, instruments, currencies) for p in portfolios]),
        union=union,
        table=_table(union, contracts, currencies, numbers),
        params=jax.tree.map(lambda x: x[0], params),
        surplus_share=rules["fund"]["surplus_share"],
    )


def _table(
    union: dict[str, Any], contracts: Contract, currencies: Currencies, numbers: dict[str, Any]
) -> Any:
    """The shared table at the prices of a file."""
    clock = what_if._clock_us(union, numbers)
    window = what_if._window(union, what_if._instruments(union), currencies, clock)
    params = over_times(parameter_record(numbers, currencies), 1)
    (priced,) = Engine().price(window, contracts, [params])
    return jax.tree.map(lambda x: x[..., 0], priced.tables)


def liquidated(world: World, active: np.ndarray | None = None) -> list[dict[str, Any]]:
    """What the kernels did to every account, by name."""
    return liquidated_from(world, LiquidationLedger.empty(len(world.names_of_accounts)), active)[0]


def liquidated_from(
    world: World, ledger: LiquidationLedger, active: np.ndarray | None = None
) -> tuple[list[dict[str, Any]], LiquidationLedger]:
    """The same, beginning with what earlier liquidations left; and what is left then."""
    going = ledger.is_active if active is None else active
    found: list[dict[str, Any]] = [{} for _ in world.names_of_accounts]
    perpetuals = hedges(world.terms, world.listing)
    snapshot = applied(world.snapshot, ledger)
    parts = batches(snapshot, world.terms, world.currencies, split=world.is_split)
    for batch in parts:
        for who, room in rooms(batch, snapshot, world.terms, perpetuals):
            done = liquidate(
                room,
                going[batch.accounts[who]],
                world.table,
                world.params,
                world.listing,
                world.rules,
                world.surplus_share,
            )
            ledger = after(ledger, some_of(batch, who), done, world.terms)
            for k, account in enumerate(batch.accounts[who]):
                found[account] = _named(world, done, k)
    return found, ledger


def _named(world: World, done: Liquidated, k: int) -> dict[str, Any]:
    book = done.room.book
    accounts = book.auto_borrows.shape[-1]
    lists = [
        np.asarray(x[0]).reshape(-1, accounts)
        for x in (book.leg_instrument, book.option_instrument)
    ]
    instrument = np.concatenate(lists)[:, k]
    held = [
        np.asarray(x[0]).reshape(-1, accounts) for x in (book.leg_contracts, book.option_contracts)
    ]
    contracts = np.concatenate(held)[:, k]
    currency = [*(world.currencies.names[c] for c in book.unit_coin[:, k]), *QUOTES]
    cash: dict[str, float] = {}
    values = [*book.coin_cash[:, k], *book.quote_cash[:, k]]
    for name, amount in zip(currency, values, strict=True):
        cash[name] = cash.get(name, 0.0) + float(amount)
    return {
        "status": STATUSES[done.status[k]],
        "is_active": bool(done.active[k]),
        "level": (done.level[0][k], done.level[1][k]),
        "equity_usd": (done.equity_usd[0][k], done.equity_usd[1][k]),
        "mmr_usd": (done.mmr_usd[0][k], done.mmr_usd[1][k]),
        "fees_usd": done.fees_usd[k],
        "notional_usd": done.notional_usd[k],
        "slippage_usd": done.slippage_usd[k],
        "bad_debt_usd": done.bad_debt_usd[k],
        "surplus_usd": done.surplus_usd[k],
        "slices": int(done.slices[k]),
        "contracts": {
            world.names[i - 1]: float(n)
            for i, n in zip(instrument, contracts, strict=True)
            if n != 0.0
        },
        "cash": cash,
        "steps": [_step(world, step, currency) for step in done.steps[k]],
    }


def _step(world: World, step: Step, currency: list[str]) -> dict[str, Any]:
    names = [world.names[i - 1] for i in step.instrument]
    traded = dict(zip(names, step.contracts.tolist(), strict=True))
    for h in np.flatnonzero(step.spot_fee_usd):
        traded[f"spot {currency[h]}"] = float(step.spot[h])
    return {
        "stage": step.stage,
        "slices": step.slices,
        "ended": step.ended,
        "traded": traded,
        "price": dict(zip(names, step.price_avg.tolist(), strict=True)),
        "notional_usd": step.size_usd,
        "fee_usd": step.fee_usd,
        "slippage_usd": step.slippage_usd,
        "level": step.level,
        "mmr_usd": step.mmr_usd,
        "equity_usd": step.equity_usd,
        "charges": step.charges,
    }


def _union(portfolios: list[dict[str, Any]]) -> dict[str, Any]:
    """One file with all instruments and prices; rows of 0 contracts."""
    instruments: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    balances: dict[str, float] = {}
    index: dict[str, float] = {}
    for each in portfolios:
        for item in each["instruments"]:
            assert instruments.setdefault(item["instrument_id"], item) == item
        for row in [*each["positions"], *each["orders"]]:
            rows.setdefault(row["instrument_id"], {**row, "contracts": 0.0})
        balances |= dict.fromkeys([*each["balances"], *each["spot_limits"]], 0.0)
        index |= each["index_usd"]
    return {
        **portfolios[0],
        "index_usd": index,
        "instruments": list(instruments.values()),
        "positions": list(rows.values()),
        "orders": [],
        "balances": balances,
    }


def _joined(parts: list[Snapshot]) -> Snapshot:
    fields: dict[str, Any] = {}
    for name in Snapshot.__dataclass_fields__:
        values = []
        for k, part in enumerate(parts):
            value = getattr(part, name)
            is_account = name in ("leg_account", "cash_account", "order_account")
            values.append(value + k if is_account else value)
        fields[name] = np.concatenate(values)
    fields["account_ids"] = np.asarray([f"account {k:05d}" for k in range(len(parts))])
    return replace(parts[0], **fields)


SAID = {
    "safe": said.SAFE,
    "limit": said.LIMIT,
    "nothing_left": said.NOTHING_LEFT,
    "other_stage": said.OTHER_STAGE,
    "not_largest": said.NOT_LARGEST,
    "no_gain": said.NO_GAIN,
    "no_orders": said.NO_ORDERS,
    "no_opposite": said.NO_OPPOSITE,
    "no_debt": said.NO_DEBT,
    "not_due": said.NOT_DUE,
    "no_stable_pairs": said.NO_STABLE_PAIRS,
    "too_small": TOO_SMALL,
    "paid_elsewhere": said.BANKRUPT_ELSEWHERE,
}
"""What the reference says where the kernels have a code."""
NEAR_USD = 1e-6
ENDLESS = 1e9


class Comparison:
    """Lines on what differs."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def same(self, what: str, value: Any, other: Any) -> None:
        if value != other:
            self.wrong.append(f"{what}: {other!r}, the reference {value!r}")

    def near(self, what: str, value: float, other: float, within: float = NEAR_USD) -> None:
        if value != other and not abs(value - other) <= within:
            self.same(what, value, other)

    def near_all(
        self, what: str, values: dict[str, float], others: dict[str, float], within: float = 0.0
    ) -> None:
        for key in values.keys() & others.keys():
            far = within * max(1.0, abs(values[key])) if within else NEAR_USD
            self.near(f"{what} {key}", values[key], others[key], far)


def differences(expected: Reference, got: dict[str, Any]) -> list[str]:
    """Where the kernels do something else than the reference, money to 1e-6 USD."""
    found = Comparison()
    found.same("status", expected.status, got["status"])
    found.same("is_active", expected.is_active, got["is_active"])
    for k, side in enumerate(("before", "after")):
        found.near(f"equity {side}", getattr(expected, f"equity_{side}_usd"), got["equity_usd"][k])
        # A debt that is nothing but rounding gives a level beyond all others.
        level = min(getattr(expected, f"level_{side}"), ENDLESS), min(got["level"][k], ENDLESS)
        found.near(f"level {side}", *level, within=1e-9 * max(1.0, abs(level[0])))
    for name in ("fees_usd", "slippage_usd", "notional_usd", "bad_debt_usd", "surplus_usd"):
        found.near(name, getattr(expected, name), got[name])
    found.same("steps", [(s.stage, s.slices) for s in expected.steps], _stages(got))
    if not found.wrong:
        for step, other in zip(expected.steps, got["steps"], strict=True):
            _compare_step(step, other, found)
        _compare_holdings(expected.portfolio_after, got, found)
    return found.wrong


def _compare_step(step: ReferenceStep, other: dict[str, Any], found: Comparison) -> None:
    name = f"{step.number} {step.stage}"
    found.same(f"{name} ended", step.ended, SAID[WHY[other["ended"]]])
    for k, side in enumerate(("before", "after")):
        found.near(f"{name} mmr {side}", getattr(step, f"mmr_{side}_usd"), other["mmr_usd"][k])
        equity = getattr(step, f"equity_{side}_usd")
        found.near(f"{name} equity {side}", equity, other["equity_usd"][k])
        charges = getattr(step, f"charges_{side}")
        found.same(f"{name} charges", sorted(charges), sorted(other["charges"][k]))
        found.near_all(f"{name} {side}", charges, other["charges"][k])
    size = float(sum(t.notional_usd for t in step.traded))
    found.near(f"{name} notional", size, other["notional_usd"])
    found.near(f"{name} fee", step.fee_usd, other["fee_usd"])
    found.near(f"{name} slippage", step.slippage_usd, other["slippage_usd"])
    mine = {t.instrument_id: t.contracts for t in step.traded if t.kind != "spot"}
    theirs = {k: n for k, n in other["traded"].items() if not k.startswith("spot ")}
    found.same(f"{name} traded", sorted(mine), sorted(theirs))
    found.near_all(name, mine, theirs, 1e-9)
    prices = {t.instrument_id: t.price for t in step.traded if t.kind != "spot"}
    found.near_all(f"{name} price", prices, other["price"], 1e-9)


def _stages(got: dict[str, Any]) -> list[tuple[str, int]]:
    return [(step["stage"], step["slices"]) for step in got["steps"]]


def _compare_holdings(left: dict[str, Any], got: dict[str, Any], found: Comparison) -> None:
    held: dict[str, float] = {}
    for row in left["positions"]:
        name = row["instrument_id"]
        held[name] = held.get(name, 0.0) + row["contracts"]
    held = {name: n for name, n in held.items() if n != 0.0}
    found.same("held", sorted(held), sorted(got["contracts"]))
    found.near_all("held", held, got["contracts"], 1e-9)
    usd = left["index_usd"]
    for currency in {*left["balances"], *(c for c in got["cash"] if c in usd)}:
        index = usd.get(currency, 1.0)
        value = left["balances"].get(currency, 0.0), got["cash"].get(currency, 0.0)
        found.near(f"cash {currency}", value[0] * index, value[1] * index, 10 * NEAR_USD)
