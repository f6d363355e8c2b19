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
from pgproof.postgres.osuser import OsUser, give_to

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def temporary_directory(kind: str, parent: Path, user: OsUser | None) -> Iterator[Path]:
    """A directory in `parent` that only `user` (and root) can enter. `kind` is part of its name."""
    prefix = f"pgproof-{kind}-"
    _remove_abandoned(parent, prefix, user)
    # It gets its final name only when it is locked, so that nobody takes it for abandoned.
    path = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
    failpoint("temporary.made")
    lock = os.open(path, _READ_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path = path.rename(path.with_name(path.name[1:]))
        give_to(user, path)
        failpoint("temporary.ready")
        yield path
        failpoint("temporary.ending")
    finally:
        shutil.rmtree(path)
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
