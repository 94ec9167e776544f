"""Batch stress backtester for portfolio margin.

Everything public is a name of this package, imported when it is first used:

* jobs: ``run_backtest``, ``calibrate``, ``build_dataset``; ``load_config``, ``load_calibration``,
  ``with_changes`` for their configurations
* results: ``open_results`` gives ``RunResults``, with ``Comparison`` and ``Explanation``
* one portfolio: ``margin``, ``reference_margin``, ``load_portfolio``
* parameter sets: ``load_params``, ``parameter_table``, ``parameter_differences``
* data: ``Dataset``, ``DatasetWriter``, ``build_market``, ``build_population``, ``check_dataset``,
  ``describe_dataset``

Example:
    >>> import backtest
    >>> results = backtest.run_backtest("configs/smoke.toml", "build/runs/smoke")  # doctest: +SKIP
    >>> results.compare().sentence                                                 # doctest: +SKIP
"""

import importlib
import importlib.metadata
import importlib.util
import os
from typing import TYPE_CHECKING, Any


# XLA's loader reports tuning hints of the machine as errors when it reads its own cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# LLVM unrolls a loop over the times of a window whole before it looks for vectors, and then finds
# none. Told to leave such loops alone it compiles faster, and what it compiles is faster.
_FLAGS, _LOOPS = os.environ.get("XLA_FLAGS", ""), "--xla_backend_extra_options"
if _LOOPS not in _FLAGS and importlib.util.find_spec("jax_plugins") is None:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {_LOOPS}=-unroll-full-max-count=2".strip()


try:
    from kernels import PROJECT
except ImportError as e:
    raise ImportError(
        "'kernels' is not this project's package (Hugging Face publishes one of the same name). "
        "Use an environment without it and reinstall this project."
    ) from e

if TYPE_CHECKING:
    from backtest.api.data import (
        build_dataset as build_dataset,
        check_dataset as check_dataset,
        describe_dataset as describe_dataset,
    )
    from backtest.api.jobs import (
        CalibrationResults as CalibrationResults,
        calibrate as calibrate,
        run_backtest as run_backtest,
    )
    from backtest.api.margins import (
        Margin as Margin,
        WhatIf as WhatIf,
        margin as margin,
        reference_margin as reference_margin,
    )
    from backtest.api.parameters import (
        load_params as load_params,
        parameter_differences as parameter_differences,
        parameter_table as parameter_table,
    )
    from backtest.api.results import (
        Comparison as Comparison,
        Explanation as Explanation,
        RunResults as RunResults,
        open_results as open_results,
    )
    from backtest.calibration.config import (
        CalibrationConfig as CalibrationConfig,
        load_calibration as load_calibration,
    )
    from backtest.changes import with_changes as with_changes
    from backtest.config import RunConfig as RunConfig, load_config as load_config
    from backtest.dataset import Dataset as Dataset, DatasetWriter as DatasetWriter
    from backtest.errors import (
        ConfigError as ConfigError,
        DataError as DataError,
        PmStressError as PmStressError,
        RunError as RunError,
    )
    from backtest.market.build import build_market as build_market
    from backtest.params import ParameterSet as ParameterSet
    from backtest.paths import PROJECT_ROOT as PROJECT_ROOT, real_data_root as real_data_root
    from backtest.population import build_population as build_population
    from backtest.portfolio_file import load_portfolio as load_portfolio

_PUBLIC = {
    "CalibrationConfig": "calibration.config",
    "CalibrationResults": "api.jobs",
    "Comparison": "api.results",
    "ConfigError": "errors",
    "DataError": "errors",
    "Dataset": "dataset",
    "DatasetWriter": "dataset",
    "Explanation": "api.results",
    "Margin": "api.margins",
    "PROJECT_ROOT": "paths",
    "ParameterSet": "params",
    "PmStressError": "errors",
    "RunConfig": "config",
    "RunError": "errors",
    "RunResults": "api.results",
    "WhatIf": "api.margins",
    "build_dataset": "api.data",
    "build_market": "market.build",
    "build_population": "population",
    "calibrate": "api.jobs",
    "check_dataset": "api.data",
    "describe_dataset": "api.data",
    "load_calibration": "calibration.config",
    "load_config": "config",
    "load_params": "api.parameters",
    "load_portfolio": "portfolio_file",
    "margin": "api.margins",
    "open_results": "api.results",
    "parameter_differences": "api.parameters",
    "parameter_table": "api.parameters",
    "real_data_root": "paths",
    "reference_margin": "api.margins",
    "run_backtest": "api.jobs",
    "with_changes": "changes",
}
"""Module of each public name, below this package."""
__all__ = [
    "PROJECT_ROOT",
    "CalibrationConfig",
    "CalibrationResults",
    "Comparison",
    "ConfigError",
    "DataError",
    "Dataset",
    "DatasetWriter",
    "Explanation",
    "Margin",
    "ParameterSet",
    "PmStressError",
    "RunConfig",
    "RunError",
    "RunResults",
    "WhatIf",
    "build_dataset",
    "build_market",
    "build_population",
    "calibrate",
    "check_dataset",
    "describe_dataset",
    "load_calibration",
    "load_config",
    "load_params",
    "load_portfolio",
    "margin",
    "open_results",
    "parameter_differences",
    "parameter_table",
    "real_data_root",
    "reference_margin",
    "run_backtest",
    "with_changes",
]
__version__ = importlib.metadata.version(PROJECT)


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'backtest' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"backtest.{_PUBLIC[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Names for completion, the public ones among them."""
    return sorted({*globals(), *_PUBLIC})
