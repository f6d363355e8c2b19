"""Make a repository: the only action that ever does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgproof.actions.unlocking import passphrase_of
from pgproof.errors import ConflictError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.report import Check
from pgproof.repository.bucket import Bucket
from pgproof.repository.durable import make_root
from pgproof.repository.escape_hatch import ensure_restore_script, script_key
from pgproof.repository.layout import REPOSITORY
from pgproof.repository.local import STAGING, LocalBucket
from pgproof.repository.opening import open_bucket, open_mirror
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
    bucket, mirror = open_bucket(config), open_mirror(config)
    passphrase = passphrase_of(config)
    if mirror is not None:
        _require_mirror(mirror)
    if isinstance(bucket, LocalBucket):
        _make_directory(Path(bucket.location))
    failpoint("init.directory")
    guarantees = probe_store(bucket)
    failpoint("init.probed")
    _require(guarantees, bucket)
    # Before repository.json: where that is, the way out is there as well.
    ensure_restore_script(bucket)
    recovery_key = make_repository(bucket, passphrase, config.encryption, datetime.now(UTC))
    failpoint("init.made")
    unlocked = unlock(bucket, passphrase, config.encryption)
    failpoint("init.opened")
    return InitReport(
        bucket.location,
        unlocked.key.repository_id.hex(),
        config.encryption,
        recovery_key,
        tuple(guarantees),
    )


def _require_mirror(mirror: Bucket) -> None:
    """A mirror that cannot take a copy is found now and not after the first backup, which fills it."""
    if mirror.head(REPOSITORY) is not None:
        raise ConflictError(
            "the bucket that is to be the mirror holds a repository already",
            hint="give the mirror an empty bucket, or unset AWS_S3_BUCKET",
            location=mirror.location,
        )
    _require(probe_store(mirror), mirror)


def _make_directory(root: Path) -> None:
    try:
        make_root(root)
        # What a power cut left of an earlier init does not occupy it.
        occupied = next((entry for entry in root.iterdir() if not entry.name.startswith(STAGING)), None)
    except OSError as error:
        raise PreconditionError(
            "the repository's directory cannot be made",
            hint="create it and give it to the user who runs this",
            directory=root,
            reason=error.strerror,
        ) from error
    known = {"repository.json", "keys", "probe", script_key()}
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
