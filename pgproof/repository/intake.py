"""Takes files as a backup brings them, cuts them into frames and remembers where their pages went.

Large files have frames of their own, so that an unchanged file gives the same frames whatever came before
it; small ones share frames. Columns, not objects: a file costs its path and some twenty bytes, a run twenty-four.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import crc32c
import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.filemap import DIRECTORY, FILE, Runs, check_path, printable
from pgproof.model.job import Job
from pgproof.repository.base import Base, OldFile
from pgproof.repository.comparing import Member
from pgproof.repository.frame_slots import FRAME_SIZE, Slot
from pgproof.repository.map_store import FileColumns, StoredFiles, named_packs, store_maps
from pgproof.repository.rebuild import Patch
from pgproof.repository.repository import Repository
from pgproof.repository.resume import OWN
from pgproof.repository.writer import PackWriter

_LEAST_SHARED = 128 << 10
_FILES_PER_CUT = 16


@dataclass(slots=True)
class _Filling:
    """A frame that is being filled, and whose pages it holds."""

    slot: Slot
    used: int
    members: list[Member]
    cuts: bool = False


class FileIntake:
    """Feed it files one after another: `begin`, any number of `data`, `end`.

    `owners` are the runs whose packs may be named: this one, those of the writer's known frames, and those of the
    `base`, whose pages are not stored again.
    """

    def __init__(
        self,
        repository: Repository,
        writer: PackWriter,
        owners: tuple[str, ...],
        page_size: int,
        base: Base | None = None,
    ) -> None:
        self._repository = repository
        self._writer = writer
        self._owners = owners
        self.page_size = page_size
        self._base = base
        self._old: OldFile | None = None
        self._files = FileColumns()
        self._paths = self._files.paths
        self._kinds, self._sizes = self._files.kinds, self._files.sizes
        self._crcs = array("I")
        # What came under another name or with other bytes than are stored: path, size and CRC32C as sent.
        self._sent: dict[int, tuple[bytes, int, int]] = {}
        self._skipped: set[bytes] = set()
        self._shared: _Filling | None = None
        # Changed blocks of incremental files: those of the current one, how many of them are in frames, and the frame.
        self._blocks: npt.NDArray[np.uint32] | None = None
        self._blocks_done = 0
        self._changed: _Filling | None = None
        # Where the current file goes, how much of it is still to come, and its page that comes next in a frame.
        self._filling: _Filling | None = None
        self._left = 0
        self._page = 0
        self._crc = 0

    def directory(self, path: bytes, mode: int) -> None:
        self._add(path, DIRECTORY, 0, mode)

    def skip_empty(self, path: bytes) -> None:
        """An empty file that is sent and does not belong to the backup."""
        self._skipped.add(path)

    def begin(self, path: bytes, size: int, mode: int) -> None:
        self._add(path, FILE, size, mode)
        self._left, self._page, self._crc, self._filling, self._blocks = size, 0, 0, None, None
        if self._base is not None:
            self._old = self._base.file(path)
        if 0 < size < FRAME_SIZE:
            self._filling = self._shared_frame(-(-size // self.page_size) * self.page_size)

    def begin_patch(self, path: bytes, mode: int, sent: tuple[bytes, int], head: bytes, patch: Patch) -> None:
        """The file comes as the changed blocks of `patch`; `sent` are name and size as they come, behind `head`."""
        name, size = sent
        self._add(path, FILE, patch.pages * self.page_size, mode)
        self.put_runs(len(self._paths) - 1, patch.runs)
        self._left, self._filling = size - len(head), None
        self._crc = crc32c.crc32c(head)
        self._blocks, self._blocks_done = patch.sent, 0
        self.sent_as(name, size, self._crc)
        if self._changed is not None and self._cuts_at_path() and self._changed.used >= _LEAST_SHARED:
            self._put_changed()

    def next_file(self) -> int:
        """The number of the file that is begun next."""
        return len(self._paths)

    def put_runs(self, number: int, runs: Runs) -> None:
        """Pages of file `number` that lie somewhere already."""
        self._writer.runs.extend(number, runs)

    def sent_as(self, path: bytes, size: int, crc: int) -> None:
        """The last file came under this name, with this size and checksum."""
        self._sent[len(self._paths) - 1] = path, size, crc

    def data(self, piece: memoryview) -> None:
        """Content of the file that was begun; its last piece ends it."""
        # Without handing the interpreter's lock to another thread for the three microseconds of a piece.
        self._crc = crc32c.crc32c(piece, self._crc, gil_release_mode=0)
        self._left -= len(piece)
        if self._left < 0:
            raise DataError("a file has more bytes than announced", path=printable(self._paths[-1]))
        if self._blocks is not None:
            self._blocks_come(piece, self._blocks)
            return
        while piece:
            filling = self._filling
            if filling is None:
                filling = self._filling = _Filling(self._writer.slot(), 0, [])
            taken = min(FRAME_SIZE - filling.used, len(piece))
            filling.slot.content[filling.used : filling.used + taken] = piece[:taken]
            filling.used += taken
            piece = piece[taken:]
            if filling.used == FRAME_SIZE and filling is not self._shared:
                self._put_own(filling)
        if self._left == 0:
            self._end()

    def checksum_of(self) -> dict[bytes, tuple[int, int]]:
        """Size and CRC32C of every file as it was sent, by the path under which it came."""
        found = dict.fromkeys(self._skipped, (0, 0))
        for n, path in enumerate(self._paths):
            if self._kinds[n] == FILE:
                name, size, crc = self._sent.get(n) or (path, self._sizes[n], self._crcs[n])
                found[name] = size, crc
        return found

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes)

    def finish(self, job: Job) -> StoredFiles:
        """Make everything durable, then the map. Nothing names the packs before they are stored."""
        self._put_shared()
        self._put_changed()
        packs = self._writer.finish()
        failpoint("map.begun")
        runs = self._writer.runs
        maps, map_bytes = store_maps(self._repository, self._files, runs, self._owners, job)
        interrupted = len(self._owners) - (len(self._base.owners) if self._base else 0)
        reused = sum(runs.pages(number) for number in range(OWN + 1, interrupted))
        return StoredFiles(
            maps=maps,
            packs=named_packs(runs, self._owners),
            size_bytes=self.size_bytes,
            stored_bytes=sum(packs.values()) + map_bytes,
            reused_bytes=reused * self.page_size,
            files=sum(kind == FILE for kind in self._kinds),
        )

    def _add(self, path: bytes, kind: int, size: int, mode: int) -> None:
        if self._left:
            raise DataError("a file ended before its announced size", path=printable(self._paths[-1]))
        check_path(path)
        self._files.add(path, kind, size, mode)
        self._crcs.append(0)

    def _end(self) -> None:
        self._crcs[-1] = self._crc
        filling, self._filling = self._filling, None
        if filling is None:
            return
        whole = -(-filling.used // self.page_size) * self.page_size
        filling.slot.content[filling.used : whole] = bytes(whole - filling.used)
        filling.used = whole
        if filling is self._shared:
            pages = -(-self._sizes[-1] // self.page_size)
            filling.members.append(Member(len(self._paths) - 1, 0, pages, self._old))
        else:
            self._put_own(filling)

    def _blocks_come(self, piece: memoryview, blocks: npt.NDArray[np.uint32]) -> None:
        """Changed blocks go into frames that files share, one behind the other."""
        while piece:
            filling = self._changed
            if filling is None:
                filling = self._changed = _Filling(self._writer.slot(), 0, [])
            taken = min(FRAME_SIZE - filling.used, len(piece))
            before = filling.used // self.page_size
            filling.slot.content[filling.used : filling.used + taken] = piece[:taken]
            filling.used += taken
            piece = piece[taken:]
            whole = filling.used // self.page_size - before
            file = len(self._paths) - 1
            for block in blocks[self._blocks_done : self._blocks_done + whole].tolist():
                filling.members.append(Member(file, block, 1))
            self._blocks_done += whole
            if filling.used == FRAME_SIZE:
                self._put_changed()
        if self._left == 0:
            name, size, _crc = self._sent[len(self._paths) - 1]
            self.sent_as(name, size, self._crc)

    def _put_changed(self) -> None:
        if self._changed is not None:
            self._writer.put(self._changed.slot, self._changed.members, cuts=self._changed.cuts)
            self._changed = None

    def _put_own(self, filling: _Filling) -> None:
        pages = filling.used // self.page_size
        cuts = self._page == 0 and self._cuts_at_path()
        member = Member(len(self._paths) - 1, self._page, pages, self._old)
        self._writer.put(filling.slot, [member], cuts=cuts)
        self._page += pages
        self._filling = None

    def _shared_frame(self, wanted: int) -> _Filling:
        """The frame that takes the file that begins, with room for `wanted` bytes."""
        shared = self._shared
        cuts = self._cuts_at_path()
        if shared is not None and (
            shared.used + wanted > FRAME_SIZE or (cuts and shared.used >= _LEAST_SHARED)
        ):
            self._put_shared()
            shared = None
        if shared is None:
            shared = self._shared = _Filling(self._writer.slot(), 0, [], cuts)
        return shared

    def _put_shared(self) -> None:
        if self._shared is not None:
            self._writer.put(self._shared.slot, self._shared.members, cuts=self._shared.cuts)
            self._shared = None

    def _cuts_at_path(self) -> bool:
        """Whether a shared frame ends before the current file: the path says so, so that a file that comes, goes
        or grows changes one frame and not all that follow."""
        return self._path_hash(self._paths[-1])[0] % _FILES_PER_CUT == 0

    def _path_hash(self, path: bytes) -> bytes:
        return self._repository.hashes.frame_hash(path)
