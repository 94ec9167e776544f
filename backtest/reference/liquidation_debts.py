"""Repaying a debt in a liquidation: assets are sold for it, at the index.

Assumed where the rule text is silent: an asset is exchanged straight into the currency of the
debt, in the order of `repay.order`, equal discount rates by name; only cash can be sold (neither
unrealised profit nor option value), and no more of it than the equity of its currency.
"""

from backtest.reference.liquidation_stages import State
from backtest.reference.liquidation_trades import Fill, slice_of, spot_fill
from backtest.reference.okx_fees import discounted


ORDERS = ("lowest_discount_first", "highest_discount_first")
RATE_DIGITS = 9
"""Discount rates that are equal in so many digits are the same."""
LEAST_USD = 0.01
"""Assets below a cent are none."""


def debts(state: State) -> dict[str, float]:
    """Debts of `repay.min_usd` and more, USD, positive; currencies in alphabetical order."""
    indexes, least = state.account.indexes, state.rules["repay"]["min_usd"]
    found = {c: -equity * indexes[c] for c, equity in state.account.equities.items()}
    return {c: found[c] for c in sorted(found) if found[c] >= least}


def assets(state: State) -> list[tuple[str, float]]:
    """What can be sold: currency and USD, in the order in which it is sold."""
    account, choice = state.account, state.rules["repay"]["order"]
    if choice not in ORDERS:
        raise ValueError(f"repay.order is {choice!r}; allowed: {', '.join(ORDERS)}")
    sign = 1.0 if choice == "lowest_discount_first" else -1.0
    found = []
    for currency, equity in account.equities.items():
        index = account.indexes[currency]
        usd = min(equity, account.cash.get(currency, 0.0)) * index
        if usd > LEAST_USD:
            value = discounted(equity, index, currency, state.numbers)["value"]
            rate = round(value / (equity * index), RATE_DIGITS)
            found.append((sign * rate, currency, usd))
    return [(currency, usd) for _, currency, usd in sorted(found)]


def repayment(currency: str, stage: str, state: State, *, whole: bool = False) -> list[Fill]:
    """Sales of assets for a slice of the debt in a currency, or for the whole of it.

    The costs leave the currency of the debt, so a little more than the slice is sold for them.

    Example:
        10,000 USDT owed, slices of 10 %, BTC at 50,000 USD, no costs: 0.02 BTC is sold.
    """
    now = debts(state)[currency]
    before = state.origin(stage)
    begun = -before.equities.get(currency, 0.0) * before.indexes[currency]
    minimum = state.rules["slices"]["min_usd"]
    left = now if whole else slice_of(begun, now, minimum, state.rules)
    fills = []
    for asset, usd in assets(state):
        index = state.account.indexes[asset]
        one = spot_fill(asset, currency, -1.0 / index, state.account, state.numbers, state.rules)
        sold = min(usd, left / (1.0 - one.cost_usd))
        units = min(sold / index, state.account.cash[asset])
        fills.append(spot_fill(asset, currency, -units, state.account, state.numbers, state.rules))
        left -= sold * (1.0 - one.cost_usd)
        if left <= LEAST_USD:
            break
    return fills
