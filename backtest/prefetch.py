"""One thing loaded ahead: the next portfolios are read while the present ones are computed."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Prefetch(Generic[Key, Value]):
    """Loads by key, one key ahead, in a thread of its own.

    It keeps what it gave last and what it loads next, nothing else. One thread asks.

    Args:
        load: makes the value of a key; must give the same in any thread.

    Example:
        >>> squares = Prefetch(lambda k: k * k)
        >>> squares.get(3, 4), squares.get(4)
        (9, 16)
    """

    def __init__(self, load: Callable[[Key], Value]) -> None:
        self._load = load
        self._given: tuple[Key, Value] | None = None
        self._ahead: tuple[Key, Future[Value]] | None = None

    def get(self, key: Key, next_key: Key | None = None) -> Value:
        """The value of a key; begins to load the next one, where it is named.

        Raises whatever the loading raised, also if that was ahead of time.
        """
        if self._given is None or self._given[0] != key:
            self._given = None  # let go of it before another one is there
            self._given = key, self._take(key)
        if next_key is not None and next_key not in (key, self._ahead and self._ahead[0]):
            self._ahead = next_key, _begin(self._load, next_key)
        return self._given[1]

    def _take(self, key: Key) -> Value:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == key:
            return ahead[1].result()
        return self._load(key)


def _begin(load: Callable[[Any], Value], key: Any) -> Future[Value]:
    """The value to come; the thread never keeps a program from ending."""
    future: Future[Value] = Future()

    def work() -> None:
        try:
            future.set_result(load(key))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    return future
