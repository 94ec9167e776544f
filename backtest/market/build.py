"""Builds a market dataset of any kind."""

from pathlib import Path

from backtest.dataset import Dataset
from backtest.market.chain import build_chain
from backtest.market.config import ChainConfig, GeneratedConfig, HistoryConfig, MarketConfig
from backtest.market.generated import build_generated
from backtest.market.history import build_history


def build_market(config: MarketConfig, out: Path) -> Dataset:
    """Build the market dataset that ``config`` describes in the folder ``out``.

    Args:
        config: the ``[market]`` section.
        out: folder that does not hold a dataset yet; its name becomes the dataset's.

    Raises:
        ConfigError: a key asks for something that is not there.
        DataError: the source data are unusable.
    """
    match config:
        case HistoryConfig():
            return build_history(config, out)
        case ChainConfig():
            return build_chain(config, out)
        case GeneratedConfig():
            return build_generated(config, out)
