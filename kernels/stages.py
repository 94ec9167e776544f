"""Stages of a margin, and how what passes from one to the next is kept."""

from collections.abc import Callable
from typing import Any


Apart = Callable[..., Any]
"""Calls a function with some arrays; what it gives may be stored before anything else is done."""


def together(stage: Callable[..., Any], *inputs: Any) -> Any:
    """Nothing is stored between stages: the plainest ``Apart``."""
    return stage(*inputs)
