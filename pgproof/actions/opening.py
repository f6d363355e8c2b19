"""Open the configured repository."""

from __future__ import annotations

from contextvars import ContextVar

from pgproof.actions.unlocking import Unlocking, passphrase_of, unlock_bucket
from pgproof.errors import DataError
from pgproof.model.config import BackupConfig
from pgproof.repository.bucket import Bucket
from pgproof.repository.either import EitherBucket
from pgproof.repository.mirror import refuse_stranger
from pgproof.repository.opening import open_bucket, open_mirror
from pgproof.repository.repository import Repository
from pgproof.repository.unlocking import Unlocked, unlock

# The repository that this thread's action has opened: who records the action need not unlock it once more.
last_opened: ContextVar[Repository | None] = ContextVar("pgproof_last_opened", default=None)


def unlock_for_keys(config: BackupConfig) -> tuple[Bucket, Unlocked]:
    """The bucket and its key, for what changes the keys; errors as `open_repository`."""
    bucket, unlocked = unlock_bucket(config)
    last_opened.set(Repository(bucket, unlocked.key, config.cluster))
    return bucket, unlocked


def open_for_reading(config: BackupConfig, unlocking: Unlocking | None = None) -> Repository:
    """The repository with its mirror, if one is configured, behind it; otherwise as `open_repository`."""
    mirror = open_mirror(config)
    if mirror is None:
        return open_repository(config, unlocking)
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


def open_repository(config: BackupConfig, unlocking: Unlocking | None = None) -> Repository:
    """`unlocking` is what `begin_unlocking` began for it.

    Raises PreconditionError where there is no repository or its secret is missing or wrong.
    """
    bucket, unlocked = unlocking.result() if unlocking else unlock_bucket(config)
    repository = Repository(bucket, unlocked.key, config.cluster)
    last_opened.set(repository)
    return repository
