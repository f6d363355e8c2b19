"""Arrays that wait in a file without a name and are read as if they lay in memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from pgproof.errors import TransientError


def in_file(parts: Iterable[npt.NDArray[Any]], what: str) -> mmap.mmap | None:
    """The bytes of the arrays one after the other, None if there are none. The kernel may take their memory back.

    Raises TransientError, naming `what` they are, if the temporary directory has no room.
    """
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the block below closes it
    except OSError as error:
        raise _no_room(what, error) from error
    with file:
        nbytes = 0
        for part in parts:
            try:
                part.tofile(file)
            except OSError as error:
                raise _no_room(what, error) from error
            nbytes += part.nbytes
        if not nbytes:
            return None
        try:
            file.flush()
            return mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _no_room(what, error) from error


def forget(memory: mmap.mmap) -> None:
    """What was read of it is not kept in this process's memory."""
    if hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)


def _no_room(what: str, error: OSError) -> TransientError:
    return TransientError(
        f"{what} does not fit into the temporary directory",
        hint=f"make room in {tempfile.gettempdir()}, or name a larger directory in TMPDIR",
        reason=error.strerror,
    )
