"""Open the configured repository: find the bucket, get the passphrase, unlock."""

from __future__ import annotations

import stat
from contextvars import ContextVar
from pathlib import Path

from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.repository.bucket import Bucket
from pgproof.repository.either import EitherBucket
from pgproof.repository.mirror import refuse_stranger
from pgproof.repository.opening import open_bucket, open_mirror
from pgproof.repository.repository import Repository
from pgproof.repository.unlocking import Unlocked, unlock

# The repository that this thread's action has opened: who records the action need not unlock it once more.
last_opened: ContextVar[Repository | None] = ContextVar("pgproof_last_opened", default=None)


def passphrase_of(config: BackupConfig) -> str | None:
    """The passphrase or recovery key that is configured, read from its file if need be."""
    if config.passphrase or not config.passphrase_file:
        return config.passphrase
    path = Path(config.passphrase_file)
    try:
        mode = path.stat().st_mode
        text = path.read_text().rstrip("\r\n")
    except OSError as error:
        raise PreconditionError(
            "the passphrase file cannot be read",
            hint="correct BACKUP_PASSPHRASE_FILE or the file's owner and mode",
            file=path,
            reason=error.strerror,
        ) from error
    except UnicodeDecodeError as error:
        raise PreconditionError(
            "the passphrase file is not text",
            hint="write the passphrase into it as UTF-8",
            file=path,
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PreconditionError(
            "others can read the passphrase file",
            hint=f"run: chmod 600 {path}",
            file=path,
            mode=f"{mode & 0o777:04o}",
        )
    if not text:
        raise PreconditionError(
            "the passphrase file is empty", hint="write the passphrase into it", file=path
        )
    return text


def unlock_bucket(config: BackupConfig) -> tuple[Bucket, Unlocked]:
    bucket = open_bucket(config)
    unlocked = unlock(bucket, passphrase_of(config), config.encryption)
    last_opened.set(Repository(bucket, unlocked.key, config.cluster))
    return bucket, unlocked


def open_for_reading(config: BackupConfig) -> Repository:
    """The repository with its mirror, if one is configured, behind it; errors as `open_repository`."""
    mirror = open_mirror(config)
    if mirror is None:
        return open_repository(config)
    directory, secret = open_bucket(config), passphrase_of(config)
    refuse_stranger(directory, mirror)
    bucket = EitherBucket(directory, mirror)
    try:
        unlocked = unlock(bucket, secret, config.encryption)
    except DataError:
        # What opens the repository is damaged in the directory.
        unlocked = unlock(mirror, secret, config.encryption)
    repository = Repository(bucket, unlocked.key, config.cluster, mirror)
    last_opened.set(repository)
    return repository


def open_repository(config: BackupConfig) -> Repository:
    """Raises PreconditionError where there is no repository or its secret is missing or wrong."""
    bucket, unlocked = unlock_bucket(config)
    return Repository(bucket, unlocked.key, config.cluster)
