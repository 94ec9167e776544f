import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backtest.portfolio_answer
from backtest import cli
from backtest.cross_check import cross_check
from backtest.errors import RunError
from backtest.netting import net_positions
from backtest.paths import PROJECT_ROOT
from backtest.portfolio_file import load_portfolio
from backtest.reference.okx import margin as reference
from backtest.what_if import after_orders
from tests.okx_books import future, merged_numbers, option, portfolio, swap


EXAMPLES = PROJECT_ROOT / "configs" / "portfolios"
BUILDER = EXAMPLES / "okx-position-builder.json"
MIXED = EXAMPLES / "options-and-spot.json"
PARAMS = PROJECT_ROOT / "configs" / "params" / "okx-merged-2025-01-21.toml"
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
    def call(file: Path, *more: str) -> tuple[int, str, str]:
        code = cli.call(["margin", str(file), "--params", str(PARAMS), *more])
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


def test_kernels_agree_with_options_spot_and_orders(run: Any):
    code, out, err = run(MIXED, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found) == {"units", "account", "after"}
    assert found["account"]["theta"]["mr9"] is None
    assert found["after"]["account"]["total_mmr"] < found["account"]["total_mmr"]


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
def test_tables_before_and_after_orders(run: Any):
    _, out, _ = run(MIXED)
    assert "With every order filled at its price" in out
    assert "Before and after, USD" in out
    assert "ETH-USD-250328-2000-P" in out


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


def test_an_order_without_a_mark_is_refused(run: Any, tmp_path: Path):
    content = json.loads(MIXED.read_text())
    del content["orders"][0]["mark_price"]
    code, _, err = run(written(tmp_path, content))
    assert code == 2
    assert "ETH-USD-250328-2000-P" in err
    assert "mark_price" in err


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda p: p.stem)
def test_examples_are_valid(file: Path):
    content = load_portfolio(file)
    assert content["time"].endswith("+00:00")
    assert reference(after_orders(content), merged_numbers())["account"]["status"] != "unpriced"


INDEX = {"BTC": 60_000.0, "SOL": 150.0, "USDT": 0.999}
EXPIRY = "2025-06-27T08:00:00Z"


def lots(*rows: tuple[float, float], inverse: bool = False) -> dict[str, Any]:
    name, multiplier = ("BTC-USD-SWAP", 100.0) if inverse else ("BTC-USDT-SWAP", 0.01)
    contracts = [
        swap(name, n, 60_100.0, multiplier=multiplier, entry_price=entry) for n, entry in rows
    ]
    file = portfolio(*contracts, index_usd=INDEX, balances={"BTC": 2.0, "USDT": 50_000.0})
    return {**file, "instruments": file["instruments"][:1]}


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        [(60.0, 62_000.0), (20.0, 58_000.0)],
        [(-60.0, 62_000.0), (40.0, 58_000.0)],
        [(-60.0, 62_000.0), (90.0, 58_000.0)],
        [(-60.0, 62_000.0), (60.0, 58_000.0)],
        [(100.0, 100.0), (-50.0, 40.0)],
        [(0.0, 62_000.0), (5.0, 61_000.0), (-7.0, 60_000.0), (3.0, 59_000.0)],
    ],
)
def test_netting_keeps_equity_and_margin(rows: list[tuple[float, float]], inverse: bool):
    before = lots(*rows, inverse=inverse)
    after = net_positions(before)
    assert len(after["positions"]) == 1
    assert after["positions"][0]["contracts"] == sum(n for n, _ in rows)
    assert after["positions"][0]["entry_price"] > 0.0
    one, two = (reference(file, merged_numbers())["account"] for file in (before, after))
    for key in ("equity_usd", "adjusted_equity", "derivatives_mmr", "total_mmr", "total_imr"):
        assert two[key] == pytest.approx(one[key], rel=1e-11), key


def test_netting_leaves_other_rows_alone():
    call = option(
        "BTC-USD-250627-60000-C", EXPIRY, 10.0, 0.1, mark_iv=0.6, forward=61_000.0, entry_price=0.1
    )
    ahead = future("BTC-USD-250627", EXPIRY, 5.0, 61_000.0, multiplier=100.0)
    file = portfolio(call, ahead, index_usd=INDEX, balances={"BTC": 1.0})
    assert net_positions(file) == file
    twice = {**file, "positions": [*file["positions"], {**call[1], "contracts": -4.0}]}
    found = net_positions(twice)
    assert [row["contracts"] for row in found["positions"]] == [6.0, 5.0]
    assert found["balances"] == {"BTC": 1.0}


def test_rows_without_a_price_are_not_netted():
    row = swap("BTC-USDT-SWAP", 1.0, 60_000.0)[1] | {"mark_price": None}
    file = lots((1.0, 60_000.0)) | {"positions": [row, row]}
    assert len(net_positions(file)["positions"]) == 2


def test_cross_check_allows_for_cancellation_and_huge_multipliers():
    leg = {"style": "linear", "kind": "perpetual", "coin": "BTC", "contracts": 100.0}
    detail = {"legs": [{**leg, "multiplier": 1.0, "upl": 0.0}], "index_usd": {"BTC": 1e5}}
    one = {"account": {"pnl": 1e-8, "theta": {"mr1": 4e9}, "level": None}}
    two = {"account": {"pnl": 0.0, "theta": {"mr1": 5e9}, "level": None}}
    cross_check(one, {**two, "detail": detail})
    with pytest.raises(RunError, match=r"account\.pnl"):
        cross_check(one, two)


@pytest.mark.parametrize(
    ("kernel", "other", "name"),
    [
        ({"status": "ok"}, {"status": "warning"}, "account.status"),
        ({"level": None}, {"level": 3.0}, "account.level"),
        ({"theta": {"mr1": 2.0}}, {"theta": {"mr1": float("inf")}}, "account.theta.mr1"),
        ({"x": float("nan")}, {"x": 1.0}, "account.x"),
        ({"x": 1.0}, {}, "account.x is missing in the answer of the reference"),
        ({}, {"x": 1.0}, "account.x is missing in the answer of the kernels"),
    ],
)
def test_cross_check_names_what_differs(kernel: Any, other: Any, name: str):
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        cross_check({"account": kernel}, {"account": other})
