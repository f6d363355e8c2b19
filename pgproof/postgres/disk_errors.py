"""What a disk refuses under a data directory or a scratch place, in the words of our errors."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.filemap import printable
from pgproof.postgres.restore_target import nearest_existing

TEMPORARY = "the temporary directory"
_REFUSED = (
    errno.EACCES,
    errno.EEXIST,
    errno.EFBIG,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


@contextlib.contextmanager
def on_disk(place: Path | bytes, whose: str = "the target") -> Iterator[None]:
    """Translate what the system refuses while the block works in `place`; `whose` names the place in messages.

    Raises PreconditionError when the disk is full or refuses, TransientError when it fails.
    """
    try:
        yield
    except OSError as error:
        named = error.filename
        precise = isinstance(named, (str, bytes)) and os.fsencode(named).startswith(b"/")
        raise disk_error(error, os.fsencode(named) if precise else place, whose) from error


@contextlib.contextmanager
def temporary_file(content: bytes = b"") -> Iterator[IO[bytes]]:
    """A file without a name, to be read from its beginning."""
    with contextlib.ExitStack() as stack:
        with on_disk(Path(tempfile.gettempdir()), TEMPORARY):
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(content)
            file.seek(0)
        yield file


def disk_error(
    error: OSError, place: Path | bytes, whose: str = "the target"
) -> PreconditionError | TransientError:
    """The error for an OSError in `place`."""
    path = os.fsencode(place)
    facts = {"path": printable(path), "reason": error.strerror}
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        status = os.statvfs(nearest_existing(Path(os.fsdecode(path))))
        return PreconditionError(
            f"{whose}'s disk is full",
            hint="free space, remove what was restored so far, try again",
            free_mb=status.f_bavail * status.f_frsize // 1_000_000,
            free_files=status.f_favail,
            **facts,
        )
    if error.errno in _REFUSED:
        return PreconditionError(
            f"{whose} cannot be written",
            hint="check its owner and mode, that its disk is writable, and that nobody else writes there",
            **facts,
        )
    return TransientError(f"{whose}'s disk failed", hint="check the disk, then try again", **facts)
