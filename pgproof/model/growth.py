"""How much a repository stores from day to day, and where that leads. Pure.

What lies there tells when it came; what cleanups have removed is known from their records. Without these a repository that
only turns over its backups would seem to grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

HORIZONS = (30, 90)
HISTORY_DAYS = 180
# A forecast goes no further than three times the days that it is made from.
_REACH = 3
_FITTED_DAYS = 90
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Removal:
    """What one cleanup has freed, and the ids of the backups it removed."""

    at: datetime
    freed_bytes: int
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes in so many days, and the range that eight in ten of the slopes seen lead to."""

    days: int
    bytes: int
    low: int
    high: int

    def to_json(self) -> dict[str, int]:
        return {"days": self.days, "bytes": self.bytes, "low_bytes": self.low, "high_bytes": self.high}


@dataclass(frozen=True, slots=True)
class Growth:
    """`daily` is what was stored at the end of each day, oldest first; the last one is now.

    `per_day` is the bytes that a day adds, None where `note` says why nobody can tell.
    """

    daily: tuple[tuple[date, int], ...]
    per_day: float | None
    forecasts: tuple[Forecast, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes_per_day": None if self.per_day is None else round(self.per_day),
            "forecasts": [each.to_json() for each in self.forecasts],
            "note": self.note,
        }


def monthly_cost(nbytes: float, price_per_gb: float) -> float:
    """What a month costs, in the currency of the price; a GB is 10^9 bytes, as stores bill it."""
    return nbytes / _GB * price_per_gb


def net_by_day(
    present: Mapping[date, int], removals: Iterable[Removal], typical: Mapping[str, float]
) -> dict[date, int]:
    """Bytes that came less bytes that went, by day (UTC).

    `present` is what is there now, by the day it came. What a cleanup freed is thought to have come with the backups that it
    removed, shared out by what backups of their types store as a rule (`typical`).
    """
    net = dict(present)
    for removal in removals:
        if not removal.removed:
            continue
        net[removal.at.date()] = net.get(removal.at.date(), 0) - removal.freed_bytes
        weights = [max(1.0, typical.get(backup_id.split("-")[1], 1.0)) for backup_id in removal.removed]
        left = removal.freed_bytes
        for backup_id, weight in zip(removal.removed[1:], weights[1:], strict=True):
            share = round(removal.freed_bytes * weight / sum(weights))
            left -= share
            _add(net, backup_id, share)
        _add(net, removal.removed[0], left)
    return net


def _add(net: dict[date, int], backup_id: str, nbytes: int) -> None:
    day = datetime.fromisoformat(backup_id[:16]).date()
    net[day] = net.get(day, 0) + nbytes


def growth(net: Mapping[date, int], today: date) -> Growth:
    """The stored bytes of each of the last HISTORY_DAYS days, and what comes if it goes on like that.

    The slope is the median of those between days that lie apart (Theil and Sen), which a cleanup or one large backup does
    not bend.
    """
    import numpy as np
    import pandas as pd

    if not net:
        return Growth((), None, (), "nothing is stored yet")
    moved = pd.Series(list(net.values()), index=pd.DatetimeIndex([min(day, today) for day in net]))
    stored = moved.sort_index().resample("D").sum().cumsum()
    stored = stored.reindex(pd.date_range(stored.index[0], pd.Timestamp(today)), method="ffill")
    stored = stored.clip(lower=0).tail(HISTORY_DAYS + 1)
    daily = tuple(zip((at.date() for at in stored.index), map(int, stored), strict=True))
    history = len(daily) - 1
    horizons = [days for days in HORIZONS if days <= _REACH * history]
    note = "" if len(horizons) == len(HORIZONS) else _too_short(history)
    if not horizons:
        return Growth(daily, None, (), note)
    values = stored.tail(_FITTED_DAYS + 1).to_numpy(dtype=float)
    earlier, later = np.triu_indices(len(values), k=max(1, len(values) // 3))
    slopes = (values[later] - values[earlier]) / (later - earlier)
    low, slope, high = (float(each) for each in np.quantile(slopes, (0.1, 0.5, 0.9)))
    now = values[-1]
    forecasts = tuple(
        Forecast(days, *(max(0, round(now + each * days)) for each in (slope, low, high)))
        for days in horizons
    )
    return Growth(daily, slope, forecasts, note)


def _too_short(history: int) -> str:
    wanted = next(days for days in HORIZONS if days > _REACH * history)
    needed = -(-wanted // _REACH)
    seen = f"{history} day{'s' if history != 1 else ''}"
    return f"{seen} of history tell too little for {wanted} days ahead: that takes {needed}"


def first_day(now: datetime) -> datetime:
    """Cleanups before this day change nothing that is shown."""
    return now - timedelta(days=HISTORY_DAYS)
