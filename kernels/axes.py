"""Numbers of accounts beside numbers of times: arrays whose axes are told to fit each other.

Values of several accounts and times have the accounts before the times; either axis may be missing.
"""

from typing import Any


def alike_over_times(x: Any, values: Any) -> Any:
    """Numbers of accounts, the same at all times, with as many axes as ``values``."""
    return x.reshape(x.shape + (1,) * (values.ndim - x.ndim))


def alike_over_accounts(x: Any, values: Any) -> Any:
    """Numbers of times, the same for all accounts, with as many axes as ``values``."""
    return x.reshape((1,) * (values.ndim - x.ndim) + x.shape) if x.ndim else x
