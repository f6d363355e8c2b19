"""The kernel's FUSE protocol, version 7.31: requests as bytes from /dev/fuse, answers as bytes back to it.

Only what a file system of our own needs (include/uapi/linux/fuse.h); no thread, no library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from tests.support.forgetful_tree import BLOCK, Inode

MAX_WRITE = 1 << 20
_FOR_EVER = 1 << 30
_DIRECT_IO = 1
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_MNT_DETACH = 2

_HEADER = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_libc = ctypes.CDLL(None, use_errno=True)


class Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45


class Request(NamedTuple):
    """One call: on which inode, by whom, and what belongs to it."""

    op: int
    unique: int
    node: int
    uid: int
    gid: int
    body: memoryview

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack_from(layout, self.body)

    def names(self, after: int) -> list[bytes]:
        """The NUL-terminated strings that follow the first `after` bytes."""
        return bytes(self.body[after:]).split(b"\0")[:-1]


class Device:
    """An open /dev/fuse and the mount that belongs to it."""

    def __init__(self, place: Path) -> None:
        self._place = os.fsencode(place)
        self._buffer = bytearray(MAX_WRITE + (64 << 10))
        # Not blocking: who is killed takes its request back, even one that poll(2) has told us of.
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        if _libc.mount(b"forgetful", self._place, b"fuse", 0, options.encode()) != 0:
            number = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(number, os.strerror(number), "mount of FUSE")

    def fileno(self) -> int:
        return self._fd

    def receive(self) -> Request | None:
        """The next request, None if there is none any more."""
        try:
            length = os.readv(self._fd, [self._buffer])
        except BlockingIOError:
            return None
        view = memoryview(self._buffer)
        _length, op, unique, node, uid, gid, _pid, _ext, _pad = _HEADER.unpack_from(view)
        return Request(op, unique, node, uid, gid, view[_HEADER.size : length])

    def answer(self, request: Request, content: bytes | bytearray | memoryview = b"", error: int = 0) -> None:
        parts = [_ANSWER.pack(_ANSWER.size + len(content), -error, request.unique), content]
        with contextlib.suppress(FileNotFoundError):  # the caller was killed while it waited
            os.writev(self._fd, parts)

    def close(self) -> None:
        """Unmount at once; whoever still has something open there gets errors."""
        _libc.umount2(self._place, _MNT_DETACH)
        os.close(self._fd)


def init_answer(request: Request) -> bytes:
    read_ahead = request.unpack("<IIII")[2]
    flags = _BIG_WRITES | _MAX_PAGES
    return struct.pack(
        "<IIIIHHIIHHI28x", 7, 31, read_ahead, flags, 12, 9, MAX_WRITE, 1, MAX_WRITE // BLOCK, 0, 0
    )


def attributes(inode: Inode) -> bytes:
    mode, uid, gid = inode.attributes
    size = len(inode.target) or len(inode.data)
    seconds, part = divmod(inode.modified, 1)
    clock, nanoseconds = (int(seconds),) * 3, (int(part * 1e9),) * 3
    links = 2 if inode.is_directory else inode.links
    return _ATTRIBUTES.pack(
        inode.number, size, -(-size // 512), *clock, *nanoseconds, mode, links, uid, gid, 0, BLOCK, 0
    )


def entry_answer(inode: Inode) -> bytes:
    return struct.pack("<4QII", inode.number, 0, _FOR_EVER, _FOR_EVER, 0, 0) + attributes(inode)


def attributes_answer(inode: Inode) -> bytes:
    return struct.pack("<QII", _FOR_EVER, 0, 0) + attributes(inode)


def open_answer(handle: int) -> bytes:
    # Past the page cache, so that every read and write is a request of its own.
    return struct.pack("<QII", handle, _DIRECT_IO, 0)


def statfs_answer(blocks: int, files: int) -> bytes:
    return struct.pack("<5Q4I24x", blocks, blocks, blocks, files, files, BLOCK, 255, BLOCK, 0)


def directory_answer(entries: list[tuple[bytes, Inode]], offset: int, room: int) -> bytes:
    out = bytearray()
    for at, (name, inode) in enumerate(entries[offset:], offset + 1):
        entry = struct.pack("<QQII", inode.number, at, len(name), inode.mode >> 12) + name
        entry += bytes(-len(entry) % 8)
        if len(out) + len(entry) > room:
            break
        out += entry
    return bytes(out)
