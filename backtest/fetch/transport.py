"""How a question reaches a venue: through ccxt, or through whatever a caller gives instead."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from backtest.errors import ConfigError
from backtest.fetch.config import RetryConfig


Answer = TypeVar("Answer")
CCXT_NAMES = {"okx": "okx", "bybit": "bybit", "deribit": "deribit", "binance": "binanceusdm"}
_MOST_WAIT_S = 3600.0


class TemporaryError(Exception):
    """No answer this time: too many requests, an error of the server, a connection that was cut.

    Args:
        message: what happened.
        wait_s: how long the venue asks to wait, where it says so.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@runtime_checkable
class Transport(Protocol):
    """Asks a venue; keeps its limit of requests."""

    def __call__(self, endpoint: str, params: Mapping[str, Any]) -> Any:
        """The answer, as JSON says it.

        Raises:
            TemporaryError: asking again may help.
            ConfigError: the venue refuses the question.
        """
        ...


class CcxtTransport:
    """Public endpoints through ccxt, which keeps the venue's rate limit.

    Args:
        venue: name of the venue.
        base_url: another server instead of the venue's, such as a mirror.
        timeout_s: seconds until a connection is given up.
    """

    def __init__(self, venue: str, base_url: str | None = None, timeout_s: float = 20.0) -> None:
        try:
            import ccxt
        except ImportError as error:
            raise ConfigError(
                "pmstress fetch needs ccxt; install the extra: pip install 'pm-stress[fetch]'"
            ) from error
        self._ccxt = ccxt
        options = {"enableRateLimit": True, "timeout": int(timeout_s * 1000)}
        self._exchange: Any = getattr(ccxt, CCXT_NAMES[venue])(options)
        if base_url is not None:
            api = self._exchange.urls["api"]
            self._exchange.urls["api"] = {name: _moved(url, base_url) for name, url in api.items()}

    def __call__(self, endpoint: str, params: Mapping[str, Any]) -> Any:
        """The answer of a public endpoint, by ccxt's name of it."""
        try:
            answer = getattr(self._exchange, endpoint)(dict(params))
        except self._ccxt.NetworkError as error:
            raise TemporaryError(_short(error), self._wait()) from error
        except self._ccxt.BaseError as error:
            raise ConfigError(f"the venue refuses {dict(params)}: {_short(error)}") from error
        if not isinstance(answer, dict | list):
            raise TemporaryError(f"the answer is no JSON: {str(answer)[:80]!r}")
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._exchange.session is not None:
            self._exchange.session.close()

    def _wait(self) -> float | None:
        headers = self._exchange.last_response_headers or {}
        said = {str(k).lower(): str(v) for k, v in headers.items()}.get("retry-after", "")
        return float(said) if said.isdigit() else None


def _moved(url: Any, base_url: str) -> Any:
    """The address with another server, its path kept."""
    if not isinstance(url, str):
        return url
    path = url.split("://", 1)[-1].partition("/")[2]
    return f"{base_url}/{path}".rstrip("/")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


def patiently(
    ask: Callable[[], Answer],
    retry: RetryConfig,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda text: None,
) -> Answer:
    """What ``ask`` gives, asked again after a while as long as the trouble is temporary.

    Raises:
        TemporaryError: the trouble of the last attempt.
    """
    most = retry.most_wait.total_seconds()
    for attempt in range(retry.attempts):
        try:
            return ask()
        except TemporaryError as error:
            if attempt == retry.attempts - 1:
                raise
            wait = min(retry.first_wait.total_seconds() * 2.0**attempt, most)
            wait = min(max(wait, error.wait_s or 0.0), _MOST_WAIT_S)
            say(f"{error}; again in {wait:.3g} s ({attempt + 1} of {retry.attempts})")
            sleep(wait)
    raise AssertionError("attempts is at least 1")
