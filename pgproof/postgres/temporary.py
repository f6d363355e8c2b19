"""Directories that last as long as a `with` block, and not much longer than our process.

A process that is killed cannot remove its own. It held a lock on it, which ended with it: the next one that
makes such a directory in the same place first removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pgproof.failpoints import failpoint
from pgproof.postgres.disk_errors import TEMPORARY, on_disk
from pgproof.postgres.osuser import OsUser, give_to

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def temporary_directory(kind: str, parent: Path, user: OsUser | None) -> Iterator[Path]:
    """A directory in `parent` that only `user` (and root) can enter. `kind` is part of its name."""
    prefix = f"pgproof-{kind}-"
    _remove_abandoned(parent, prefix, user)
    with on_disk(parent, TEMPORARY):
        path, lock = _locked_directory(prefix, parent)
    try:
        with on_disk(path, TEMPORARY):
            give_to(user, path)
        failpoint("temporary.ready")
        yield path
        failpoint("temporary.ending")
        with on_disk(path, TEMPORARY):
            shutil.rmtree(path)
    except BaseException:
        # What went wrong first is what counts; the next run removes what cannot be removed now.
        shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked_directory(prefix: str, parent: Path) -> tuple[Path, int]:
    """A new directory and the lock on it. Until it is locked another run may remove it: then it is made again."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        failpoint("temporary.made")
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, _READ_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever removes it holds it until it is gone
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(lock)):
                    return path, lock
            os.close(lock)


def _remove_abandoned(parent: Path, prefix: str, user: OsUser | None) -> None:
    ours = {os.geteuid()} | ({user.uid} if user else set())
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # somebody else's, in use, or removed by another run meanwhile
            lock = os.open(path, _READ_DIRECTORY)
            try:
                if os.fstat(lock).st_uid in ours:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
