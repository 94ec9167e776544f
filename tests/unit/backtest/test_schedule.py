from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backtest.errors import ConfigError
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.schedule import BEGINNING, Schedule, load_rules, load_schedule


PARAMS = PROJECT_ROOT / "configs" / "params"
HISTORY = PARAMS / "schedules" / "okx-history.toml"
STARTS = {
    "okx-split-2021-12-24": datetime(2021, 12, 24, tzinfo=UTC),
    "okx-split-2023-07-12": datetime(2023, 7, 12, 8, 30, tzinfo=UTC),
    "okx-split-2024-05-11": datetime(2024, 5, 11, 8, tzinfo=UTC),
    "okx-split-2024-06-05": datetime(2024, 6, 5, 4, tzinfo=UTC),
    "okx-split-2025-01-06": datetime(2025, 1, 6, 8, tzinfo=UTC),
    "okx-split-2025-01-15": datetime(2025, 1, 15, 8, tzinfo=UTC),
    "okx-merged-2025-01-21": datetime(2025, 1, 21, 8, tzinfo=UTC),
}
NAMES = list(STARTS)
CHANGES = {
    "okx-split-2023-07-12": {"mr4.near.G1", "mr4.near.G2", "mr4.near.G3"},
    "okx-split-2024-05-11": {"mr4.annual.G1"},
    "okx-split-2024-06-05": {
        *("mr4.charge_spot", "mr4.charge_perpetuals", "mr4.charge_options"),
        *("units.spot_modes", "units.spot_limits", "units.spot_orders"),
    },
    "okx-split-2025-01-06": {
        *("mr1.price_moves.G1", "mr1.price_moves.G2", "mr6.extreme_move.G1"),
        "mr6.extreme_move.G2",
    },
    "okx-split-2025-01-15": {f"mr7.tiers.{group}.bounds_usd" for group in ("G1", "G2", "G3")},
    "okx-merged-2025-01-21": {
        *("groups.G2", "units.spot_modes", "mr9.enabled", "mr4.near.G1"),
        *("mr4.annual.G1", "mr4.annual.G2", "mr4.annual.G3"),
    },
}


def history() -> Schedule:
    return load_schedule(HISTORY)


def write(tmp_path: Path, *steps: tuple[str, str], head: str = 'name = "mine"\n') -> Path:
    file = tmp_path / "mine.toml"
    rows = [f'[[steps]]\nfrom = {start}\nfile = "{PARAMS / name}"\n' for start, name in steps]
    file.write_text(head + "".join(rows))
    return file


def test_the_steps_of_the_history() -> None:
    found = history()
    assert (found.name, found.model, found.file) == ("okx-history", "okx", HISTORY)
    assert {chosen.name: start for start, chosen in found.steps} == STARTS
    for start, chosen in found.steps:
        assert chosen.effective == start


@pytest.mark.parametrize("k", range(len(NAMES)), ids=NAMES)
def test_rules_change_at_their_instant(k: int) -> None:
    found, start = history(), STARTS[NAMES[k]]
    assert found.at(start).name == NAMES[k]
    before = start - timedelta(microseconds=1)
    if k > 0:
        assert found.at(before).name == NAMES[k - 1]
        return
    with pytest.raises(ConfigError, match=r"'okx-history' has no rules for 2021-12-23T23:59:59\.9"):
        found.at(before)


def test_the_last_rules_hold_on() -> None:
    assert history().at(datetime(2040, 1, 1, tzinfo=UTC)).name == "okx-merged-2025-01-21"


@pytest.mark.parametrize("name", CHANGES)
def test_a_step_changes_what_its_row_says(name: str) -> None:
    before, after = (
        {row.key: row.value for row in load_parameter_set(PARAMS / f"{chosen}.toml").leaves()}
        for chosen in (NAMES[NAMES.index(name) - 1], name)
    )
    assert {key for key in before if before[key] != after[key]} == CHANGES[name]


@pytest.mark.parametrize("name", [name for name in NAMES if "split" in name])
def test_numbers_of_the_split_era(name: str) -> None:
    numbers = load_parameter_set(PARAMS / f"{name}.toml").numbers()
    assert numbers["era"] == "split"
    assert numbers["groups"]["G2"][:3] == ["LTC", "BCH", "EOS"]
    assert len(numbers["groups"]["G2"]) == 12
    assert numbers["mr4"]["annual"]["G2"] == 0.35
    assert not numbers["mr9"]["enabled"]


