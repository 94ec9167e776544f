"""OKX's position builder: the published example, Greeks, real accounts, moved prices, bad input."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import backtest.portfolio_answer
from backtest import cli
from backtest.errors import ConfigError
from backtest.paths import PROJECT_ROOT
from backtest.portfolio_answer import answer
from backtest.position_builder import from_request, respond, to_response
from backtest.position_builder_response import text
from backtest.reference import black76
from backtest.reference.okx import margin as reference
from tests.okx_books import PARAMS, merged_numbers
from tests.unit.kernels import random_books


FOLDER = PROJECT_ROOT / "configs" / "portfolios" / "position-builder"
TODAY = PARAMS / "okx-merged-2025-01-21.toml"
VECTORS: dict[str, Any] = json.loads((PROJECT_ROOT / "tests/golden/okx_pm.json").read_text())
V1, V7 = VECTORS["V1"], VECTORS["V7"]
PUBLISHED_LEVERAGE, PUBLISHED_UPL = -0.1364949794742562, -78653.1728898
SCENARIOS = ("volShockDown", "volSame", "volShockUp")
CALL = "BTC-USD-251226-100000-C"


@pytest.fixture
def from_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(content: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        one = reference(content, numbers)
        return {key: one[key] for key in ("units", "account")}

    monkeypatch.setattr(backtest.portfolio_answer.what_if, "margin", found)


def example() -> tuple[dict[str, Any], dict[str, Any]]:
    """Request and market of the published example."""
    one, two = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("request", "market"))
    return one, two


def with_call(**request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sold call against coins; its market is that of a published option summary."""
    asked = {
        "inclRealPosAndEq": False,
        "simPos": [{"instId": CALL, "pos": "-3"}],
        "simAsset": [{"ccy": "BTC", "amt": "0.01"}],
    }
    terms = {"instId": CALL, "instType": "OPTION", "settleCcy": "BTC", "ctVal": "1"}
    terms |= {"ctMult": "0.01", "stk": "100000", "optType": "C", "expTime": "1766736000000"}
    market = {
        "ts": str(V7["ts_ms"]),
        "instruments": [terms],
        "index": [{"instId": "BTC-USD", "idxPx": V7["index_about"]}],
        "marks": [{"instId": CALL, "markPx": "0.176"}],
        "options": [{"instId": CALL, "markVol": V7["mark_vol"], "fwdPx": V7["forward"]}],
    }
    return {**asked, **request}, market


def data_of(request: dict[str, Any], market: dict[str, Any]) -> dict[str, Any]:
    response, warnings = respond(request, market, TODAY)
    assert warnings == []
    assert (response["code"], response["msg"], len(response["data"])) == ("0", "", 1)
    return response["data"][0]


