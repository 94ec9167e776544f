"""Expiry calendar: which expiries are listed from when, by the venue's rule of the next n.

Everything expires at 08:00 UTC: daily ones every day, weekly ones on Fridays, monthly ones on the
last Friday of the month, quarterly ones on that of March, June, September and December.
"""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pandas as pd


EXPIRY_HOUR = 8
_FRIDAY = 4
_MARGIN = timedelta(days=1150)


def expiry_calendar(
    start: datetime,
    end: datetime,
    *,
    daily: int = 0,
    weekly: int = 0,
    monthly: int = 0,
    quarterly: int = 0,
) -> pd.DataFrame:
    """Expiries alive at any time of ``[start, end]`` with the time from which each is listed.

    An expiry is listed while it is among the next ``n`` of its class, that is from the moment
    when the one ``n`` places before it expires; listing never depends on prices.

    Returns:
        Columns ``expiry`` and ``listed`` (UTC), ordered by expiry.
    """
    days = _expiry_days(start.astimezone(UTC) - _MARGIN, end.astimezone(UTC) + _MARGIN)
    fridays = [d for d in days if d.weekday() == _FRIDAY]
    months = [a for a, b in pairwise(fridays) if a.month != b.month]
    quarters = [d for d in months if d.month % 3 == 0]
    listed: dict[datetime, datetime] = {}
    for dates, count in (
        (days, daily),
        (fridays, weekly),
        (months, monthly),
        (quarters, quarterly),
    ):
        for before, expiry in zip(dates, dates[count:], strict=False) if count else ():
            listed[expiry] = min(before, listed.get(expiry, before))
    alive = sorted((e, f) for e, f in listed.items() if e > start and f <= end)
    return pd.DataFrame(alive, columns=["expiry", "listed"]).astype("datetime64[us, UTC]")


def _expiry_days(first: datetime, last: datetime) -> list[datetime]:
    day = first.replace(hour=EXPIRY_HOUR, minute=0, second=0, microsecond=0)
    return [day + timedelta(days=i) for i in range((last - first).days + 1)]


def expiry_code(expiry: pd.Timestamp) -> str:
    """Expiry as in instrument ids: ``260327`` for 27 March 2026."""
    return expiry.strftime("%y%m%d")
