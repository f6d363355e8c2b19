"""What the schedules and the retention policy promise, told in the plainest way and without the code that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pgproof.model.report import BackupInfo

# The policy of the campaign: young ones all, one for each of some days, and recovery to any moment of two days.
HOURS, DAYS, PITR_DAYS = 12, 4, 2
RETENTION = {
    "BACKUP_KEEP_HOURS": str(HOURS),
    "BACKUP_KEEP_DAILY": str(DAYS),
    "BACKUP_PITR_DAYS": str(PITR_DAYS),
}


def times_of(cron: str, since: datetime, until: datetime) -> list[datetime]:
    """When a cron line is due from `since` to before `until`."""
    minute, hour, day, month, weekday = (_numbers(field) for field in cron.split())
    found, each = [], since.replace(second=0, microsecond=0)
    while each < until:
        if (
            each >= since
            and each.minute in minute
            and each.hour in hour
            and each.day in day
            and each.month in month
            and each.isoweekday() % 7 in weekday
        ):
            found.append(each)
        each += timedelta(minutes=1)
    return found


def _numbers(field: str) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, last = (0, 59) if span == "*" else (int(span.split("-")[0]), int(span.split("-")[-1]))
        found |= set(range(first, last + 1, int(step or 1)))
    return found


def promised(backups: Sequence[BackupInfo]) -> set[str]:
    """Which of these physical backups a cleanup leaves."""
    ordered = sorted(backups, key=lambda each: each.finished_at)
    newest = ordered[-1]
    good = [each for each in ordered if each.status == "ok" and (each.verified is None or each.verified.ok)]
    keep = {newest.backup_id, *(each.backup_id for each in good[-2:])}
    keep |= {each.backup_id for each in [e for e in ordered if str(e.type) == "full"][-1:]}
    keep |= {each.backup_id for each in [e for e in good if _proven(e)][-1:]}
    keep |= {
        each.backup_id for each in ordered if newest.finished_at - each.finished_at <= timedelta(hours=HOURS)
    }
    for back in range(DAYS + 1):
        day = newest.finished_at.date() - timedelta(days=back)
        of_the_day = [each for each in ordered if each.finished_at.date() == day]
        best = [each for each in of_the_day if each in good] or of_the_day
        keep |= {each.backup_id for each in best[-1:]}
    window = newest.finished_at - timedelta(days=PITR_DAYS)
    before = [each for each in good if each.finished_at <= window]
    keep |= {(before or good)[-1 if before else 0].backup_id}
    return keep


def _proven(backup: BackupInfo) -> bool:
    return (
        backup.verified is not None and backup.verified.ok and str(backup.verified.level) in ("start", "full")
    )
