"""Read the records of a cluster's WAL in the repository, along the way to one timeline.

The segments are fetched a window at a time into a private directory, under the names of that one timeline, each
from the timeline whose file PostgreSQL would take; so the whole way is one stream for `pg_waldump`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise

from pgproof.actions.scratch_place import scratch_place
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_coverage import served_end
from pgproof.model.wal_records import TransactionEnd, WalRecord, transaction_end
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import Programs
from pgproof.postgres.restore_target import refuse_too_small
from pgproof.postgres.wal_decoding import decode_wal
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_inventory import Inventory, StoredWal

_WINDOW = 128 << 20
_PAGE = 8192
TRANSACTIONS = ("Transaction",)
_Decoder = Callable[[Lsn, Sequence[str]], Generator[WalRecord]]


@contextmanager
def wal_reading(
    archive: WalArchive,
    inventory: Inventory,
    history: TimelineHistory,
    config: BackupConfig,
    programs: Programs,
    user: OsUser | None,
    job: Job,
) -> Iterator[WalReading]:
    """A reader, as long as the block lasts; no more than `_WINDOW` bytes, or one segment, and the
    next one lie on disk at a time."""
    with scratch_place(config, user) as place:
        refuse_too_small({place: max(_WINDOW, archive.segment_size) + archive.segment_size})
        directory = DataDirectory(place / "data", {}, user)
        directory.make_roots(0o700)
        directory.make_plain_directory(b"pg_wal")

        def decode(start: Lsn, rmgrs: Sequence[str]) -> Generator[WalRecord]:
            folder = place / "data" / "pg_wal"
            return decode_wal(programs, folder, history.timeline, start, rmgrs=rmgrs, user=user, job=job)

        yield WalReading(archive, inventory, history, directory, decode, job)


class WalReading:
    def __init__(
        self,
        archive: WalArchive,
        inventory: Inventory,
        history: TimelineHistory,
        directory: DataDirectory,
        decode: _Decoder,
        job: Job,
    ) -> None:
        self.segment_size = archive.segment_size
        self._archive = archive
        self._history = history
        self._coverage = inventory.coverage()
        self._pieces: dict[WalSegment, list[StoredWal]] = {}
        for stored in inventory.pieces:
            self._pieces.setdefault(stored.range.segment, []).append(stored)
        self._directory = directory
        self._decode = decode
        self._job = job
        self._page = b""
        # By number, whether it is a real one.
        self._present: dict[int, bool] = {}

    def records(self, start: Lsn, end: Lsn, rmgrs: Sequence[str] = ()) -> Generator[WalRecord]:
        """The records that begin from `start` up to, not including, `end`, in order."""
        size = self.segment_size
        first, last = start.value // size, (end.value - 1) // size
        step = max(1, _WINDOW // size)
        for number in range(first, last + 1, step):
            until = min(end, Lsn((number + step) * size))
            # A record that begins in the window's last segment may end in the next one.
            self._fetch(range(number, min(number + step, last + 1) + 1))
            for position in self._positions(max(start, Lsn(number * size)), until):
                found = None
                with closing(self._decode(position, rmgrs)) as records:
                    for found in records:
                        if found.lsn >= until:
                            break
                        yield found
                if found is not None:
                    break

    def _positions(self, start: Lsn, until: Lsn) -> Iterator[Lsn]:
        """Where to begin to read. Behind a switch of segments there is nothing in the rest of the segment, and
        pg_waldump, told to begin there, does not look into the next one."""
        following = start.segment_start(self.segment_size) + self.segment_size
        for position in (start, following) if start.value % self.segment_size else (start,):
            if position < until and self._present.get(position.value // self.segment_size):
                yield position

    def first_record(self, start: Lsn, end: Lsn) -> WalRecord | None:
        with closing(self.records(start, end)) as found:
            return next(found, None)

    def commits(self, start: Lsn, end: Lsn) -> Generator[TransactionEnd]:
        with closing(self.records(start, end, TRANSACTIONS)) as found:
            for record in found:
                ended = transaction_end(record)
                if ended is not None and ended.committed:
                    yield ended

    def first_commit(self, start: Lsn, end: Lsn) -> TransactionEnd | None:
        with closing(self.commits(start, end)) as found:
            return next(found, None)

    def last_commit(self, start: Lsn, end: Lsn) -> TransactionEnd | None:
        """Looked for from the end, a segment at a time."""
        for low, high in self.backwards(start, end, self.segment_size):
            last = deque(self.commits(low, high), 1)
            if last:
                return last[0]
        return None

    def last_record(self, start: Lsn, end: Lsn) -> WalRecord | None:
        for low, high in self.backwards(start, end, self.segment_size):
            last = deque(self.records(low, high), 1)
            if last:
                return last[0]
        return None

    def backwards(self, start: Lsn, end: Lsn, step: int = _WINDOW) -> Iterator[tuple[Lsn, Lsn]]:
        """Ranges of whole segments from the newest to the oldest, cut to what lies between `start` and `end`."""
        step = max(step // self.segment_size, 1) * self.segment_size
        edges = [start, *(Lsn(at) for at in range((start.value // step + 1) * step, end.value, step)), end]
        yield from reversed(list(pairwise(edges)))

    def _fetch(self, numbers: range) -> None:
        """The files of these segments, as far as they exist, and no others.

        Behind them, and for each that does not exist, lies a file at whose first page the WAL ends: for one that
        is missing pg_waldump waits five seconds. It bears a real one's first page, because pg_waldump asks any
        file for the size of all, but without its address: by its own one WAL would go on in it.
        """
        wanted = range(numbers.start, numbers.stop + 1)
        for number in [each for each, real in self._present.items() if each not in numbers or not real]:
            self._directory.remove(self._path(number))
            del self._present[number]
        for number in wanted:
            if number in self._present:
                continue
            self._job.checkpoint()
            data = self._read(number) if number in numbers else None
            self._page = self._page or _without_address((data or b"")[:_PAGE])
            end = self._page.ljust(self.segment_size, b"\0")
            self._directory.write_file(self._path(number), end if data is None else data)
            self._present[number] = data is not None

    def _read(self, number: int) -> bytes | None:
        """The segment's bytes from the newest timeline on the way that has its file."""
        for span in reversed(self._history.spans()):
            segment = WalSegment(span.timeline, number, self.segment_size)
            if span.start >= segment.end or served_end(self._coverage, segment, span.start) is None:
                continue
            found = self._archive.read_segment(segment, self._pieces.get(segment, []))
            return found.data if found else None
        return None

    def _path(self, number: int) -> bytes:
        segment = WalSegment(self._history.timeline, number, self.segment_size)
        return b"pg_wal/" + segment.name.encode()


def _without_address(page: bytes) -> bytes:
    """A first page (XLogPageHeaderData) that belongs nowhere: its xlp_pageaddr is 0."""
    return page[:8] + bytes(8) + page[16:] if page else b""
