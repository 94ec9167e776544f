"""Numbers as people read them: thousands separators, units, percent, one rule of rounding."""

import datetime as dt
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd


SPACE = "\u00a0"  # a unit never stands on a line of its own
MINUS = "\u2212"
NONE = "\u2013"
TIMES = "\u00d7"
Real = float | int | np.number
"""Any real number, as Python, NumPy or a data frame gives it."""
_SCALES = ((1e12, "tn"), (1e9, "bn"), (1e6, "m"), (1e3, "k"))


def is_missing(value: object) -> bool:
    """True for None, NaN and NaT."""
    return value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def number(value: Real | None, digits: int = 0) -> str:
    """A number with thousands separators, ``–`` where there is none."""
    if value is None or is_missing(float(value)):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{abs(value):,.{digits}f}"
    negative = value < 0 and any(c in "123456789" for c in text)
    return f"{MINUS}{text}" if negative else text


def significant(value: Real | None, digits: int = 3) -> str:
    """A number with about ``digits`` significant digits, scientific where it is tiny."""
    if value is None or is_missing(float(value)) or math.isinf(value):
        return number(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])  # after rounding, so 0.9996 is 1.00
    return number(value, max(0, digits - 1 - exponent))


def percent(fraction: Real | None) -> str:
    """A fraction as percent: one digit, more where the share is small."""
    if fraction is None or is_missing(float(fraction)):
        return NONE
    value = 100 * fraction
    digits = 0 if abs(value) >= 1000 or value == 0 else 1
    if 0 < abs(value) < 1:
        digits = min(6, 1 - math.floor(math.log10(abs(value))))
    return f"{number(value, digits)}{SPACE}%"


def points(fraction: Real | None, signed: bool = True) -> str:
    """A difference of two shares in percentage points, with its sign."""
    if fraction is None or is_missing(float(fraction)):
        return NONE
    digits = 2 if abs(fraction) < 0.01 else 1
    text = number(100 * (fraction if signed else abs(fraction)), digits)
    plus = "+" if signed and fraction > 0 else ""
    return f"{plus}{text}{SPACE}pp"


def usd(value: Real | None) -> str:
    """An amount of USD in k, m, bn or tn with three significant digits."""
    if value is None or is_missing(float(value)):
        return NONE
    if math.isinf(value):
        return f"USD{SPACE}{number(value)}"
    size = abs(value)
    for scale, name in _SCALES:
        if size >= 0.9995 * scale:
            return f"USD{SPACE}{significant(value / scale)}{SPACE}{name}"
    return f"USD{SPACE}{number(value, 0 if size >= 100 or size == 0 else 2)}"


def p_value(p: Real | None) -> str:
    """A p value; never a false zero."""
    if p is None or is_missing(float(p)):
        return NONE
    return "< 0.0001" if p < 1e-4 else number(p, 4)


def duration(seconds: Real | None) -> str:
    """A length of time in the two largest units."""
    if seconds is None or is_missing(float(seconds)):
        return NONE
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    left = float(seconds)
    parts: list[str] = []
    for size, name in units:
        count = int(left // size)
        if count and len(parts) < 2:
            parts.append(f"{count:,}{SPACE}{name}")
        left -= count * size
    return " ".join(parts) or f"{number(seconds, 2 if seconds else 0)}{SPACE}s"


def time(value: object) -> str:
    """A UTC time to the minute."""
    if is_missing(value) or value == "":
        return NONE
    try:
        stamp = pd.Timestamp(value)  # pyright: ignore[reportArgumentType]  # anything a manifest holds
    except (ValueError, TypeError):
        return str(value)
    stamp = stamp.tz_localize(dt.UTC) if stamp.tzinfo is None else stamp.tz_convert(dt.UTC)
    return f"{stamp:%Y-%m-%d %H:%M}{SPACE}UTC"


def interval(low: Real | None, high: Real | None, show: str = "percent") -> str:
    """An interval in words, ``–`` where there is none."""
    if low is None or high is None or is_missing(float(low)) or is_missing(float(high)):
        return NONE
    shown = {"percent": percent, "points": points, "number": significant}[show]
    return f"{shown(low)} to {shown(high)}"


def plural(count: Real, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def listing(items: Iterable[str], most: int = 5) -> str:
    """Names joined by commas, cut after ``most``."""
    names = list(items)
    extra = len(names) - most
    return ", ".join(names[:most]) + (f" and {extra} more" if extra > 0 else "")


def shorten(name: str, most: int = 28) -> str:
    """A name cut in the middle so that both ends stay readable."""
    if len(name) <= most:
        return name
    head = (most - 1 + 1) // 2
    return f"{name[:head]}…{name[-(most - 1 - head) :]}"


LONG_WORD = 22
"""Letters of a word that a narrow column cannot hold in one line."""


def has_long_word(value: str) -> bool:
    """Whether a text must be broken inside a word where a column is narrow."""
    return any(len(word) > LONG_WORD for word in value.split())
