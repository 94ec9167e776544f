import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from backtest.errors import ConfigError
from backtest.params import LABELS, ParameterSet, load_parameter_set, parse_parameter_set
from backtest.paths import PROJECT_ROOT


FOLDER = PROJECT_ROOT / "configs" / "params"
FILES = sorted(FOLDER.glob("*.toml"))
BASE = FOLDER / "okx-merged-2025-01-21.toml"


def extend(tmp_path: Path, text: str, base: str | None = None) -> Path:
    file = tmp_path / "mine.toml"
    head = f'extends = "{base or BASE}"\n' + ("" if "name =" in text else 'name = "mine"\n')
    file.write_text(head + text)
    return file


def leaf(value: str, unit: str = "fraction") -> str:
    return f'{{ value = {value}, unit = "{unit}", label = "A", source = "test" }}'


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_file_loads_and_every_number_is_labelled(file: Path) -> None:
    found = load_parameter_set(file)
    assert found.name == file.stem
    leaves = found.leaves()
    assert len({row.key for row in leaves}) == len(leaves) > 50
    for row in leaves:
        assert row.label in LABELS
        assert row.unit
        assert row.source
    assert sum(found.label_counts().values()) == len(leaves)


def test_sets_have_names_and_hashes_of_their_own() -> None:
    found = [load_parameter_set(file) for file in FILES]
    assert len({s.name for s in found}) == len({s.hash for s in found}) == len(found)


def test_numbers_of_the_merged_rules() -> None:
    found = load_parameter_set(BASE)
    numbers = found.numbers()
    assert (found.model, found.era) == ("okx", "merged")
    assert numbers["effective"] == "2025-01-21T08:00:00Z"
    assert numbers["mr1"]["price_moves"]["G2"] == [0.0, 0.06, 0.12, 0.18]
    assert numbers["mr4"]["near"] == {"G1": 0.002, "G2": 0.008, "G3": 0.01}
    assert numbers["mr7"]["tiers"]["G2"]["bounds_usd"][:3] == [42e3, 96e3, 174e3]
    assert numbers["mr8"]["tiers"]["ETH"]["bounds"] == [500.0, 1000.0, 1500.0]
    assert numbers["mr8"]["tiers"]["default"]["tail_ratio"] == 2.0
    assert numbers["mr9"]["pairs"] == [["USDT", "USD"], ["USDT", "USDC"], ["USDC", "USD"]]
    assert numbers["levels"]["safe"] == 1.1
    assert set(numbers["groups"]) == {"G1", "G2"}


@pytest.mark.parametrize(
    ("coins", "discounted"),
    [
        (20, 19.6), (25, 24.4875), (30, 29.3625), (50, 48.7625), (110, 106.3625),
        (510, 467.3625), (1010, 862.3625), (1630, 1265.3625), (2000, 1265.3625),
    ],
)  # fmt: skip
def test_btc_discount_tiers_reproduce_the_published_sums(coins: float, discounted: float) -> None:
    tiers = load_parameter_set(BASE).numbers()["collateral"]["BTC"]
    assert len(tiers["bounds"]) == 83
    total, low = 0.0, 0.0
    for high, rate in zip(tiers["bounds"], tiers["rates"], strict=True):
        total += rate * max(min(coins, high) - low, 0.0)
        low = high
    assert total == pytest.approx(discounted, rel=1e-12)


def test_mr7_tiers_until_2025_reproduce_the_published_example() -> None:
    found = load_parameter_set(FOLDER / "okx-merged-pre-2025-shocks.toml")
    tiers = found.numbers()["mr7"]["tiers"]["G1"]
    total, low = 0.0, 0.0
    for high, factor in zip([*tiers["bounds_usd"], math.inf], tiers["multipliers"], strict=True):
        total += factor * max(min(30_000.0, high) - low, 0.0)
        low = high
    assert total == 50_000.0


def test_challenger_differs_in_moves_and_tiers_only() -> None:
    one = {r.key: r.value for r in load_parameter_set(BASE).leaves()}
    two = load_parameter_set(FOLDER / "okx-merged-pre-2025-shocks.toml")
    changed = {row.key for row in two.leaves() if row.value != one[row.key]}
    assert changed == {
        "mr1.price_moves.G1",
        "mr1.price_moves.G2",
        "mr6.extreme_move.G1",
        "mr6.extreme_move.G2",
        "mr7.tiers.G1.bounds_usd",
        "mr7.tiers.G2.bounds_usd",
        "mr7.tiers.G3.bounds_usd",
    }