def near(expected: float) -> Any:
    return pytest.approx(expected, rel=1e-12, abs=1e-9)


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """The published example by the kernels, as the command prints it."""
    random_books.use_cache()
    printed: list[str] = []
    files = [str(FOLDER / "request.json"), "--market", str(FOLDER / "market.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "backtest.cli.margin.typer.echo", lambda text, err=False: printed.append(text)
        )
        words = ["margin", *files, "--position-builder", "--params", str(TODAY)]
        assert cli.call(words) == 0
    return json.loads("\n".join(printed))["data"][0]


def test_v1_account(published: dict[str, Any]):
    expected = V1["expect"]["account"]
    names = {
        "eq": "equity_usd",
        "totalMmr": "total_mmr",
        "totalImr": "total_imr",
        "borrowMmr": "borrow_mmr",
        "derivMmr": "derivatives_mmr",
        "marginRatio": "margin_level",
    }
    for key, name in names.items():
        assert float(published[key]) == near(expected[name]), key
    assert published["ts"] == str(V1["ts_ms"])
    assert float(published["upl"]) == near(PUBLISHED_UPL)
    assert float(published["acctLever"]) == near(PUBLISHED_LEVERAGE)
    assert published["positions"] == []
    assets = {row["ccy"]: row for row in published["assets"]}
    assert set(assets) == {"BTC", "LTC", "USDT"}
    assert float(assets["USDT"]["availEq"]) == near(expected["usdt_equity"])
    assert float(assets["USDT"]["borrowImr"]) == near(expected["borrow_imr"])
    assert assets["BTC"] == {
        "ccy": "BTC",
        "availEq": "0",
        "spotInUse": "0",
        "borrowMmr": "",
        "borrowImr": "0",
    }


@pytest.mark.parametrize(("place", "coin"), [(0, "BTC"), (1, "LTC")])
def test_v1_unit(published: dict[str, Any], place: int, coin: str):
    unit, expected = published["riskUnitData"][place], V1["expect"][coin]
    assert unit["riskUnit"] == coin
    for key in {f"mr{k}" for k in (1, 2, 3, 4, 5, 6, 7, 9)} & set(expected):
        assert float(unit[key]) == near(expected[key]), key
    for key in ("mmr", "imr", "upl"):
        assert float(unit[key]) == near(expected[key]), key
    assert float(unit["delta"]) == near(expected["cash_delta"])
    assert float(unit["mr8"]) == near(V1["expect"]["account"]["borrow_mmr"])
    assert (unit["gamma"], unit["theta"], unit["vega"]) == ("0", "0", "0")
    assert (unit["mmrBf"], unit["imrBf"]) == ("", "")
    for state in SCENARIOS:
        assert len(unit["mr1Scenarios"][state]) == 7
        for move, pnl in expected["mr1_cells_vol_any"].items():
            assert float(unit["mr1Scenarios"][state][move]) == near(pnl), (state, move)
    worst = unit["mr1FinalResult"]
    assert (float(worst["pnl"]), worst["volShock"]) == (near(-expected["mr1"]), "up")
    assert worst["spotShock"] == {"BTC": "0.12", "LTC": "-0.18"}[coin]
    assert float(unit["mr6FinalResult"]["pnl"]) == near(expected["mr6_worst_pnl"])
    assert float(unit["mr6FinalResult"]["spotShock"]) == expected["mr6_move"]


def test_v1_positions(published: dict[str, Any]):
    rows = [unit["portfolios"] for unit in published["riskUnitData"]]
    assert [len(row) for row in rows] == [1, 1]
    assert rows[1][0] == {
        "instId": "LTC-USDT-SWAP",
        "instType": "SWAP",
        "amt": "10",
        "posSide": "net",
        "avgPx": "8000",
        "markPxBf": "",
        "markPx": "102",
        "floatPnl": "-78980",
        "notionalUsd": "1018.9",
        "delta": "1019.5308",
        "gamma": "0",
        "theta": "0",
        "vega": "0",
        "isRealPos": False,
    }
    assert float(rows[0][0]["floatPnl"]) == near(290.63)
    assert rows[0][0]["notionalUsd"] == "9703.22"


@pytest.mark.usefixtures("from_reference")
@pytest.mark.parametrize("kind", ["BS", "PA"])
def test_greeks_of_an_option_are_the_published_ones(kind: str):
    """Per coin; tolerances are those of the vector, whose data are seconds apart."""
    unit = data_of(*with_call(greeksType=kind))["riskUnitData"][0]
    row, size = unit["portfolios"][0], -0.03
    suffix = kind.lower()
    tolerances = {"delta": 1e-4, "gamma": 3e-3, "vega": 2e-3}
    for key, tolerance in tolerances.items():
        assert float(row[key]) / size == pytest.approx(V7[f"{key}_{suffix}"], rel=tolerance), key
    if kind == "PA":
        assert float(row["theta"]) / size == pytest.approx(V7["theta_pa"], rel=1e-3)
    assert (row["instType"], row["amt"], row["avgPx"]) == ("OPTION", "-3", "")


@pytest.mark.usefixtures("from_reference")
def test_cash_greeks_and_spot_in_use():
    request, market = with_call(greeksType="CASH")
    unit = data_of(request, market)["riskUnitData"][0]
    option, spot = unit["portfolios"]
    index = V7["index_about"]
    assert float(option["delta"]) == pytest.approx(-0.03 * V7["delta_bs"] * index, rel=1e-4)
    assert (option["gamma"], unit["gamma"]) == ("", "")
    assert (spot["instId"], spot["instType"], spot["isRealPos"]) == ("BTC", "SPOT", False)
    assert (spot["gamma"], spot["theta"], spot["vega"]) == ("", "", "")
    assert float(spot["delta"]) == pytest.approx(float(spot["amt"]) * index)
    assert float(unit["delta"]) == pytest.approx(float(option["delta"]) + float(spot["delta"]))
    assert unit["theta"] == option["theta"] != ""


@pytest.mark.usefixtures("from_reference")
def test_moved_prices():
    """`idxVol` moves index, mark and forward; before it, the numbers are those without it."""
    request, market = example()
    plain = data_of(request, market)["riskUnitData"]
    moved = data_of({**request, "idxVol": "0.05"}, market)["riskUnitData"]
    for before, after in zip(plain, moved, strict=True):
        assert (after["mmrBf"], after["imrBf"]) == (before["mmr"], before["imr"])
        assert float(after["mr4"]) == near(1.05 * float(before["mr4"]))
        assert float(after["indexUsd"]) == near(1.05 * float(before["indexUsd"]))
        one, two = before["portfolios"][0], after["portfolios"][0]
        assert two["markPxBf"] == one["markPx"]
        assert float(two["markPx"]) == near(1.05 * float(one["markPx"]))
    request, market = with_call(idxVol=-0.1)
    (position,) = from_request(request, market)["positions"]
    years = (1766736000000 - V7["ts_ms"]) / 86_400_000.0 / 365.0
    forward = 0.9 * V7["forward"]
    expected = black76.coin_price("C", forward, 100_000.0, V7["mark_vol"], years)
    assert position["mark_price"] == near(expected)
    assert position["forward"] == near(forward)


@pytest.mark.usefixtures("from_reference")
def test_a_real_account_and_whole_answers_of_endpoints():
    request, market = example()
    whole = {k: {"code": "0", "msg": "", "data": market[k]} for k in ("instruments", "index")}
    real = [{"instId": "BTC-USDT-SWAP", "pos": "4", "avgPx": "90000", "mgnMode": "cross"}]
    balance = {"data": [{"totalEq": "1", "details": [{"ccy": "USDC", "cashBal": "70000"}]}]}
    account = {"positions": {"data": real}, "balances": balance}
    rates = [*market["index"], {"instId": "USDC-USD", "idxPx": "1"}]
    market = {**market, **whole, "index": {"data": rates}, "account": account}
    del request["inclRealPosAndEq"]
    portfolio = from_request(request, market)
    assert portfolio["balances"] == {"USDC": 70_000.0}
    found = data_of(request, market)
    rows = found["riskUnitData"][0]["portfolios"]
    assert [(row["amt"], row["isRealPos"]) for row in rows] == [("4", True), ("-10", False)]
    expected = V1["expect"]["BTC"]["cash_delta"]
    assert float(found["riskUnitData"][0]["delta"]) == near(expected * 6.0 / 10.0)


@pytest.mark.usefixtures("from_reference")
def test_split_units_and_spot_modes():
    request, market = example()
    request |= {"spotOffsetType": "1", "simAsset": [{"ccy": "BTC", "amt": "0.05"}]}
    response, _ = respond(request, market, PARAMS / "okx-split-2024-06-05.toml")
    units = {unit["riskUnit"]: unit for unit in response["data"][0]["riskUnitData"]}
    assert set(units) == {"BTC-USDT", "LTC-USDT"}
    assert units["BTC-USDT"]["portfolios"][1]["amt"] == "0.05"
    assert response["data"][0]["assets"][0]["spotInUse"] == "0.05"


@pytest.mark.usefixtures("from_reference")
def test_a_set_that_follows_the_market_warns():
    _, warnings = respond(*example(), PARAMS / "okx-merged-volatility-scaled.toml")
    assert "factor 1" in warnings[0]


def change(content: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    inner: Any = changed
    for step in path[:-1]:
        inner = inner[step]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return changed


BAD_REQUESTS = [
    (("simPoss",), [], "r: unknown key 'simPoss' (value []); did you mean 'simPos'?"),
    (("simPos", 0, "sz"), "1", "r: unknown key 'simPos[0].sz'"),
    (("simPos", 0, "pos"), "ten", "r: key 'simPos[0].pos' is 'ten'; allowed: a valid number"),
    (("simPos", 0, "instId"), "BTC-USDT-SWP", "did you mean 'BTC-USDT-SWAP'? allowed: the 'instr"),
    (("acctLv",), "3", "r: key 'acctLv' is '3'; allowed: '4'"),
    (("greeksType",), "bs", "r: key 'greeksType' is 'bs'; allowed: 'BS', 'PA' or 'CASH'"),
    (("spotOffsetType",), "9", "r: key 'spotOffsetType' is '9'"),
    (("idxVol",), "2", "r: key 'idxVol' is '2'; allowed: less than or equal to 1"),
    (("inclRealPosAndEq",), True, "'inclRealPosAndEq' is true (its default), but m has no"),
    (("simAsset", 0, "ccy"), "FOO", "m: 'index' has no price of FOO; needed: 'FOO-USDT' and"),
]
BAD_MARKETS = [
    (("marks", 1), None, "m: 'marks' has no row of 'LTC-USDT-SWAP'"),
    (("index", 2), None, "m: 'index' has no price of USDT; needed: 'USDT-USD'"),
    (("ts",), None, "m: key 'ts' is missing"),
    (("marcs",), [], "m: unknown key 'marcs' (value []); did you mean 'marks'?"),
    (("instruments", 0, "instType"), "MARGIN", "m: key 'instruments[0].instType' is 'MARGIN'"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD_REQUESTS, ids=lambda x: str(x)[:30])
def test_bad_requests(path: tuple[Any, ...], value: Any, message: str):
    request, market = example()
    with pytest.raises(ConfigError) as caught:
        from_request(change(request, *path, to=value), market, ("r", "m"))
    assert message in str(caught.value)


@pytest.mark.parametrize(("path", "value", "message"), BAD_MARKETS, ids=lambda x: str(x)[:30])
def test_bad_markets(path: tuple[Any, ...], value: Any, message: str):
    request, market = example()
    with pytest.raises(ConfigError) as caught:
        from_request(request, change(market, *path, to=value), ("r", "m"))
    assert message in str(caught.value)


def test_files_and_models_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError, match=r"key 'model' is 'bybit'; allowed here: 'okx'"):
        respond(*example(), PARAMS / "bybit-2025-01-10.toml")
    with pytest.raises(ConfigError, match="r: is list; allowed: a JSON object"):
        from_request([], {}, ("r", "m"))
    words = ["--position-builder", "--market", str(tmp_path / "none.json"), "--params", str(TODAY)]
    assert cli.call(["margin", str(FOLDER / "request.json"), *words]) == 2
    assert "none.json: no such market file" in capsys.readouterr().err


@pytest.mark.usefixtures("from_reference")
def test_an_unpriced_answer_has_no_response():
    request, market = example()
    portfolio = from_request(request, market)
    portfolio["positions"][0]["mark_price"] = None
    found = answer(portfolio, merged_numbers(), "r")
    with pytest.raises(ConfigError, match="not priced; missing or not usable: mark_price of BTC"):
        to_response(found, portfolio, request, market)


def test_numbers_as_the_venue_writes_them():
    assert [text(x) for x in (102.0, -78980.0, 1e-7, 290.6300000000003, -0.0, 1e16)] == [
        *("102", "-78980", "0.0000001", "290.6300000000003", "0", "10000000000000000")
    ]
    assert text(None) == text(float("inf")) == text(float("nan")) == ""
