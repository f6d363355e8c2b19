"""A file system as a value that knows what a power cut would leave of it. No kernel and no I/O here.

What is durable, at worst within POSIX and as ext4 and xfs may do it:

- the content of a file as it was at its last fsync. Of what was written since, nothing, all, a beginning or
  some blocks survive. What an fsync failed to write is gone: a later fsync that succeeds does not bring it.
- an entry of a directory once that directory was fsynced. Changes since then survive each by itself, or up to
  some moment, as a journal keeps them; a rename survives whole or not at all.
- an fsync of a file says nothing of its name, and an fsync of a directory nothing of the files in it. With
  `one_journal` any fsync also takes along every change of directories before it, as ext4 and xfs happen to do;
  PostgreSQL relies on that for the files of new tables, our own code must not.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BLOCK = 4096

Attributes = tuple[int, int, int]  # mode, owner, group


class Inode:
    """A file, directory or symbolic link. What begins with `synced` is durable."""

    __slots__ = (
        "attributes", "data", "dirty", "entries", "links", "lost", "modified", "number", "synced",
        "synced_attributes", "synced_entries", "target", "where",
    )  # fmt: skip

    def __init__(self, number: int, attributes: Attributes, now: float) -> None:
        self.number = number
        self.attributes = self.synced_attributes = attributes
        self.modified = now
        self.links = 1
        self.where: tuple[Inode, bytes] | None = None
        self.data = bytearray()
        self.synced = b""
        self.dirty = False
        self.lost: set[int] = set()
        self.target = b""
        self.entries: dict[bytes, Inode] = {}
        self.synced_entries: dict[bytes, Inode] = {}

    @property
    def mode(self) -> int:
        return self.attributes[0]

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def path(self) -> str:
        """Where it was last linked, for rules and messages."""
        if self.where is None:
            return "/"
        return os.fsdecode(b"/".join([os.fsencode(self.where[0].path.rstrip("/")), self.where[1]]))


@dataclass
class _Change:
    """What one call did to directories; an inode of None removes the name."""

    entries: list[tuple[Inode, bytes, Inode | None]] = field(default_factory=list)


class Tree:
    """Calls raise OSError as a file system would; `after_cut` tells what is left without the unsynced."""

    def __init__(self, one_journal: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._one_journal = one_journal
        self._clock = clock
        self._number = 1
        self.root = Inode(1, (stat.S_IFDIR | 0o755, 0, 0), clock())
        self.inodes = {1: self.root}
        self._pending: list[_Change] = []

    # names

    def lookup(self, folder: Inode, name: bytes) -> Inode:
        try:
            return folder.entries[name]
        except KeyError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def make(self, folder: Inode, name: bytes, attributes: Attributes, target: bytes = b"") -> Inode:
        """A new file, directory or symbolic link, by the type in its mode."""
        self._refuse_existing(folder, name)
        self._number += 1
        inode = self.inodes[self._number] = Inode(self._number, attributes, self._clock())
        inode.target = target
        self._enter(folder, name, inode)
        return inode

    def link(self, inode: Inode, folder: Inode, name: bytes) -> None:
        self._refuse_existing(folder, name)
        inode.links += 1
        self._enter(folder, name, inode)

    def remove(self, folder: Inode, name: bytes) -> None:
        inode = self.lookup(folder, name)
        if inode.entries:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        inode.links -= 1
        self._change((folder, name, None))

    def rename(self, old: Inode, old_name: bytes, new: Inode, new_name: bytes) -> None:
        inode, replaced = self.lookup(old, old_name), new.entries.get(new_name)
        if replaced is inode:
            return
        if replaced is not None:
            if replaced.entries:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            replaced.links -= 1
        inode.where = (new, new_name)
        self._change((old, old_name, None), (new, new_name, inode))

    # content

    def write(self, inode: Inode, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        if len(inode.data) < offset:
            inode.data.extend(bytes(offset - len(inode.data)))
        inode.data[offset:end] = data
        self._touched(inode)
        if inode.lost:
            inode.lost.difference_update(range(offset // BLOCK, -(-end // BLOCK)))

    def resize(self, inode: Inode, size: int) -> None:
        if size < len(inode.data):
            del inode.data[size:]
        else:
            inode.data.extend(bytes(size - len(inode.data)))
        self._touched(inode)

    # durability

    def sync(self, inode: Inode) -> None:
        """fsync of a file or of a directory."""
        inode.synced_attributes = inode.attributes
        if self._one_journal:
            for folder in {where for change in self._pending for where, _name, _inode in change.entries}:
                self._sync_entries(folder)
        if inode.is_directory:
            self._sync_entries(inode)
        elif inode.dirty and inode.lost:
            inode.synced = _blocks(inode.synced, bytes(inode.data), set(_numbers(inode)) - inode.lost)
        elif inode.dirty:
            inode.synced, inode.dirty = bytes(inode.data), False

    def sync_all(self) -> None:
        """syncfs."""
        for inode in self._reachable():
            self.sync(inode)

    def fail_sync(self, inode: Inode) -> None:
        """An fsync that could not write: what it should have written counts as clean from now on, and is not."""
        inode.lost |= {n for n in _numbers(inode) if _block(inode.synced, n) != _block(inode.data, n)}

    def fail_sync_all(self) -> None:
        for inode in self._reachable():
            self.fail_sync(inode)

    def after_cut(self, chance: random.Random) -> Tree:
        """The tree that is found when the power comes back."""
        left = Tree(self._one_journal, self._clock)
        entries = self._entries_left(chance)
        made = {self.root: left.root}
        left.root.attributes = chance.choice([self.root.synced_attributes, self.root.attributes])
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            for name, inode in entries.get(folder, folder.synced_entries).items():
                if inode in made:
                    made[inode].links += 1
                    made[folder].entries[name] = made[inode]
                    continue
                attributes = chance.choice([inode.synced_attributes, inode.attributes])
                copy = made[inode] = left.make(made[folder], name, attributes, inode.target)
                copy.modified = inode.modified
                copy.synced = _content_left(inode, chance)
                copy.data = bytearray(copy.synced)
                if inode.is_directory:
                    waiting.append(inode)
            made[folder].synced_entries = dict(made[folder].entries)
        left.root.synced_attributes = left.root.attributes
        left._pending.clear()
        return left

    def _entries_left(self, chance: random.Random) -> dict[Inode, dict[bytes, Inode]]:
        """What each changed directory holds after a cut."""
        if chance.random() < 0.5:  # a journal: everything up to some moment
            survive = [True] * chance.randint(0, len(self._pending))
        else:
            share = chance.choice([0.0, 0.2, 0.5, 0.8, 1.0])
            survive = [chance.random() < share for _change in self._pending]
        found: dict[Inode, dict[bytes, Inode]] = {}
        for change, survives in zip(self._pending, survive, strict=False):
            for folder, name, inode in change.entries if survives else ():
                _apply(found.setdefault(folder, dict(folder.synced_entries)), name, inode)
        return found

    def _sync_entries(self, folder: Inode) -> None:
        done = [
            change for change in self._pending if any(where is folder for where, _n, _i in change.entries)
        ]
        if not done:
            return
        self._pending = [change for change in self._pending if change not in done]
        for change in done:
            for where, name, inode in change.entries:
                _apply(where.synced_entries, name, inode)
                # What came before, in the other directory of a rename, must not come back over this.
                for earlier in self._pending if where is not folder else ():
                    earlier.entries = [e for e in earlier.entries if (e[0], e[1]) != (where, name)]

    # the rest

    def _reachable(self) -> Iterator[Inode]:
        waiting, seen = [self.root], {self.root}
        while waiting:
            inode = waiting.pop()
            yield inode
            new = set(inode.entries.values()) - seen
            seen |= new
            waiting.extend(new)

    def _touched(self, inode: Inode) -> None:
        inode.dirty = True
        inode.modified = self._clock()

    def _refuse_existing(self, folder: Inode, name: bytes) -> None:
        if name in folder.entries:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _enter(self, folder: Inode, name: bytes, inode: Inode) -> None:
        inode.where = (folder, name)
        self._change((folder, name, inode))

    def _change(self, *entries: tuple[Inode, bytes, Inode | None]) -> None:
        for folder, name, inode in entries:
            folder.modified = self._clock()
            _apply(folder.entries, name, inode)
        self._pending.append(_Change(list(entries)))


def _apply(entries: dict[bytes, Inode], name: bytes, inode: Inode | None) -> None:
    if inode is None:
        entries.pop(name, None)
    else:
        entries[name] = inode


def _content_left(inode: Inode, chance: random.Random) -> bytes:
    if not inode.dirty:
        return inode.synced
    numbers = [number for number in _numbers(inode) if number not in inode.lost]
    match chance.choice(["nothing", "everything", "a beginning", "some blocks"]):
        case "nothing":
            return inode.synced
        case "everything":
            written = numbers
        case "a beginning":
            written = numbers[: chance.randint(0, len(numbers))]
        case _:
            written = [number for number in numbers if chance.random() < 0.5]
    content = _blocks(inode.synced, bytes(inode.data), set(written))
    return content[: chance.choice([len(content), len(content), len(inode.synced)])]


def _numbers(inode: Inode) -> range:
    return range(-(-max(len(inode.data), len(inode.synced)) // BLOCK))


def _block(data: bytes | bytearray, number: int) -> bytes:
    return bytes(data[number * BLOCK : (number + 1) * BLOCK])


def _blocks(old: bytes, new: bytes, written: set[int]) -> bytes:
    """A file of the new size: the written blocks from the new content, the others as they were."""
    if len(written) * BLOCK >= max(len(new), len(old)):
        return new
    old = old[: len(new)].ljust(len(new), b"\0")
    return b"".join(_block(new if n in written else old, n) for n in range(-(-len(new) // BLOCK)))