def test_extends_replaces_whole_leaves_and_keeps_the_rest(tmp_path: Path) -> None:
    file = extend(tmp_path, f"[mr4.near]\nG1 = {leaf('0.005')}")
    found = load_parameter_set(file)
    assert found.numbers()["mr4"]["near"] == {"G1": 0.005, "G2": 0.008, "G3": 0.01}
    row = next(row for row in found.leaves() if row.key == "mr4.near.G1")
    assert (row.label, row.source) == ("A", "test")
    again = tmp_path / "again.toml"
    again.write_text('extends = "mine.toml"\nname = "again"\n')
    assert load_parameter_set(again).hash == found.hash


def test_extends_may_add_coins(tmp_path: Path) -> None:
    file = extend(tmp_path, f"[mr7.coin_linear_rate]\nPEPE = {leaf('0.02')}")
    assert load_parameter_set(file).numbers()["mr7"]["coin_linear_rate"] == {"PEPE": 0.02}


def test_circle_of_extends_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\nname = "a"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\nname = "b"')
    with pytest.raises(ConfigError, match=r"'extends' runs in a circle: a.toml -> b.toml -> a"):
        load_parameter_set(tmp_path / "a.toml")


def test_extends_of_nothing_and_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'extends' names 'gone.toml', which does not exist"):
        load_parameter_set(extend(tmp_path, "", "gone.toml"))
    file = tmp_path / "nameless.toml"
    file.write_text(f'extends = "{BASE}"')
    with pytest.raises(ConfigError, match="key 'name' is missing"):
        load_parameter_set(file)
    file.write_text("extends = 3")
    with pytest.raises(ConfigError, match="key 'extends' is 3"):
        load_parameter_set(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mr4.naer]\nG1 = 1", r"unknown key 'mr4\.naer' .*did you mean 'mr4\.near'"),
        (f"[mr4.near]\nG4 = {leaf('0.1')}", r"unknown key 'mr4\.near\.G4'"),
        ("[mr44]", r"unknown key 'mr44' \(value {}\); did you mean 'mr4'"),
        ("[mr2]\ndays = { value = 1.0, units = 'days' }", r"'mr2\.days\.units' .*\.unit'"),
        ("[mr2]\ndays = { value = 1.0, unit = 'days', label = 'A' }", r"'mr2\.days\.source' is m"),
        ("[mr2]\ndays = 2.0", r"'mr2\.days' is 2\.0; allowed: a table with the keys value, unit"),
        (f"[mr2]\ndays = {leaf('1.0', 'hours')}", r"'mr2\.days\.unit' is 'hours'; allowed: 'fra"),
        (
            '[mr2]\ndays = { value = 1, unit = "days", label = "X", source = "t" }',
            r"'mr2\.days\.label' is 'X'; allowed: 'S', 'P', 'D' or 'A'",
        ),
        (f"[mr4.near]\nG1 = {leaf('1.6')}", r"'mr4\.near\.G1\.value' is 1\.6; allowed: less th"),
        (f"[mr4.near]\nG1 = {leaf('-0.1')}", r"'mr4\.near\.G1\.value' is -0\.1; allowed: great"),
        (f"[mr4.near]\nG1 = {leaf('nan')}", r"'mr4\.near\.G1\.value' is nan; allowed: a finite"),
        (f"[mr4.near]\nG1 = {leaf('true')}", r"'mr4\.near\.G1\.value' is True; allowed: a valid"),
        (f"[mr4.near]\nG1 = {leaf(chr(34) + '5%' + chr(34))}", r"is '5%'; allowed: a valid numb"),
        (f"[mr6.extreme_move]\nG1 = {leaf('1.0')}", r"'mr6\.extreme_move\.G1\.value' is 1\.0"),
        (
            f"[mr1.price_moves]\nG1 = {leaf('[0, 0.1, 0.1, 0.2]')}",
            r"'mr1\.price_moves\.G1' must rise strictly, but 0\.1 follows 0\.1",
        ),
        (f"[mr1.price_moves]\nG1 = {leaf('[0.1, 0.2]')}", r"price_moves\.G1' starts at 0\.1"),
        (f"[mr1.price_moves]\nG2 = {leaf('[0, 0.1]')}", r"G2' has 2 values, must have 4"),
        (
            f"[mr1.volatility]\npoints = {leaf('[0.3]')}",
            r"'mr1\.volatility\.points' has 1 values, must have 3 \(as many as 'points_days'",
        ),
        (
            f"[mr1.volatility]\ncombine = {leaf(chr(34) + 'percent' + chr(34), 'choice')}",
            r"'mr1\.volatility\.combine' is 'percent', but 'percent_days' has no nodes",
        ),
        (
            f"[mr7.tiers.G1]\nmultipliers = {leaf('[1, 2, 4, 6, 8, 10, 0.5]', 'multiple')}",
            r"'mr7\.tiers\.G1\.multipliers\.value\[6\]' is 0\.5; allowed: greater than or equal",
        ),
        (f"[mr7.tiers.G1]\nbounds_usd = {leaf('[1, 2]')}", r"multipliers' has 7 values, must"),
        (f"[mr8.tiers.BTC]\nmmr = {leaf('[0.1]')}", r"'mr8\.tiers\.BTC\.mmr' has 1 values"),
        (f"[mr8.tiers.BTC]\nmmr = {leaf('[0.1, 0.2, 0.3]')}", r"BTC.mmr' 0\.2 is above 'imr'"),
        (f"[mr8.tiers.BTC]\ntail_ratio = {leaf('2')}", r"'tail_ratio' exclude each other"),
        (f"[mr8.tiers.default]\ntail_ratio = {leaf('0.5')}", r"tail_ratio' is 0\.5; allowed: 0"),
        (f"[mr8.tiers.default]\ntail_ratio = {leaf('0')}", r"'mr8\.tiers\.default\.tail_rate_st"),
        ('[mr8.tiers.default]\nunit = "coin"', r"'mr8\.tiers\.default\.unit' is 'coin'"),
        ('[collateral.BTC]\nunit = "btc"', r"'collateral\.BTC\.unit' is 'btc'; allowed: 'coin'"),
        (f"[collateral.USDT]\nrates = {leaf('[1, 1]')}", r"'collateral\.USDT\.rates' has 2 valu"),
        (f"[collateral.USDT]\nrates = {leaf('[1.2]')}", r"rates\.value\[0\]' is 1\.2"),
        (f"[mr9]\nbase_index = {leaf('[0.8, 0.9]')}", r"'mr9\.base_rate' has 6 values, must ha"),
        (f"[mr9]\nstress_index = {leaf('0.995')}", r"'mr9\.stress_index' must be below"),
        (f"[mr9]\nsize_offset = {leaf('[0]')}", r"'mr9\.size_offset' has 1 values, must have 8"),
        (f"[levels]\nsafe = {leaf('0.9')}", r"'levels': must be ordered liquidation <= safe"),
        ('era = "split"', r"'mr9\.enabled' is true; the split era has no MR9"),
        (
            'era = "split"\n[mr9]\nenabled = ' + leaf("false", "switch"),
            r"'units\.spot_modes' is \[\], must name 'derivatives_only'",
        ),
        (
            "[units]\nspot_modes = " + leaf('["USDT"]', "names"),
            r"'units\.spot_modes' is \['USDT'\]; merged units allow no choice",
        ),
        (
            "[units]\nspot_modes = " + leaf('["EUR"]', "names"),
            r"'units\.spot_modes\.value\[0\]' is 'EUR'; allowed: 'derivatives_only', 'USDT', ",
        ),
        (
            "[borrowing]\nconversion_order = " + leaf('"random"', "choice"),
            r"'borrowing\.conversion_order\.value' is 'random'; allowed: 'lowest_discount",
        ),
        (f"[borrowing.quotas]\nUSDT = {leaf('-1.0')}", r"'borrowing\.quotas\.USDT\.value' is -1"),
        (f"[borrowing]\nconversion_cost = {leaf('1.0')}", r"conversion_cost\.value' is 1\.0"),
        ('era = "spilt"', r"'era' is 'spilt'; allowed: 'merged' or 'split'"),
        ('model = "okex"', r"key 'model' is 'okex'; allowed: okx"),
        ("effective = 2025-01-21T08:00:00", r"'effective' is .*; allowed: .*timezone"),
        (
            "quote_currencies = " + leaf('["USDT"]', "names"),
            r"'mr9\.pairs' names 'USD'; allowed: USDT",
        ),
        ("[groups]\nG1 = " + leaf('["SOL"]', "names"), r"'groups': coin 'SOL' is listed more th"),
    ],
)
def test_bad_set_is_named_with_file_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)^\S*mine\.toml: .*{message}"):
        load_parameter_set(extend(tmp_path, text))


