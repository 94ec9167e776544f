"""The slow float64 reference over many accounts: in this process, or in several for large runs."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

import jaxtyping


WORKERS = int(os.environ.get("PMSTRESS_TEST_PROCESSES", "1"))
"""Processes; the tests run beside each other already, so one by default."""


@contextmanager
def unchecked() -> Iterator[None]:
    """Without run-time type checks, which make the scalar reference twenty times slower."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


Work = TypeVar("Work")
Answer = TypeVar("Answer")


def mapped(
    function: Callable[[Work], Answer], work: Sequence[Work], chunk: int = 1
) -> list[Answer]:
    """Answers in the order of the work; ``function`` stands in a module."""
    if WORKERS == 1:
        with unchecked():
            return [function(each) for each in work]
    with get_context("spawn").Pool(WORKERS) as pool:
        answers: list[Any] = pool.map(function, work, chunk)
    return answers
