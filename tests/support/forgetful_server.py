"""The process that serves a forgetful file system: kernel requests on one side, a test's orders on the other."""

from __future__ import annotations

import errno
import os
import random
import re
import select
import signal
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support import fuse_wire
from tests.support.forgetful_tree import Attributes, Inode, Tree
from tests.support.fuse_wire import Device, Op, Request

SYNCFS_ATTRIBUTE = "user.pgproof.syncfs"
_QUIET = {Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT}  # requests that have no answer
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE, _SET_TIME, _SET_NOW = 1, 2, 4, 8, 32, 256
_NO_REPLACE = 1
_KEEP_SIZE = 1
_FREE_BLOCKS, _FREE_FILES = 1 << 20, 1 << 20


@dataclass
class Rule:
    """What happens at the `nth` call of one of these `ops` on a path that `path` (a regular expression) finds.

    `error` is what that call answers, and with `lasting` each such call after it; None cuts the power before
    it. An fsync of a directory that fails stops the file system: it is read-only until it is repaired, as
    ext4 and xfs do when they cannot write their journal.
    """

    ops: frozenset[str]
    nth: int = 1
    error: int | None = None
    path: str = ""
    lasting: bool = False
    hits: int = field(default=0, compare=False)

    def applies(self, op: str, path: str) -> bool:
        if op not in self.ops or not re.search(self.path, path):
            return False
        self.hits += 1
        return self.hits == self.nth or (self.lasting and self.hits > self.nth)


