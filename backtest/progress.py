"""Progress of a run on stderr: a bar on a terminal, a line every few seconds otherwise."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


Style = Literal["bar", "lines", "none"]
WINDOW_S = 60.0
"""Speed is that of the last minute: the first cells compile, reused cells cost nothing."""
LINE_EVERY_S = 5.0


class Pace:
    """Speed and time left from the cells that are done.

    Args:
        cells: cells of the whole run (parameter set x bucket x window).
        account_times: account-times of the whole run, all parameter sets; a cell counts as an
            equal share of them.
        now: the clock, in seconds.
    """

    def __init__(
        self, cells: int, account_times: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done = max(cells, 1), 0
        self._share = account_times / self.total
        self._now = now
        self._samples: deque[tuple[float, int]] = deque([(now(), 0)])

    def advance(self, cells: int) -> None:
        """Count finished cells."""
        self.done += cells
        now = self._now()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] < now - WINDOW_S:
            self._samples.popleft()

    @property
    def account_times_per_second(self) -> float:
        """Account-times a second of the last minute; 0 before the first cell."""
        (start, before), (_, done) = self._samples[0], self._samples[-1]
        seconds = max(self._now() - start, 1e-9)
        return (done - before) * self._share / seconds

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at this speed; None where there is no speed yet."""
        speed = self.account_times_per_second
        return (self.total - self.done) * self._share / speed if speed > 0.0 else None

    def text(self) -> str:
        """Cells, speed and time left as one line."""
        left = self.seconds_left
        remaining = "time left unknown" if left is None else f"{duration(left)} left"
        speed = f"{self.account_times_per_second:,.0f} account-times a second"
        return f"{self.done:,} of {self.total:,} cells, {speed}, {remaining}"


def duration(seconds: float) -> str:
    """Seconds as text.

    Example:
        >>> duration(3_725)
        '1 h 02 min'
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def style_of(quiet: bool) -> Style:
    """A bar on a terminal, lines elsewhere, nothing where quiet."""
    if quiet:
        return "none"
    return "bar" if sys.stderr.isatty() else "lines"


class RunProgress:
    """Shows the stages and the cells of a run; the methods may be called from any thread.

    Example:
        >>> with RunProgress("none") as progress:
        ...     progress.start(cells=4, account_times=1_000)
        ...     progress.advance(4)
    """

    def __init__(self, style: Style, now: Callable[[], float] = time.monotonic) -> None:
        self._style, self._now = style, now
        self._pace: Pace | None = None
        self._label = ""
        self._last_line = now()
        self._lock = threading.Lock()
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "RunProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A stage of the run."""
        if self._style == "none":
            return
        with self._lock:
            self._console.print(text, markup=False, soft_wrap=True)

    def start(self, cells: int, account_times: int, label: str = "") -> None:
        """Begin counting cells, from none again where some are counted already.

        ``label`` stands before the counts: which pass over the cells it is.
        """
        with self._lock:
            self._pace, self._label = Pace(cells, account_times, self._now), label
            if self._bar is not None:
                self._bar.reset(self._task, total=self._pace.total, text=self._text())
                return
        if self._style != "bar":
            return
        columns = (BarColumn(bar_width=24), TextColumn("{task.fields[text]}", markup=False))
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("", total=self._pace.total, text=self._text())
        self._bar.start()

    def advance(self, cells: int) -> None:
        """Count finished cells and show where the run is."""
        with self._lock:
            if self._pace is None:
                return
            self._pace.advance(cells)
            if self._bar is not None:
                self._bar.update(self._task, completed=self._pace.done, text=self._text())
            elif self._style == "lines":
                self._line(self._pace)

    def _line(self, pace: Pace) -> None:
        now = self._now()
        if pace.done < pace.total and now - self._last_line < LINE_EVERY_S:
            return
        self._last_line = now
        self._console.print(self._text(), soft_wrap=True)

    def _text(self) -> str:
        pace = self._pace.text() if self._pace is not None else ""
        return f"{self._label}: {pace}" if self._label else pace
