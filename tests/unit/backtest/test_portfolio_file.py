"""Orders and trades of a portfolio file: where their marks come from, when they are void."""

import json
from pathlib import Path
from typing import Any

import pytest

from backtest.errors import ConfigError
from backtest.paths import PROJECT_ROOT
from backtest.portfolio_file import load_portfolio, parse_portfolio
from backtest.what_if import after_fills


MIXED = PROJECT_ROOT / "configs" / "portfolios" / "options-and-spot.json"
PUT = "ETH-USD-250328-2000-P"


def mixed(**keys: Any) -> dict[str, Any]:
    return {**json.loads(MIXED.read_text()), **keys}


@pytest.mark.parametrize("key", ["orders", "trades"])
@pytest.mark.parametrize("missing", ["mark_price", "mark_iv", "forward"])
def test_an_order_or_trade_without_a_mark_is_refused(key: str, missing: str):
    content = mixed()
    content |= {"orders": [], "trades": [], key: content["trades"]}
    del content[key][0][missing]
    with pytest.raises(ConfigError, match=rf"'{key}\[0\]\.{missing}' is missing.*'{PUT}'"):
        parse_portfolio(content)


def test_orders_take_their_marks_from_trades():
    resting = {"instrument_id": PUT, "contracts": -10, "price": 0.04}
    found = parse_portfolio(mixed(orders=[resting]))
    assert found["orders"][0] == {**resting, "mark_price": 0.0317, "mark_iv": 0.75, "forward": 2265}


def test_trades_in_expired_contracts_are_refused_orders_are_void():
    content = mixed(time="2025-03-28T08:00:00Z")
    for row in content["positions"]:
        row["settlement_index_usd"] = {"BTC": 85_000, "ETH": 2_250}
    with pytest.raises(ConfigError, match=rf"'trades\[0\].*' is '{PUT}', which expired at 2025-03"):
        parse_portfolio(content)
    content["orders"] = content.pop("trades")
    found = after_fills(parse_portfolio(content))
    assert PUT not in {row["instrument_id"] for row in found["positions"]}
    assert found["balances"]["ETH"] == 14.0


def test_after_trades_orders_still_rest():
    found = after_fills(load_portfolio(MIXED))
    assert found["trades"] == []
    assert [row["contracts"] for row in found["orders"]] == [-20.0]
    assert found["balances"]["ETH"] == pytest.approx(4.0 + 10.0 - 100 * 0.1 * 0.032)


def test_options_may_settle_in_a_quote_currency():
    content = mixed(instruments=[{**mixed()["instruments"][0], "settle": "USDT"}])
    content |= {"positions": [], "orders": [], "trades": []}
    assert parse_portfolio(content)["instruments"][0]["settle"] == "USDT"
    content["instruments"][0]["style"] = "linear"
    with pytest.raises(ConfigError, match="is 'linear'; allowed for options: 'inverse'"):
        parse_portfolio(content)


def test_the_file_is_named(tmp_path: Path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(mixed(trade=[])))
    with pytest.raises(ConfigError) as caught:
        load_portfolio(file)
    assert str(caught.value).startswith(f"{file}: unknown key 'trade' (value []); did you mean")
