"""What was announced of a cluster's alarms: numbered records, the newest counts (decision 0015)."""

from __future__ import annotations

import json
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.model.alarms import Record
from pgproof.repository.bucket import Bucket
from pgproof.repository.layout import is_number
from pgproof.repository.local import LocalBucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind


class AlarmLog(Protocol):
    def newest(self) -> tuple[int, Record | None]:
        """Its number (0 if there is none), and what it says (None if that cannot be read)."""

    def create(self, number: int, record: Record) -> bool:
        """Whether this record got the number; somebody else was quicker if not."""


class RepositoryLog:
    """In the repository, for all who watch this cluster."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def newest(self) -> tuple[int, Record | None]:
        layout = self._repository.layout
        number = _newest(self._repository.bucket, layout.alarms)
        if not number:
            return 0, None
        try:
            return number, Record.from_json(self._repository.read_json(Kind.ALARMS, layout.alarm(number)))
        except DataError:
            # Everything is told anew, which is better than nothing told.
            return number, None

    def create(self, number: int, record: Record) -> bool:
        try:
            self._repository.create_json(
                Kind.ALARMS, self._repository.layout.alarm(number), _with_nonce(record)
            )
        except ConflictError:
            return False
        return True


class LocalLog:
    """In the state directory of this machine, where the repository cannot be opened or written."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise PreconditionError(
                "the state directory cannot be made",
                hint="set BACKUP_STATE_DIR to a directory that this user may write",
                directory=folder,
                reason=error.strerror,
            ) from error
        self._bucket = LocalBucket(folder)

    def newest(self) -> tuple[int, Record | None]:
        number = _newest(self._bucket, "")
        if not number:
            return 0, None
        try:
            return number, Record.from_json(json.loads(self._bucket.read(f"{number:08d}")))
        except (DataError, ValueError):
            return number, None

    def create(self, number: int, record: Record) -> bool:
        try:
            self._bucket.create(f"{number:08d}", json.dumps(_with_nonce(record)).encode())
        except ConflictError:
            return False
        return True


def folder_for(state: Path, place: str, cluster: str, what: str) -> Path:
    """Where the local records about one cluster of one repository lie; its address stays out of the name."""
    return state / "alarms" / sha256(f"{place}\0{cluster}".encode()).hexdigest()[:16] / what


def _newest(bucket: Bucket, prefix: str) -> int:
    names = (info.key.removeprefix(prefix) for info in bucket.list(prefix))
    return max((int(name) for name in names if is_number(name) and len(name) == 8), default=0)


def _with_nonce(record: Record) -> dict[str, Any]:
    # Two that create the same record at the same time must not both take it for theirs.
    return {"format": 1, **record.to_json(), "nonce": secrets.token_hex(8)}
