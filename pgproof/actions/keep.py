"""Pin a backup, so that no cleanup removes it, or release it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pgproof.actions.opening import open_for_reading
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.pin import FOR_GOOD, Pin
from pgproof.repository.catalog import find_backup
from pgproof.repository.pins import pins_of, read_pin, store_pin


@dataclass(frozen=True, slots=True)
class KeepReport:
    """`pin` is what holds the backup now, `before` what held it before."""

    backup_id: str
    pin: Pin | None
    before: Pin | None

    def to_json(self) -> dict[str, Any]:
        return {
            "backup_id": self.backup_id,
            "pinned_until": None if self.pin is None else (self.pin.until or FOR_GOOD).isoformat(),
            "why": self.pin.why if self.pin is not None else "",
        }


def keep_backup(config: BackupConfig, backup_id: str, until: datetime | None, why: str) -> KeepReport:
    """Keep a backup until a time, or for good; the newest call counts.

    Raises PreconditionError for a backup that does not exist or a time that has passed, ConflictError if a cleanup is
    just removing it.
    """
    if until is not None and until.tzinfo is None:
        until = until.astimezone()
    if until is not None and until <= datetime.now(UTC):
        raise PreconditionError("this time has passed", hint="give a time in the future", until=until)
    return _store(config, backup_id, Pin(until.astimezone(UTC) if until is not None else None, why))


def release_backup(config: BackupConfig, backup_id: str) -> KeepReport:
    """Take a pin away; the rules decide again. Raises PreconditionError where there is none."""
    return _store(config, backup_id, None)


def _store(config: BackupConfig, wanted: str, pin: Pin | None) -> KeepReport:
    repository = open_for_reading(config)
    backup_id = find_backup(repository, wanted).backup_id
    before = read_pin(repository, pins_of(repository, backup_id))
    if pin is None and before is None:
        raise PreconditionError(
            "this backup has no pin", hint="`pgproof list` shows which have", backup=backup_id
        )
    failpoint("keep.found")
    store_pin(repository, backup_id, pin, datetime.now(UTC))
    return KeepReport(backup_id, pin, before)