class Server:
    """Serves one mount point until `control` is closed, whatever happens to who holds its other end."""

    def __init__(
        self,
        place: Path,
        control: Connection,
        events: Connection,
        one_journal: bool,
        clock: Callable[[], float],
    ) -> None:
        self._place = place
        self._control = control
        self._events = events
        self._tree = Tree(one_journal, clock)
        self._device = Device(place)
        self._handles: dict[int, list[tuple[bytes, Inode]]] = {}
        self._handle = 0
        self._rules: list[Rule] = []
        self._trace: list[tuple[str, str]] = []
        self._hits = 0
        self._off = self._read_only = False
        self._calls: dict[int, Callable[[Request, Inode], bytes | memoryview]] = {
            Op.LOOKUP: self._lookup, Op.GETATTR: self._getattr, Op.SETATTR: self._setattr,
            Op.READLINK: self._readlink, Op.SYMLINK: self._symlink, Op.MKNOD: self._mknod, Op.MKDIR: self._mkdir,
            Op.UNLINK: self._unlink, Op.RMDIR: self._rmdir, Op.RENAME: self._rename, Op.RENAME2: self._rename,
            Op.LINK: self._link, Op.OPEN: self._open, Op.READ: self._read, Op.WRITE: self._write,
            Op.STATFS: self._statfs, Op.RELEASE: self._nothing, Op.FSYNC: self._fsync, Op.SETXATTR: self._syncfs,
            Op.OPENDIR: self._opendir, Op.READDIR: self._readdir, Op.RELEASEDIR: self._releasedir,
            Op.FSYNCDIR: self._fsync, Op.CREATE: self._create, Op.FALLOCATE: self._allocate,
            Op.DESTROY: self._nothing,
        }  # fmt: skip

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._device, select.POLLIN)
        try:
            while True:
                for fd, _event in poll.poll():
                    if fd != self._control.fileno():
                        if request := self._device.receive():
                            self._answer(request)
                        continue
                    order, arguments = self._control.recv()
                    poll.unregister(self._device)
                    self._control.send(getattr(self, f"order_{order}")(*arguments))
                    poll.register(self._device, select.POLLIN)
        except EOFError:
            return
        finally:
            self._device.close()

    # orders

    def order_rules(self, rules: list[Rule]) -> None:
        self._rules, self._hits = rules, 0

    def order_hits(self) -> int:
        return self._hits

    def order_trace(self) -> list[tuple[str, str]]:
        """The changes and syncs since the last time this was asked."""
        trace, self._trace = self._trace, []
        return trace

    def order_repair(self) -> None:
        self._rules, self._read_only = [], False

    def order_sync(self) -> None:
        self._tree.sync_all()

    def order_cut(self) -> None:
        self._cut()

    def order_power_on(self, seed: str) -> None:
        """Everything that is open there fails from now on; the mount is a new one, on what was durable."""
        self._device.close()
        self._tree = self._tree.after_cut(random.Random(seed))
        self._handles, self._rules, self._trace = {}, [], []
        self._off = self._read_only = False
        self._device = Device(self._place)

    def _cut(self) -> None:
        self._off = True
        self._events.send("cut")

    # requests

    def _answer(self, request: Request) -> None:
        if request.op == Op.INIT:
            self._device.answer(request, fuse_wire.init_answer(request))
        elif request.op not in _QUIET:
            try:
                call = self._calls.get(request.op)
                if call is None:
                    raise OSError(errno.ENOSYS, "")
                if self._off:
                    raise OSError(errno.EIO, "")
                content = call(request, self._tree.inodes[request.node])
            except OSError as error:
                self._device.answer(request, error=error.errno or errno.EIO)
            else:
                self._device.answer(request, content)

    def _gate(self, op: str, path: str) -> None:
        """Note a call that changes something, and let a rule stop it. Raises OSError."""
        for rule in self._rules:
            if not rule.applies(op, path):
                continue
            self._hits += 1
            if rule.error is None:
                self._cut()
                raise OSError(errno.EIO, "")
            if op == "fsyncdir":
                self._read_only = True
            raise OSError(rule.error, "")
        if op != "read":
            if self._read_only:
                raise OSError(errno.EROFS, "")
            self._trace.append((op, path))

    def _gate_name(self, op: str, folder: Inode, name: bytes) -> None:
        self._gate(op, f"{folder.path.rstrip('/')}/{os.fsdecode(name)}")

    def _nothing(self, _request: Request, _inode: Inode) -> bytes:
        return b""

    def _lookup(self, request: Request, folder: Inode) -> bytes:
        return fuse_wire.entry_answer(self._tree.lookup(folder, request.names(0)[0]))

    def _getattr(self, _request: Request, inode: Inode) -> bytes:
        return fuse_wire.attributes_answer(inode)

    def _setattr(self, request: Request, inode: Inode) -> bytes:
        (
            valid,
            _pad,
            _fh,
            size,
            _owner,
            _at,
            mtime,
            _ct,
            _an,
            nanoseconds,
            _cn,
            mode,
            _unused,
            uid,
            gid,
            _u,
        ) = request.unpack("<IIQQQQQQIIIIIIII")
        if valid & _SET_SIZE:
            self._gate("truncate", inode.path)
            self._tree.resize(inode, size)
        if valid & (_SET_MODE | _SET_UID | _SET_GID):
            self._gate("attributes", inode.path)
            old_mode, old_uid, old_gid = inode.attributes
            inode.attributes = (
                stat.S_IFMT(old_mode) | stat.S_IMODE(mode) if valid & _SET_MODE else old_mode,
                uid if valid & _SET_UID else old_uid,
                gid if valid & _SET_GID else old_gid,
            )
        if valid & _SET_TIME and not valid & _SET_NOW:
            inode.modified = mtime + nanoseconds / 1e9
        return fuse_wire.attributes_answer(inode)

    def _readlink(self, _request: Request, inode: Inode) -> bytes:
        return inode.target

    def _symlink(self, request: Request, folder: Inode) -> bytes:
        name, target = request.names(0)
        return self._made("symlink", folder, name, (stat.S_IFLNK | 0o777, request.uid, request.gid), target)

    def _mknod(self, request: Request, folder: Inode) -> bytes:
        mode, name = request.unpack("<I")[0], request.names(16)[0]
        return self._made("create", folder, name, (mode, request.uid, request.gid))

    def _mkdir(self, request: Request, folder: Inode) -> bytes:
        mode, name = stat.S_IFDIR | request.unpack("<I")[0], request.names(8)[0]
        return self._made("mkdir", folder, name, (mode, request.uid, request.gid))

    def _made(
        self, op: str, folder: Inode, name: bytes, attributes: Attributes, target: bytes = b""
    ) -> bytes:
        self._gate_name(op, folder, name)
        return fuse_wire.entry_answer(self._tree.make(folder, name, attributes, target))

    def _create(self, request: Request, folder: Inode) -> bytes:
        flags, mode = request.unpack("<II")
        name = request.names(16)[0]
        if name in folder.entries and not flags & os.O_EXCL:
            return fuse_wire.entry_answer(folder.entries[name]) + fuse_wire.open_answer(0)
        made = self._made("create", folder, name, (stat.S_IFREG | mode & 0o7777, request.uid, request.gid))
        return made + fuse_wire.open_answer(0)

    def _unlink(self, request: Request, folder: Inode) -> bytes:
        return self._removed("unlink", request, folder)

    def _rmdir(self, request: Request, folder: Inode) -> bytes:
        return self._removed("rmdir", request, folder)

    def _removed(self, op: str, request: Request, folder: Inode) -> bytes:
        name = request.names(0)[0]
        self._gate_name(op, folder, name)
        self._tree.remove(folder, name)
        return b""

    def _rename(self, request: Request, folder: Inode) -> bytes:
        new_folder = self._tree.inodes[request.unpack("<Q")[0]]
        flags = request.unpack("<QI")[1] if request.op == Op.RENAME2 else 0
        name, new_name = request.names(16 if request.op == Op.RENAME2 else 8)
        if flags & ~_NO_REPLACE:
            raise OSError(errno.EINVAL, "")
        if flags and new_name in new_folder.entries:
            raise OSError(errno.EEXIST, "")
        self._gate_name("rename", new_folder, new_name)
        self._tree.rename(folder, name, new_folder, new_name)
        return b""

    def _link(self, request: Request, folder: Inode) -> bytes:
        inode, name = self._tree.inodes[request.unpack("<Q")[0]], request.names(8)[0]
        self._gate_name("link", folder, name)
        self._tree.link(inode, folder, name)
        return fuse_wire.entry_answer(inode)

    def _open(self, _request: Request, _inode: Inode) -> bytes:
        return fuse_wire.open_answer(0)

    def _read(self, request: Request, inode: Inode) -> memoryview:
        _handle, offset, size = request.unpack("<QQI")
        self._gate("read", inode.path)
        return memoryview(bytes(inode.data[offset : offset + size]))

    def _write(self, request: Request, inode: Inode) -> bytes:
        _handle, offset, size = request.unpack("<QQI")
        self._gate("write", inode.path)
        self._tree.write(inode, offset, request.body[40 : 40 + size])
        return struct.pack("<II", size, 0)

    def _allocate(self, request: Request, inode: Inode) -> bytes:
        _handle, offset, length, mode = request.unpack("<QQQI")
        if mode & ~_KEEP_SIZE:
            raise OSError(errno.EOPNOTSUPP, "")
        self._gate("allocate", inode.path)
        if not mode:
            self._tree.resize(inode, max(len(inode.data), offset + length))
        return b""

    def _statfs(self, _request: Request, _inode: Inode) -> bytes:
        return fuse_wire.statfs_answer(_FREE_BLOCKS, _FREE_FILES)

    def _fsync(self, request: Request, inode: Inode) -> bytes:
        try:
            self._gate("fsyncdir" if inode.is_directory else "fsync", inode.path)
        except OSError:
            self._tree.fail_sync(inode)
            raise
        self._tree.sync(inode)
        return b""

    def _syncfs(self, request: Request, inode: Inode) -> bytes:
        if request.names(8)[0] != SYNCFS_ATTRIBUTE.encode():
            raise OSError(errno.EOPNOTSUPP, "")
        try:
            self._gate("syncfs", inode.path)
        except OSError:
            self._tree.fail_sync_all()
            raise
        self._tree.sync_all()
        return b""

    def _opendir(self, _request: Request, inode: Inode) -> bytes:
        self._handle += 1
        self._handles[self._handle] = list(inode.entries.items())
        return fuse_wire.open_answer(self._handle)

    def _readdir(self, request: Request, _inode: Inode) -> bytes:
        handle, offset, size = request.unpack("<QQI")
        self._gate("read", _inode.path)
        return fuse_wire.directory_answer(self._handles[handle], offset, size)

    def _releasedir(self, request: Request, _inode: Inode) -> bytes:
        del self._handles[request.unpack("<Q")[0]]
        return b""


def serve(
    place: Path, control: Connection, events: Connection, one_journal: bool, clock: Callable[[], float]
) -> None:
    """What the child process does; it says on `events` when the mount is there."""
    signal.signal(signal.SIGTERM, _end)
    server = Server(place, control, events, one_journal, clock)
    events.send("mounted")
    server.serve()


def _end(*_arguments: object) -> None:
    raise EOFError
