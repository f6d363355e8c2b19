"""Where replay stops, as PostgreSQL is told, and how it is proven afterwards that it did.

Whatever the user named, a position is handed to PostgreSQL as the LSN of one record: then what the plan has
shown is what is restored. PostgreSQL compares a time with each commit again, takes the first restore point of a
name, and gives up if the end of the WAL comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn
from pgproof.model.wal_records import TransactionEnd


@dataclass(frozen=True, slots=True)
class StopPoint:
    """Replay stops at the record `at`, after it if `inclusive`; without `at` at the end of the WAL.

    With `backup_end` it stops as soon as the backup is consistent. The last record to be replayed begins at or
    after `last`. `before` and `after` are the commits on both sides, if they are near.
    """

    TARGETS: ClassVar[tuple[str, ...]] = (
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    )

    last: Lsn
    at: Lsn | None = None
    inclusive: bool = True
    backup_end: bool = False
    before: TransactionEnd | None = None
    after: TransactionEnd | None = None
    notes: tuple[str, ...] = ()

    def target_settings(self) -> dict[str, str]:
        """The one `recovery_target…` setting that says it, and what belongs to it."""
        if self.backup_end:
            return {"recovery_target": "immediate"}
        if self.at is None:
            return {}
        inclusive = "true" if self.inclusive else "false"
        return {"recovery_target_inclusive": inclusive, "recovery_target_lsn": str(self.at)}

    def all_settings(self) -> dict[str, str]:
        """The same for a configuration file that is read last: every other target is cleared, before it is set.

        The order counts: PostgreSQL refuses a target that is set, or even emptied, behind another one.
        """
        chosen = self.target_settings()
        return {**{name: "" for name in self.TARGETS if name not in chosen}, **chosen}

    def refuse_wrong_end(self, end: Lsn) -> None:
        """Raises DataError unless recovery ended at `end` where it was to: else rows are missing, or too many."""
        early = end <= self.last
        late = self.at is not None and not self.inclusive and end > self.at
        if early or late:
            raise DataError(
                f"recovery ended {'before' if early else 'behind'} the point that was promised",
                hint="do not use what was restored: WAL was lost or changed on its way; look at `pgproof wal "
                "status`, and restore again",
                ended=end,
                promised=self.at or f"behind {self.last}",
            )

    def lines(self, now: datetime, zone: tzinfo | None = None) -> list[str]:
        """For people: where it stops, and the commits on both sides in their clocks."""
        if self.backup_end:
            where = "as soon as the backup is consistent"
        elif self.at is None:
            where = "at the end of the WAL"
        else:
            where = f"{'after' if self.inclusive else 'before'} the record at {self.at}"
        text = [f"stops             {where}"]
        for word, commit in (("last commit in ", self.before), ("first left out", self.after)):
            if commit is not None:
                text.append(f"{word}    transaction {commit.xid} at {commit.lsn}")
                text.append(f"                  {shown(commit.time, now, zone)}")
        return text

    def to_json(self) -> dict[str, Any]:
        return {
            "lsn": str(self.at) if self.at else None,
            "inclusive": self.inclusive,
            "last_commit": self.before.to_json() if self.before else None,
            "first_commit_left_out": self.after.to_json() if self.after else None,
        }


def shown(moment: datetime, now: datetime, zone: tzinfo | None = None) -> str:
    """A time in UTC, on the local clock, and how long ago."""
    local = moment.astimezone(zone)
    return (
        f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC, {local:%Y-%m-%d %H:%M:%S %Z} here, "
        f"{_how_long(now - moment)}"
    )


def _how_long(age: timedelta) -> str:
    seconds = abs(int(age.total_seconds()))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        count, seconds = divmod(seconds, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    text = " ".join(parts[:2])
    return f"in {text}" if age < timedelta(0) else f"{text} ago"
