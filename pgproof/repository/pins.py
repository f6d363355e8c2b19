"""Pins: somebody wants a backup kept (docs/format.md, section 7). The newest one of a backup counts, and none is changed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.model.pin import Pin
from pgproof.repository.condemned import marks
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.whoami import whoami

_STAMP = "%Y%m%dT%H%M%S%fZ"
_LONGEST_WHY = 1000


def read_pin(repository: Repository, keys: Iterable[str]) -> Pin | None:
    """The pin that counts among those of one backup, None if it was released. One that cannot be read pins."""
    key = max(keys, default=None)
    if key is None:
        return None
    try:
        value = repository.read_json(Kind.PIN, key)
        if value.get("pinned") is False:
            return None
        until = value.get("until")
        return Pin(None if until is None else _time(until), _text(value.get("why")), _text(value.get("by")))
    except (DataError, ValueError, TypeError):
        return Pin(None, broken=True)


def pins_of(repository: Repository, backup_id: str) -> list[str]:
    return [info.key for info in repository.bucket.list(repository.layout.pins(backup_id))]


def store_pin(repository: Repository, backup_id: str, pin: Pin | None, now: datetime) -> None:
    """Pin a committed backup, or release it.

    Raises ConflictError if a cleanup is about to remove it, PreconditionError if it is gone.
    """
    if pin is not None and len(pin.why) > _LONGEST_WHY:
        raise PreconditionError("the reason is too long", hint=f"say it in {_LONGEST_WHY} characters")
    layout = repository.layout
    newest = max(pins_of(repository, backup_id), default="").rpartition("/")[2]
    at = max(now, _after(newest)) if newest else now
    value = {
        "format": 1,
        "pinned": pin is not None,
        "until": pin.until.isoformat() if pin is not None and pin.until is not None else None,
        "why": pin.why if pin is not None else "",
        "by": whoami(),
        "at": now.isoformat(),
    }
    repository.create_json(Kind.PIN, layout.pin(backup_id, at), value)
    if pin is None:
        return
    # In this order: whoever condemns looks for pins after its mark is there.
    if any(backup_id in mark.backups for mark in marks(repository)):
        raise ConflictError(
            "a cleanup is about to remove this backup",
            hint="run this again when it has ended, to see whether the pin came in time",
            backup=backup_id,
        )
    if repository.bucket.head(layout.manifest(backup_id)) is None:
        raise PreconditionError(
            "this backup was removed", hint="`pgproof list` shows what is there", backup=backup_id
        )


def _after(stamp: str) -> datetime:
    """A microsecond later than a pin's name says."""
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC) + timedelta(microseconds=1)
    except ValueError as error:
        raise DataError("a pin has a name that no pin has", name=stamp) from error


def _time(text: object) -> datetime:
    if not isinstance(text, str):
        raise TypeError("not a time")
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
