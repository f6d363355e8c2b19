"""The kernel's news about one directory: which files were made in it, and which were closed by their writer."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from select import POLLIN, poll
from typing import Self

from pgproof.postgres.disk_errors import TEMPORARY, disk_error

CREATED, CLOSED, OVERFLOW = 0x100, 0x8, 0x4000
_NONBLOCK = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_ROOM = 64 << 10


class DirectoryWatch:
    """Tells of files in `directory`; a context manager. After OVERFLOW some news are lost."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_NONBLOCK)
        if self._descriptor < 0:
            raise _refused(directory)
        if libc.inotify_add_watch(self._descriptor, os.fsencode(directory), CREATED | CLOSED) < 0:
            error = _refused(directory)
            os.close(self._descriptor)
            raise error
        self._poll = poll()
        self._poll.register(self._descriptor, POLLIN)

    def news(self, patience_ms: int) -> Iterator[tuple[int, bytes]]:
        """What happened, and the file's name; waits for a little if nothing did."""
        if not self._poll.poll(patience_ms):
            return
        while True:
            try:
                data = os.read(self._descriptor, _ROOM)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                _watch, mask, _cookie, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                yield mask, data[at : at + length].rstrip(b"\0")
                at += length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)


def _refused(directory: Path) -> Exception:
    number = ctypes.get_errno()
    if number in (errno.EMFILE, errno.ENOSPC):
        reason = "the limit of inotify watches is reached (fs.inotify.max_user_instances, max_user_watches)"
        return disk_error(OSError(errno.EPERM, reason), os.fsencode(directory), TEMPORARY)
    return disk_error(OSError(number, os.strerror(number)), os.fsencode(directory), TEMPORARY)
