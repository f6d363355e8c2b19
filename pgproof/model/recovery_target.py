"""The moment to which a user wants to go back, as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn

_MAX_NAME = 63


class TargetKind(StrEnum):
    LATEST = "latest"
    BACKUP_END = "backup-end"
    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"


_POSITIONS = (TargetKind.TIME, TargetKind.LSN, TargetKind.XID)


@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """What was asked for. `inclusive` says whether the record at the target is replayed, too.

    `value` is an aware datetime in UTC, an Lsn, a transaction id or a restore point's name, as `kind` says.
    """

    kind: TargetKind
    value: datetime | Lsn | int | str | None = None
    inclusive: bool = True

    def __post_init__(self) -> None:
        if not self.inclusive and self.kind not in _POSITIONS:
            raise PreconditionError(
                "this target is neither exclusive nor inclusive",
                hint="leave exclusive out; it belongs to a time, an LSN or a transaction id",
                target=str(self.kind),
            )

    def __str__(self) -> str:
        if self.kind is TargetKind.LATEST:
            return "everything there is"
        if self.kind is TargetKind.BACKUP_END:
            return "the end of the backup"
        shown = f"{self.value:%Y-%m-%d %H:%M:%S.%f} UTC" if isinstance(self.value, datetime) else self.value
        return f"{self.kind} {shown}" + ("" if self.inclusive else ", exclusive")

    def to_json(self) -> dict[str, Any]:
        value = self.value.isoformat() if isinstance(self.value, datetime) else self.value
        return {
            "kind": str(self.kind),
            "value": str(value) if isinstance(value, Lsn) else value,
            "inclusive": self.inclusive,
        }


LATEST = RecoveryTarget(TargetKind.LATEST)
BACKUP_END = RecoveryTarget(TargetKind.BACKUP_END)


def target_from(
    *,
    time: datetime | str | None = None,
    lsn: Lsn | str | None = None,
    xid: int | str | None = None,
    name: str | None = None,
    backup_end: bool = False,
    inclusive: bool = True,
) -> RecoveryTarget | None:
    """The one target that is given; None if there is none.

    Raises PreconditionError if there are several, or one cannot be read. A time without an offset is local.
    """
    given = [what for what in (time, lsn, xid, name) if what is not None]
    if len(given) + backup_end > 1:
        raise PreconditionError(
            "there is more than one recovery target",
            hint="give one of time, LSN, transaction id, restore point and end of the backup",
        )
    if time is not None:
        moment = _in_utc(time) if isinstance(time, datetime) else parse_time(time)
        return RecoveryTarget(TargetKind.TIME, moment, inclusive)
    if lsn is not None:
        return RecoveryTarget(TargetKind.LSN, lsn if isinstance(lsn, Lsn) else _lsn(lsn), inclusive)
    if xid is not None:
        return RecoveryTarget(TargetKind.XID, _xid(xid), inclusive)
    if name is not None:
        if not name or "\0" in name or len(name.encode()) > _MAX_NAME:
            raise PreconditionError(
                "not a name of a restore point", hint="it has 1 to 63 bytes", name=name[:_MAX_NAME]
            )
        return RecoveryTarget(TargetKind.NAME, name, inclusive)
    if backup_end:
        return RecoveryTarget(TargetKind.BACKUP_END, None, inclusive)
    if not inclusive:
        raise PreconditionError(
            "there is no target to be exclusive of", hint="give a time, an LSN or a transaction id"
        )
    return None


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time such as `2026-11-25 14:00:00+01:00`; without an offset it is local time."""
    try:
        found = datetime.fromisoformat(
            text.strip().removesuffix(" UTC") + ("Z" if text.endswith(" UTC") else "")
        )
    except ValueError:
        raise PreconditionError(
            "not a time",
            hint="write it as 2026-11-25 14:00:00 (local time) or 2026-11-25T14:00:00+01:00",
            time=text,
        ) from None
    return _in_utc(found)


def _in_utc(moment: datetime) -> datetime:
    """Refuses what a clock that was moved shows twice or never: the wrong hour restores the wrong data."""
    try:
        early, late = (moment.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    except (OverflowError, ValueError, OSError):
        raise PreconditionError("a time that cannot be", hint="look at its year", time=str(moment)) from None
    if moment.tzinfo is None and early != late:
        raise PreconditionError(
            "this local time exists twice or not at all, because clocks were moved",
            hint=f"say which is meant, with an offset: {early:%Y-%m-%d %H:%M:%S}+00:00 or "
            f"{late:%Y-%m-%d %H:%M:%S}+00:00",
            time=str(moment),
        )
    return early


def _lsn(text: str) -> Lsn:
    try:
        return Lsn.parse(text)
    except ValueError:
        raise PreconditionError(
            "not an LSN", hint="write it as pg_current_wal_lsn() shows it, such as 16/B374D848", lsn=text
        ) from None


def _xid(value: int | str) -> int:
    text = str(value)
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
    if number < 3:
        raise PreconditionError(
            "not a transaction id", hint="give a number such as pg_current_xact_id() shows", xid=text
        )
    # pg_current_xact_id() counts on behind 32 bits; the WAL knows the lower ones only.
    return number & 0xFFFFFFFF
