"""The secret that is configured, and the key that it opens. Nothing heavy is imported here, so that a front door can
begin to derive the key, and import what its action needs meanwhile."""

from __future__ import annotations

import stat
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.repository.bucket import Bucket
from pgproof.repository.opening import open_bucket
from pgproof.repository.unlocking import Unlocked, unlock

Unlocking: TypeAlias = "Future[tuple[Bucket, Unlocked]]"


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
    return bucket, unlock(bucket, passphrase_of(config), config.encryption)


def begin_unlocking(config: BackupConfig) -> Unlocking:
    """`unlock_bucket` in a thread of its own, with its errors in the answer."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="pgproof-unlock")
    unlocking = pool.submit(unlock_bucket, config)
    pool.shutdown(wait=False)
    return unlocking
