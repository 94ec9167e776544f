"""Rules of the default files, changed in places, and small books that are near the trigger."""

from typing import Any

import numpy as np

from backtest.params_liquidation import load_liquidation
from backtest.paths import PROJECT_ROOT
from backtest.reference.models import margin
from tests.okx_books import future, option, portfolio, swap


RULES = PROJECT_ROOT / "configs" / "liquidation"
INDEX = {"BTC": 100_000.0, "ETH": 3_000.0, "FOO": 1.0}
EXPIRIES = ("2025-03-11T08:00:00Z", "2026-03-01T08:00:00Z")


def rules_of(model: str = "okx", **changed: Any) -> dict[str, Any]:
    """The default rules; `slices__fraction=0.5` changes a number."""
    rules = load_liquidation(RULES / f"{model}-default.toml").numbers()
    for key, value in changed.items():
        *folders, last = key.split("__")
        place = rules
        for folder in folders:
            place = place[folder]
        assert last in place, key
        place[last] = value
    return rules


def book(*contracts: tuple[dict[str, Any], ...], **keys: Any) -> dict[str, Any]:
    """A portfolio at the indexes of this module, stablecoins at 1 unless given."""
    index = {"USDT": 1.0, "USDC": 1.0, **INDEX, **keys.pop("index_usd", {})}
    return portfolio(*contracts, index_usd=index, **keys)


def random_book(
    seed: int, numbers: dict[str, Any], *, lowest: float = 0.0, options: bool = True
) -> dict[str, Any]:
    """One to six contracts of up to three coins, some orders, equity about its requirement."""
    rng = np.random.default_rng(seed)
    usdt = float(rng.choice([1.0, 0.985, 0.93]))
    listed = _listed(rng, usdt, options=options)
    return _random_account(rng, listed, usdt, numbers, lowest)


def random_books(
    seed: int, count: int, numbers: dict[str, Any], *, options: bool = True
) -> list[dict[str, Any]]:
    """Accounts of one market like those of `random_book`; every fourth has lost more than it had.

    Sizes and entries of a contract differ from account to account, its price does not.
    """
    rng = np.random.default_rng(seed)
    usdt = float(rng.choice([1.0, 0.985, 0.93]))
    market = _listed(rng, usdt, options=options)
    found = []
    for k in range(count):
        mine = []
        for (item, row), (_, other) in zip(
            market, _listed(rng, usdt, options=options), strict=True
        ):
            entry = other["entry_price"]
            if entry is not None:
                entry *= row["mark_price"] / other["mark_price"]
            mine.append((item, {**row, "contracts": other["contracts"], "entry_price": entry}))
        lowest = -1.0 if k % 4 == 0 else 0.4
        found.append(_random_account(rng, mine, usdt, numbers, lowest))
        found[-1]["spot_mode"] = str(rng.choice(["derivatives_only", "USDT", "USDC", "USD"]))
    return found


def _random_account(
    rng: np.random.Generator,
    listed: list[tuple[Any, ...]],
    usdt: float,
    numbers: dict[str, Any],
    lowest: float,
) -> dict[str, Any]:
    kept = [listed[k] for k in rng.choice(len(listed), rng.integers(1, 7), replace=False)]
    opened = {item["instrument_id"] for item, _ in kept}
    quotes = [
        (item, {**row, "contracts": 0.0})
        for item, row in listed
        if item["instrument_id"] not in opened
    ]
    orders = [
        {**row, "contracts": 0.3 * row["contracts"], "price": row["mark_price"]}
        for _, row in kept[: rng.integers(0, 3)]
    ]
    found = book(*kept, *quotes, index_usd={"USDT": usdt}, orders=orders)
    for name, price in (("BTC", 1e5), ("ETH", 3e3), ("USDT", 1.0)):
        if rng.random() < 0.4:
            found["balances"][name] = float(rng.normal(0.0, 2e5) / price)
    account = margin(found, numbers)["account"]
    aim = rng.uniform(lowest, 1.15) * account["total_mmr"]
    found["balances"]["USDC"] = aim - account["adjusted_equity"]
    return found


def _listed(rng: np.random.Generator, usdt: float, *, options: bool) -> list[tuple[Any, ...]]:
    """Instruments at prices near the index, each with a size of either sign."""
    found: list[tuple[Any, ...]] = []

    def size(one_usd: float) -> float:
        return float(rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(4.0, 6.3) / one_usd)

    for coin, index in INDEX.items():
        away = 1.0 + float(rng.normal(0.0, 0.002))
        price = index * away
        entry = price * float(np.exp(rng.normal(0.0, 0.05)))
        found += [
            swap(f"{coin}-USDT-SWAP", size(price), price / usdt, entry_price=entry / usdt),
            swap(f"{coin}-USDC-SWAP", size(price), price, entry_price=entry),
            swap(f"{coin}-USD-SWAP", size(100.0), price, entry_price=entry, multiplier=100.0),
        ]
        found += [
            future(f"{coin}-USDT-F{k}", expiry, size(price), price / usdt)
            for k, expiry in enumerate(EXPIRIES)
        ]
        if options and coin != "FOO":
            found += [
                option(
                    f"{coin}-USD-F{k}-{ratio * index:g}-{kind}",
                    expiry,
                    size(index) / 3.0,
                    0.05,
                    forward=price,
                    mark_iv=0.6,
                )
                for k, expiry in enumerate(EXPIRIES)
                for ratio, kind in ((0.9, "P"), (1.1, "C"))
            ]
    return found