def test_error_names_the_file_of_the_bad_key(tmp_path: Path) -> None:
    extend(tmp_path, "[mr4]\nchrge_spot = 1")
    (tmp_path / "last.toml").write_text('extends = "mine.toml"\nname = "last"')
    with pytest.raises(ConfigError, match=r"^\S*mine\.toml: unknown key 'mr4\.chrge_spot'"):
        load_parameter_set(tmp_path / "last.toml")


def test_all_problems_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_parameter_set(extend(tmp_path, "[mr4]\na = 1\nb = 2\n[mr5]\nc = 3"))
    assert len(str(caught.value).splitlines()) == 3


def test_file_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: no such parameter file"):
        load_parameter_set(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("name = \n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML: .*line 1"):
        load_parameter_set(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match="key 'model' is missing; allowed: okx"):
        load_parameter_set(tmp_path / "empty.toml")


def test_default_tables_are_required() -> None:
    tree = tomllib.loads(BASE.read_text())
    del tree["collateral"]["default"]
    with pytest.raises(ConfigError, match=r"'collateral\.default' is missing"):
        parse_parameter_set(tree)
    tree = tomllib.loads(BASE.read_text())
    del tree["mr8"]["tiers"]["default"]
    with pytest.raises(ConfigError, match=r"'mr8\.tiers\.default' is missing"):
        parse_parameter_set(tree)


def test_hash_depends_on_numbers_and_not_on_names(tmp_path: Path) -> None:
    base = load_parameter_set(BASE)
    assert len(base.hash) == 64
    assert load_parameter_set(extend(tmp_path, 'description = "other"')).hash == base.hash
    later = extend(tmp_path, "effective = 2026-01-01T00:00:00Z")
    assert load_parameter_set(later).hash != base.hash
    relabelled = extend(tmp_path, f"[mr4.near]\nG1 = {leaf('0.002')}")
    assert load_parameter_set(relabelled).hash == base.hash


def test_numbers_are_copies() -> None:
    base = load_parameter_set(BASE)
    base.numbers()["mr1"]["price_moves"]["G1"].append(9.0)
    assert base.numbers()["mr1"]["price_moves"]["G1"] == [0.0, 0.04, 0.08, 0.12]


@pytest.fixture(scope="module")
def base_set() -> ParameterSet:
    return load_parameter_set(BASE)


@given(st.floats(0.0, 1.5), st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3, unique=True))
def test_replaced_numbers_are_found_again(
    base_set: ParameterSet, near: float, moves: list[float]
) -> None:
    values: dict[str, Any] = {"mr4.near.G1": near, "mr1.price_moves.G3": [0.0, *sorted(moves)]}
    found = base_set.replaced("trial", values, "search")
    assert found.name == "trial"
    rows = {row.key: row for row in found.leaves()}
    for key, value in values.items():
        assert rows[key].value == value
        assert (rows[key].label, rows[key].source) == ("A", "search")
    back = found.replaced("back", {k: dict_of(base_set)[k] for k in values}, "search")
    assert back.hash == base_set.hash


def dict_of(found: ParameterSet) -> dict[str, Any]:
    return {row.key: row.value for row in found.leaves()}


def test_replaced_refuses_unknown_keys_and_bad_values(base_set: ParameterSet) -> None:
    with pytest.raises(ConfigError, match=r"set 'x': unknown key 'mr4\.naer\.G1'.*mr4\.near\.G1"):
        base_set.replaced("x", {"mr4.naer.G1": 0.1}, "t")
    with pytest.raises(ConfigError, match=r"set 'x': key 'mr4\.near\.G1\.value' is 3\.0"):
        base_set.replaced("x", {"mr4.near.G1": 3.0}, "t")
    for table in ("quotas", "daily_rates"):
        tree = tomllib.loads(BASE.read_text())
        del tree["borrowing"][table]["default"]
        with pytest.raises(ConfigError, match=rf"'borrowing\.{table}\.default' is missing"):
            parse_parameter_set(tree)
