import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backtest.portfolio_answer
from backtest import cli
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.portfolio_file import load_portfolio
from backtest.reference import models
from backtest.reference.okx import margin as reference
from backtest.what_if import after_fills
from tests.unit.kernels import random_books


EXAMPLES = PROJECT_ROOT / "configs" / "portfolios"
BUILDER = EXAMPLES / "okx-position-builder.json"
MIXED = EXAMPLES / "options-and-spot.json"
BYBIT = EXAMPLES / "bybit-options-and-orders.json"
SETS = PROJECT_ROOT / "configs" / "params"
PARAMS = SETS / "okx-merged-2025-01-21.toml"
BYBIT_PARAMS = SETS / "bybit-2025-01-10.toml"
SPLIT = SETS / "okx-split-2024-06-05.toml"
VECTOR: dict[str, Any] = json.loads((PROJECT_ROOT / "tests/golden/okx_pm.json").read_text())["V1"]
V1_UNIT_KEYS = [
    (coin, key)
    for coin in ("BTC", "LTC")
    for key in VECTOR["expect"][coin]
    if key not in ("mr1_cells_vol_any", "mr6_worst_pnl", "mr6_move")
]
V1_ACCOUNT_KEYS = [key for key in VECTOR["expect"]["account"] if key != "usdt_equity"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    random_books.use_cache()

    def call(file: Path, *more: str, params: Path = PARAMS) -> tuple[int, str, str]:
        code = cli.call(["margin", str(file), "--params", str(params), *more])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def from_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in the place of the kernels: what is tested is the command."""

    def answer(content: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        found = reference(content, numbers)
        return {key: found[key] for key in ("units", "account")}

    monkeypatch.setattr(backtest.portfolio_answer.what_if, "margin", answer)


@pytest.fixture(scope="module")
def v1() -> dict[str, Any]:
    """Answer of the kernels to the published position builder, as the command prints it."""
    random_books.use_cache()
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(
            "backtest.cli.margin.typer.echo", lambda text, err=False: printed.append(text)
        )
        assert cli.call(["margin", str(BUILDER), "--params", str(PARAMS), "--json"]) == 0
    return json.loads("\n".join(printed))


@pytest.mark.parametrize(("coin", "key"), V1_UNIT_KEYS)
def test_v1_unit_number(v1: dict[str, Any], coin: str, key: str):
    expected = VECTOR["expect"][coin][key]
    assert v1["units"][coin][key] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("coin", ["BTC", "LTC"])
def test_v1_cells(v1: dict[str, Any], coin: str):
    cells = v1["units"][coin]["mr1_cells"]
    assert len(cells) == 21
    assert {cell["vol"] for cell in cells} == {"down", "same", "up"}
    for move, pnl in VECTOR["expect"][coin]["mr1_cells_vol_any"].items():
        found = [cell["pnl"] for cell in cells if cell["price_move"] == float(move)]
        assert found == pytest.approx([pnl] * 3, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("key", V1_ACCOUNT_KEYS)
def test_v1_account_number(v1: dict[str, Any], key: str):
    found = v1["account"][{"borrow_mmr": "mr8"}.get(key, key)]
    assert found == pytest.approx(VECTOR["expect"]["account"][key], rel=1e-9)


def test_v1_shape(v1: dict[str, Any]):
    assert set(v1) == {"units", "account"}
    charges = {f"mr{k}" for k in range(1, 10) if k != 8}
    more = {"mr1_cells", "mmr", "imr", "delta", "cash_delta", "spot_in_use", "upl"}
    assert set(v1["units"]["BTC"]) == charges | more
    assert v1["account"]["status"] == "bankrupt"
    assert set(v1["account"]["theta"]) == {f"mr{k}" for k in range(1, 10)}


@pytest.mark.slow
def test_kernels_agree_with_options_spot_orders_and_trades(run: Any):
    code, out, err = run(MIXED, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"units", "account", "after"}
    assert found["account"]["theta"]["mr9"] is None
    assert found["after"]["account"]["total_mmr"] < found["account"]["total_mmr"]
    assert found["units"]["BTC"]["binding"] == "positions+sells"
    assert found["after"]["units"]["BTC"]["binding"] in ("positions", "positions+sells")


@pytest.mark.slow
@pytest.mark.parametrize("spot_mode", [None, "USDT", "USDC"])
def test_split_units_by_a_schedule(run: Any, tmp_path: Path, spot_mode: str | None):
    """The set in force in July 2024; a unit where only spot sits is in the answer."""
    content = {**json.loads(MIXED.read_text()), "spot_mode": spot_mode}
    content["time"] = "2024-07-01T08:00:00Z"
    code, out, err = run(
        written(tmp_path, content), "--json", params=SETS / "schedules" / "okx-history.toml"
    )
    assert (code, err) == (0, "")
    expected = {"BTC-USD", "BTC-USDT", "ETH-USD"}
    expected |= {f"{coin}-{spot_mode}" for coin in ("BTC", "ETH") if spot_mode}
    found = json.loads(out)
    assert set(found["units"]) == set(found["after"]["units"]) == expected
    assert all(unit["mr9"] == 0.0 for unit in found["units"].values())


@pytest.mark.slow
def test_bybit(run: Any):
    code, out, err = run(BYBIT, "--json", params=BYBIT_PARAMS)
    assert (code, err) == (0, "")
    found = json.loads(out)
    unit, account = found["units"]["BTC"], found["account"]
    assert len(unit["max_loss_cells"]) == 33
    assert unit["mmr"] == pytest.approx(unit["max_loss"] + unit["contingency"], rel=1e-12)
    assert unit["imr"] == pytest.approx(1.2 * unit["mmr"], rel=1e-12)
    assert -min(cell["pnl"] for cell in unit["max_loss_cells"]) == pytest.approx(unit["max_loss"])
    assert account["mm_rate"] == pytest.approx(1.0 / account["margin_level"], rel=1e-12)
    assert set(account["theta"]) == {
        *("max_loss", "short_options", "vega_spread", "stablecoin_spread"),
        *("delta_spread", "perpetual_futures", "borrow"),
    }
    assert found["after"]["account"]["total_mmr"] < account["total_mmr"]


@pytest.mark.slow
def test_numbers_that_follow_the_market_stand_as_written(run: Any):
    code, out, err = run(BUILDER, "--json", params=SETS / "okx-merged-volatility-scaled.toml")
    assert code == 0
    assert json.loads(out)["units"]["BTC"]["mr1"] == pytest.approx(1164.4109244719994, rel=1e-9)
    assert "mr1.price_moves.G1" in err
    assert "as written (factor 1)" in err


def test_a_schedule_says_when_it_begins(run: Any, tmp_path: Path):
    content = {**json.loads(BUILDER.read_text()), "time": "2020-01-01T00:00:00Z"}
    file = written(tmp_path, content)
    code, _, err = run(file, params=SETS / "schedules" / "okx-history.toml")
    assert code == 2
    assert "has no rules for 2020-01-01" in err


@pytest.mark.slow
@pytest.mark.parametrize("spot_mode", ["derivatives_only", "USDT", "USD"])
def test_split_units_are_those_of_the_reference(spot_mode: str, run: Any, tmp_path: Path):
    """Also those without a contract, where spot sits; orders rest in their units."""
    content = change(json.loads(MIXED.read_text()), "spot_mode", to=spot_mode)
    code, out, err = run(written(tmp_path, content), "--json", params=SPLIT)
    assert (code, err) == (0, "")
    numbers = load_parameter_set(SPLIT).numbers()
    assert set(json.loads(out)["units"]) == set(reference(content, numbers)["units"])


@pytest.mark.usefixtures("from_reference")
def test_tables(run: Any):
    code, out, err = run(BUILDER)
    assert (code, err) == (0, "")
    for text in (
        "MR1 spot x volatility",
        "1,183.82",
        "-2,595.37 %",
        "[A] assumed",
        "agrees to 1e-9",
    ):
        assert text in out
    assert "Before and after" not in out


@pytest.mark.usefixtures("from_reference")
def test_tables_before_and_after_fills(run: Any):
    _, out, _ = run(MIXED)
    assert "every trade filled at its price, open orders still resting" in out
    assert "The steps are those after." in out
    assert "Before and after, USD" in out
    assert "ETH-USD-250328-2000-P" in out
    assert "Open orders: what a fill at the limit would lose" in out


@pytest.mark.usefixtures("from_reference")
def test_orders_alone_are_filled_in_the_second_answer(run: Any, tmp_path: Path):
    content = json.loads(MIXED.read_text())
    del content["trades"]
    _, out, _ = run(written(tmp_path, content))
    assert "Before: orders resting. After: every order filled at its price." in out
    assert "The steps are those before." in out
    assert "positions+sells" in out
    assert "order loss" in out


def test_a_disagreement_is_an_error_that_names_the_number(
    run: Any, monkeypatch: pytest.MonkeyPatch
):
    def wrong(content: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        found = copy.deepcopy(reference(content, numbers))
        found["units"]["BTC"]["mr4"] *= 1.0 + 3e-9
        return {key: found[key] for key in ("units", "account")}

    monkeypatch.setattr(backtest.portfolio_answer.what_if, "margin", wrong)
    code, out, err = run(BUILDER)
    assert code == 4
    assert not out
    assert "units.BTC.mr4 is" in err


@pytest.mark.usefixtures("from_reference")
def test_a_missing_price_is_unpriced_and_said(run: Any, tmp_path: Path):
    content = json.loads(BUILDER.read_text())
    content["positions"][1]["mark_price"] = None
    code, out, err = run(written(tmp_path, content), "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["units"], found["account"]["status"]) == ({}, "unpriced")
    assert found["account"]["total_mmr"] is None
    assert "not priced now; missing or not usable: mark_price of LTC-USDT-SWAP" in err


def written(folder: Path, content: Any) -> Path:
    path = folder / "portfolio.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def change(content: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    inner: Any = content
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return content


BAD = [
    (
        ("positions", 0, "entry_prise"),
        1,
        "unknown key 'positions[0].entry_prise' (value 1); did you",
    ),
    (
        ("positions", 0, "contracts"),
        "ten",
        "key 'positions[0].contracts' is 'ten'; allowed: a valid",
    ),
    (("positions", 0, "instrument_id"), "BTC-USDT-SWP", "did you mean 'BTC-USDT-SWAP'?"),
    (("positions", 1, "instrument_id"), "BTC-USDT-SWAP", "'positions[1].mark_price' is 102.0, but"),
    (("instruments", 0, "kind"), "swap", "key 'instruments[0].kind' is 'swap'; allowed: 'spot'"),
    (("instruments", 0, "kind"), "option", "instruments[0].strike' is missing"),
    (("instruments", 0, "kind"), "spot", "spot is held in 'balances'"),
    (("instruments", 0, "style"), "inverse", "inverse contracts settle in the coin"),
    (("instruments", 0, "settle"), "BTC", "linear contracts settle in a quote currency"),
    (("instruments", 1, "instrument_id"), "BTC-USDT-SWAP", "is there twice"),
    (("index_usd", "BTC"), -1.0, "key 'index_usd.BTC' is -1.0; allowed: greater than 0"),
    (("balances", "USDT"), None, "key 'balances.USDT' is None; allowed: a valid number"),
    (("time",), "yesterday", "key 'time' is 'yesterday'"),
    (("borrow_mode",), "none", "key 'borrow_mode' is 'none'; allowed: 'auto' or 'non_auto'"),
    (("orders",), [{"instrument_id": "X", "contracts": 1, "price": 1}], "orders[0].instrument_id"),
    (("trades",), [{"instrument_id": "X", "contracts": 1, "price": 1}], "trades[0].instrument_id"),
    (("trades",), [{"instrument_id": "BTC-USDT-SWAP", "size": 1}], "unknown key 'trades[0].size'"),
    (("trade",), [], "unknown key 'trade' (value []); did you mean 'trades'?"),
    (
        ("spot_mode",),
        "BTC",
        "key 'spot_mode' is 'BTC'; allowed: 'derivatives_only', 'USDT', 'USDC' or 'USD'",
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=lambda x: str(x)[:30])
def test_bad_portfolios(run: Any, tmp_path: Path, path: tuple[Any, ...], value: Any, message: str):
    file = written(tmp_path, change(json.loads(BUILDER.read_text()), *path, to=value))
    code, out, err = run(file)
    assert code == 2
    assert not out
    assert err.startswith(f"error: {file}: ")
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "is list; allowed: a JSON object"),
        ('{"time": NaN}', "NaN is no JSON number"),
        ('{"balances": {"USDT": 1, "USDT": 2}}', "key 'USDT' is given twice"),
        ("{}", "key 'time' is missing"),
    ],
)
def test_files_that_are_no_portfolio(run: Any, tmp_path: Path, text: str, message: str):
    code, _, err = run(written(tmp_path, text))
    assert code == 2
    assert message in err


def test_files_that_are_not_there(run: Any, tmp_path: Path):
    code, _, err = run(tmp_path / "none.json")
    assert code == 2
    assert "none.json: no such portfolio file" in err


def test_a_model_refuses_what_it_does_not_know(run: Any):
    code, _, err = run(BYBIT)
    assert code == 2
    assert err.startswith(f"error: {BYBIT}: BTC-USDT-250328-90000-C: settled in 'USDT'")


@pytest.mark.usefixtures("from_reference")
def test_a_spot_mode_without_effect_is_said(run: Any, tmp_path: Path):
    content = change(json.loads(BUILDER.read_text()), "spot_mode", to="USDT")
    content["positions"][0]["mark_price"] = None
    code, out, err = run(written(tmp_path, content))
    assert code == 0
    assert "'spot_mode' is 'USDT', which has no effect" in err
    assert "unpriced\n" in out
    assert "Checked" not in out


def test_a_request_of_the_position_builder_is_recognised(run: Any):
    code, _, err = run(EXAMPLES / "position-builder" / "request.json")
    assert code == 2
    assert "use --position-builder --market MARKET.json" in err


OPTIONS = [
    (["--position-builder"], "--position-builder needs --market MARKET.json"),
    (["--market", "m.json"], "--market belongs to --position-builder"),
    (["--market", "m.json", "--position-builder", "--plot", "a.png"], "--plot draws portfolio"),
    (["--plot", "a.pdf"], "--plot is 'a.pdf'; allowed: a file name that ends in .png"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options_that_do_not_go_together(run: Any, options: list[str], message: str):
    code, _, err = run(BUILDER, *options)
    assert code == 2
    assert message in err


@pytest.mark.usefixtures("from_reference")
def test_plot(run: Any, tmp_path: Path):
    file = tmp_path / "figures" / "grid.PNG"
    code, _, err = run(MIXED, "--plot", str(file))
    assert (code, err) == (0, f"scenario grid: {file}\n")
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda p: p.stem)
def test_examples_are_valid(file: Path):
    content = load_portfolio(file)
    assert content["time"].endswith("+00:00")
    rules = BYBIT_PARAMS if file == BYBIT else PARAMS
    answer = models.margin(after_fills(content), load_parameter_set(rules).numbers())
    assert answer["account"]["status"] != "unpriced"
