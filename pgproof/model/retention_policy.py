"""What is configured about how long backups are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgproof.errors import PreconditionError

# What BackupConfig calls the rules that keep backups, and with them the two that no backup is removed against.
RULES = ("retention_days", "keep_last", "keep_hours", "keep_daily", "keep_weekly", "keep_monthly")
SETTINGS = (*RULES, "keep_at_least", "pitr_days")
_PITR_DAYS = 7
_LONGEST = 100_000


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """A backup stays if one rule keeps it; 0 or None is no rule.

    `days`: everything so young. `last`: the newest so many. `hours`: everything so young; `daily`, `weekly`, `monthly`: one for
    each of so many days, ISO weeks and months. `at_least` good ones stay whatever the rules say, and every moment of the last
    `pitr_days` can be restored.
    """

    days: int | None = None
    last: int | None = None
    hours: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    at_least: int = 2
    pitr_days: int = _PITR_DAYS

    @property
    def by_calendar(self) -> bool:
        return bool(self.daily or self.weekly or self.monthly)

    def __str__(self) -> str:
        """Such as `24 hours, 30 days, 52 weeks, 84 months`."""
        rules = [f"all of {self.days} days"] if self.days is not None else []
        rules += [f"the last {self.last}"] if self.last is not None else []
        rules += [f"all of {self.hours} hours"] if self.hours else []
        rules += [
            f"one for each of {count} {unit}"
            for count, unit in ((self.daily, "days"), (self.weekly, "weeks"), (self.monthly, "months"))
            if count
        ]
        return ", ".join(rules)

    def to_json(self) -> dict[str, Any]:
        return {
            "retention_days": self.days,
            "keep_last": self.last,
            "keep_hours": self.hours,
            "keep_daily": self.daily,
            "keep_weekly": self.weekly,
            "keep_monthly": self.monthly,
            "keep_at_least": self.at_least,
            "pitr_days": self.pitr_days,
        }


def policy_of(
    *,
    days: int | None = None,
    last: int | None = None,
    hours: int | None = None,
    daily: int | None = None,
    weekly: int | None = None,
    monthly: int | None = None,
    at_least: int | None = None,
    pitr_days: int | None = None,
) -> RetentionPolicy:
    """The policy for what is configured; None is not configured.

    Age and count alone mean just that. By period is added where a period is configured, and is the rule where nothing is.
    Raises PreconditionError for a number that is no rule.
    """
    given = {
        "retention_days": days,
        "keep_last": last,
        "keep_hours": hours,
        "keep_daily": daily,
        "keep_weekly": weekly,
        "keep_monthly": monthly,
        "keep_at_least": at_least,
        "pitr_days": pitr_days,
    }
    for name, value in given.items():
        least = 1 if name in ("keep_last", "keep_at_least") else 0
        if value is not None and not least <= value <= _LONGEST:
            raise PreconditionError(
                "not a rule for how long backups are kept",
                hint=f"set {name} to a whole number from {least} to {_LONGEST}",
                value=value,
            )
    periods = (hours, daily, weekly, monthly)
    if not any(periods) and days is None and last is None:
        if any(value is not None for value in periods):
            raise PreconditionError(
                "no rule keeps any backup",
                hint="set one of retention_days, keep_last, keep_daily to more than 0",
            )
        periods = (24, 30, 52, 84)
    alone = days is not None and not any(periods) and last is None
    if pitr_days is None:
        pitr_days = min(_PITR_DAYS, days) if alone and days is not None else _PITR_DAYS
    hours, daily, weekly, monthly = (value or 0 for value in periods)
    return RetentionPolicy(
        days, last, hours, daily, weekly, monthly, 2 if at_least is None else at_least, pitr_days
    )
