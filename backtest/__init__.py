"""Batch stress backtester for portfolio margin."""

import importlib.metadata
import os


# XLA's loader reports tuning hints of the machine as errors when it reads its own cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


try:
    from kernels import PROJECT
except ImportError as e:
    raise ImportError(
        "'kernels' is not this project's package (Hugging Face publishes one of the same name). "
        "Use an environment without it and reinstall this project."
    ) from e

__version__ = importlib.metadata.version(PROJECT)
