"""Every shipped configuration and parameter set loads, and its sections fit together."""

import shutil
from pathlib import Path

import pytest

from backtest.calibration.config import load_calibration, today_file
from backtest.calibration.space import Space
from backtest.config import RunConfig, load_config
from backtest.errors import ConfigError
from backtest.fetch.config import load_fetch_config
from backtest.fetch.run import series_of
from backtest.ingest.config import load_ingest_config
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.schedule import load_rules


CONFIGS = PROJECT_ROOT / "configs"
CALIBRATIONS = sorted(CONFIGS.glob("calibrate-*.toml"))
RUNS = sorted(set(CONFIGS.glob("*.toml")) - set(CALIBRATIONS))
SETS = sorted((CONFIGS / "params").glob("*.toml"))
INGESTS = sorted((CONFIGS / "ingest").glob("*.toml"))


@pytest.fixture(params=RUNS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return load_config(request.param)


def test_the_name_is_the_files(config: RunConfig) -> None:
    assert (CONFIGS / f"{config.name}.toml").is_file()


def test_data_is_built_outside_the_sources(config: RunConfig) -> None:
    assert config.dataset.path.is_relative_to(PROJECT_ROOT / "build")


def test_a_market_and_accounts_can_be_made(config: RunConfig) -> None:
    assert config.market is not None
    assert config.population is not None


def test_the_replay_lies_in_the_market(config: RunConfig) -> None:
    assert config.market is not None
    assert config.replay.start is not None
    assert config.replay.end is not None
    assert config.market.start <= config.replay.start < config.replay.end <= config.market.end


def test_accounts_start_no_later_than_the_replay(config: RunConfig) -> None:
    assert config.population is not None
    assert config.market is not None
    assert config.replay.start is not None
    first = config.population.at or config.market.start
    assert config.market.start <= first <= config.replay.start


def test_sets_are_compared(config: RunConfig) -> None:
    names = [chosen.name for chosen in config.parameter_sets]
    assert len(names) >= 2
    assert config.report.champion in names
    assert len({load_rules(chosen.file).hash for chosen in config.parameter_sets}) >= 2


@pytest.mark.parametrize("path", CALIBRATIONS, ids=lambda path: path.stem)
def test_a_calibration_searches_what_its_base_has(path: Path) -> None:
    calibration, base = load_calibration(path)
    assert calibration.name == path.stem
    space = Space.of(calibration.parameters, today_file(calibration, base))
    assert (space.low < space.now).all()
    assert (space.now < space.high).all()


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_a_parameter_set_is_named_after_its_file(path: Path) -> None:
    assert load_parameter_set(path).name == path.stem


def test_a_date_without_a_zone_is_utc(tmp_path: Path) -> None:
    text = (CONFIGS / "smoke.toml").read_text().replace('"params/', f'"{CONFIGS}/params/')
    path = tmp_path / "smoke.toml"
    path.write_text(text)
    aware = load_config(path)
    head, replay = text.split("[replay]")
    replay = replay.replace("T00:00:00Z", "", 1)  # a date beside a time with a zone
    path.write_text(f"{head}[replay]{replay}")
    naive = load_config(path)
    assert naive.replay == aware.replay
    assert naive.hash() == aware.hash()


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS / "params", tmp_path / "params")
    text = (CONFIGS / "smoke.toml").read_text(encoding="utf-8")
    broken = tmp_path / "smoke.toml"
    broken.write_text(text.replace("accounts = 200", "acounts = 200"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"smoke\.toml.*acounts"):
        load_config(broken)


def test_fetched_history_is_of_known_series() -> None:
    config = load_fetch_config(CONFIGS / "fetch" / "okx.toml")
    assert [len(list(series_of(source))) for source in config.source] == [3 + 3 + 3]


@pytest.mark.parametrize("path", INGESTS, ids=lambda path: path.stem)
def test_an_ingest_reads_downloads(path: Path) -> None:
    config = load_ingest_config(path)
    patterns = [pattern for source in config.source for pattern in source.files]
    assert all(pattern.startswith("../../build/downloads/") for pattern in patterns)
