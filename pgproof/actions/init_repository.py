"""Make a repository: the only action that ever does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgproof.actions.opening import passphrase_of
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.report import Check
from pgproof.repository.bucket import Bucket
from pgproof.repository.local import LocalBucket
from pgproof.repository.opening import open_bucket
from pgproof.repository.probe import probe_store
from pgproof.repository.unlocking import make_repository, unlock


@dataclass(frozen=True, slots=True)
class InitReport:
    """A new repository. `recovery_key` is told here once and stored nowhere; None without encryption.

    `guarantees` are what the store was found to honour.
    """

    location: str
    repository_id: str
    encrypted: bool
    recovery_key: str | None
    guarantees: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "repository_id": self.repository_id,
            "encrypted": self.encrypted,
            "recovery_key": self.recovery_key,
            "guarantees": [check.to_json() for check in self.guarantees],
        }


def init_repository(config: BackupConfig) -> InitReport:
    """Probe the store, then make the repository.

    Raises ConflictError if there is one, PreconditionError if the store lacks what backups need or no
    passphrase is given.
    """
    bucket = open_bucket(config)
    passphrase = passphrase_of(config)
    if isinstance(bucket, LocalBucket):
        _make_directory(Path(bucket.location))
    guarantees = probe_store(bucket)
    _require(guarantees, bucket)
    recovery_key = make_repository(bucket, passphrase, config.encryption, datetime.now(UTC))
    unlocked = unlock(bucket, passphrase, config.encryption)
    return InitReport(
        bucket.location,
        unlocked.key.repository_id.hex(),
        config.encryption,
        recovery_key,
        tuple(guarantees),
    )


def _make_directory(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        occupied = next(root.iterdir(), None)
    except OSError as error:
        raise PreconditionError(
            "the repository's directory cannot be made",
            hint="create it and give it to the user who runs this",
            directory=root,
            reason=error.strerror,
        ) from error
    known = {"repository.json", "keys", "probe"}
    if occupied is not None and not any((root / name).exists() for name in known):
        raise PreconditionError(
            "the directory is not empty",
            hint="choose an empty or new directory for the repository",
            directory=root,
        )


def _require(guarantees: list[Check], bucket: Bucket) -> None:
    for check in guarantees:
        if not check.ok:
            raise PreconditionError(
                "the store does not guarantee what backups need",
                hint=check.hint or "use another store",
                location=bucket.location,
                failed=check.name,
                reason=check.detail,
            )
