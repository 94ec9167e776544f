"""What others would write: the implementations that the engine is measured beside.

One module each. They need packages of the extra ``bench`` and are imported when they are asked for.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from backtest.errors import ConfigError


EXTRA = 'pip install "pm-stress[bench]"'
FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Freedom for the compiler that keeps infinities and NaN what they are."""


def needed(package: str) -> Any:
    """A package of the extra ``bench``.

    Raises:
        ConfigError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"the benchmark needs the package '{package}': install it with {EXTRA}"
        ) from error


def compiled(*, entry: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: the function as Numba compiles it, with whatever other decorators taken off.

    Args:
        entry: called from Python: may allocate, and lets other threads run. Everything below
            does neither; without the counting of references it is four times as fast.
    """
    numba = needed("numba")
    options: dict[str, Any] = {"nogil": True} if entry else {"_nrt": False, "forceinline": True}

    def decorate(function: Callable[..., Any]) -> Any:
        plain = inspect.unwrap(function)
        return numba.njit(fastmath=FAST, error_model="numpy", **options)(plain)

    return decorate
