"""Days, weeks and months, and which backup stands for each of them. Periods are UTC's, weeks begin on Monday."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

import numpy as np
import pandas as pd


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


_FREQUENCIES = {Period.DAY: "D", Period.WEEK: "W-SUN", Period.MONTH: "M"}


def stand_ins(
    times: Sequence[datetime], better: Sequence[bool], reference: datetime, period: Period, count: int
) -> dict[int, int]:
    """For each place in `times` that lies in one of the last `count` whole periods, or in the current one of `reference`, the
    place of the one that stands for its period: the last `better` one there, else the last.

    Later places are newer backups: of one period the last in the list is taken, not the one with the latest time.
    """
    if not count or not times:
        return {}
    frequency = _FREQUENCIES[period]
    # Microseconds reach every year that a manifest may name; pandas' nanoseconds end in 2262.
    utc = [moment.astimezone(UTC).replace(tzinfo=None) for moment in (*times, reference)]
    moments = pd.DatetimeIndex(np.array(utc, "datetime64[us]"))
    ordinals = moments.to_period(frequency).asi8
    table = pd.DataFrame({"period": ordinals[:-1], "better": list(better)})
    # One from the future is in no whole period of the past; it is kept for another reason.
    table = table[(table.period >= ordinals[-1] - count) & (table.period <= ordinals[-1])]
    best = table[table.better].groupby("period").tail(1)
    last = table.groupby("period").tail(1)
    chosen = {int(p): int(n) for n, p in last.period.items()} | {
        int(p): int(n) for n, p in best.period.items()
    }
    return {int(n): chosen[int(p)] for n, p in table.period.items()}