def test_the_shorter_aggregation_differs_in_nothing_else() -> None:
    long, short = (
        {row.key: row.value for row in load_parameter_set(PARAMS / name).leaves()}
        for name in ("okx-split-2024-06-05.toml", "okx-split-2024-06-05-short.toml")
    )
    assert {key for key in long if long[key] != short[key]} == {"aggregation.worst"}
    assert short["aggregation.worst"] == ["mr1"]


def test_one_set_is_a_schedule_of_one_step() -> None:
    file = PARAMS / "okx-split-2024-06-05.toml"
    found = load_rules(file)
    assert (found.name, found.file) == ("okx-split-2024-06-05", file)
    assert found.steps[0][0] == BEGINNING
    assert found.at(datetime(2000, 1, 1, tzinfo=UTC)).hash == load_parameter_set(file).hash
    assert load_rules(HISTORY).hash == history().hash


def test_the_hash_is_of_times_and_numbers(tmp_path: Path) -> None:
    one = load_rules(write(tmp_path, ("2025-01-21T08:00:00Z", "okx-merged-2025-01-21.toml")))
    text = write(
        tmp_path,
        ("2025-01-21T09:00:00+01:00", "okx-merged-2025-01-21.toml"),
        head='name = "other"\ndescription = "same"\n',
    )
    same = load_rules(text)
    later = load_rules(write(tmp_path, ("2025-01-21T08:00:01Z", "okx-merged-2025-01-21.toml")))
    other = load_rules(write(tmp_path, ("2025-01-21T08:00:00Z", "okx-split-2025-01-15.toml")))
    assert one.hash == same.hash
    assert len({one.hash, later.hash, other.hash, history().hash}) == 4


EARLY, LATE = "okx-split-2021-12-24.toml", "okx-split-2024-06-05.toml"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [("2024-06-05T04:00:00Z", LATE), ("2024-06-05T04:00:00Z", EARLY)],
            r"'steps\[1\]\.from' is 2024-06-05T04:00:00\+00:00; allowed: later than 2024-06-05T04",
        ),
        (
            [("2024-06-05T03:59:59Z", LATE)],
            r"'steps\[0\]\.from' is 2024-06-05T03:59:59\+00:00; allowed: not before 2024-06-05T04",
        ),
        (
            [("2022-01-01T00:00:00Z", EARLY), ("2023-01-01T00:00:00Z", LATE)],
            r"'steps\[1\]\.from' is 2023-01-01.* when 'okx-split-2024-06-05' took effect",
        ),
        ([("2022-01-01T00:00:00", EARLY)], r"'steps\[0\]\.from' is .*; allowed: .*timezone"),
        ([('"noon"', EARLY)], r"'steps\[0\]\.from' is 'noon'; allowed: a valid datetime"),
        (
            [("2022-01-01T00:00:00Z", EARLY), ("2025-02-01T00:00:00Z", "bybit-2025-01-10.toml")],
            r"'steps\[1\]\.file' is of the model 'bybit' \('bybit-2025-01-10'\); allowed: 'okx'",
        ),
        ([("2022-01-01T00:00:00Z", "gone.toml")], r"'steps\[0\]\.file' names '.*gone\.toml', whi"),
    ],
)
def test_a_bad_step_is_named(tmp_path: Path, steps: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^\S*mine\.toml: key {message}"):
        load_rules(write(tmp_path, *steps))


def test_other_bad_schedules(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text('name = "mine"\nsteps = []\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: key 'steps' is \[\]"):
        load_rules(file)
    file.write_text("steps = []\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: key 'name' is missing"):
        load_rules(file)
    with pytest.raises(ConfigError, match=r"'steps' is missing"):
        load_schedule(PARAMS / EARLY)
    file.write_text('name = "mine"\n[[steps]]\nform = 1\nfile = "x"\n')
    with pytest.raises(ConfigError, match=r"'steps\[0\]\.form' .*did you mean 'steps\[0\]\.from'"):
        load_rules(file)
    with pytest.raises(ConfigError, match=r"gone\.toml: no such parameter file or schedule"):
        load_rules(tmp_path / "gone.toml")
