"""When something runs: from words such as "daily" to a cron line or a length of time. No I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pgproof.errors import PreconditionError

_LENGTH = re.compile(r"(\d{1,6})\s*(s|m|h|d|seconds?|minutes?|hours?|days?)\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_OF_A_MONTH = tuple(f"{day}#{nth}" for day in (*range(8), *_DAYS) for nth in range(1, 6))
# Of each field of a cron line the least and the greatest number, and the words. `l` is the last day of the month, `l5` its
# last Friday, `5#2` its second one.
_CRON: Sequence[tuple[int, int, Sequence[str]]] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ("l",)),
    (1, 12, _MONTHS),
    (0, 7, (*_DAYS, *_OF_A_MONTH, *(f"l{day}" for day in range(8)))),
)
_SHORTEST = timedelta(seconds=10)
_HOUR = timedelta(hours=1)

# Words as cron lines in UTC, by what runs. They keep out of each other's way: a full backup at night, a differential one at
# the other end of the day, an incremental one just after the full hour, when those of others are through.
FULL: Mapping[str, str] = {
    "hourly": "30 * * * *",
    "daily": "30 2 * * *",
    "weekly": "30 2 * * 0",
    "monthly": "30 2 1 * *",
}
DIFFERENTIAL: Mapping[str, str] = {
    "hourly": "45 * * * *",
    "daily": "30 14 * * *",
    "weekly": "30 14 * * 3",
    "monthly": "30 14 15 * *",
}
INCREMENTAL: Mapping[str, str] = {
    "hourly": "5 * * * *",
    "daily": "5 8 * * *",
    "weekly": "5 8 * * 3",
    "monthly": "5 8 15 * *",
}
_PERIODS = {
    "hourly": _HOUR,
    "daily": timedelta(days=1),
    "weekly": timedelta(days=7),
    "monthly": timedelta(days=28),
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Either a `cron` line, in UTC, or a length of time, `every`. `period` is how far two runs are apart at least, if known."""

    cron: str | None = None
    every: timedelta | None = None
    period: timedelta | None = None

    @property
    def max_lateness(self) -> timedelta:
        """A run later than this leaves its place to the next one: one period, at least a minute, at most twelve hours."""
        period = self.period or 12 * _HOUR
        return max(timedelta(minutes=1), min(12 * _HOUR, period))

    def __str__(self) -> str:
        return self.cron or f"every {self.every}"


def schedule_of(text: str, words: Mapping[str, str], setting: str) -> Schedule | None:
    """What `text` means where `words` have these cron lines; None for "never".

    Raises PreconditionError, naming `setting`, for what is neither a word, a length nor a cron line.
    """
    given = text.strip().lower()
    if given == "never":
        return None
    if given in words:
        return Schedule(cron=words[given], period=_PERIODS[given])
    if length := _LENGTH.match(given):
        every = timedelta(seconds=int(length[1]) * _UNITS[length[2][0]])
        if every < _SHORTEST:
            raise _unusable(setting, text)
        return Schedule(every=every, period=every)
    fields = text.split()
    if len(fields) == len(_CRON) and all(map(_fits, fields, _CRON)):
        return Schedule(cron=" ".join(fields))
    raise _unusable(setting, text)


def _fits(field: str, allowed: tuple[int, int, Sequence[str]]) -> bool:
    """Whether a scheduler would take this field of a cron line: it would only say so when the service already runs."""
    least, greatest, words = allowed
    for part in field.lower().split(","):
        found = re.fullmatch(r"(\*|[0-9a-z#]+)(?:-([0-9a-z]+))?(?:/0*[1-9]\d*)?", part)
        if found is None:
            return False
        for value in filter(None, found.groups()):
            number = value.isascii() and value.isdigit() and least <= int(value) <= greatest
            if not (number or value in words or (value == "*" and not found[2])):
                return False
    return True


def _unusable(setting: str, text: str) -> PreconditionError:
    return PreconditionError(
        "not an interval for backups",
        hint='use "hourly", "daily", "weekly", "monthly" or "never", a length such as "90m" or "6h" (10s is the '
        'shortest), or five fields of cron in UTC such as "15 3 * * 1-5"',
        setting=setting,
        value=text,
    )
