"""What lies before pg_waldump while the WAL of a repository is read."""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from pathlib import Path

from pgproof.actions.wal_reading import WalReading
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_names import StoredRange
from pgproof.model.wal_records import WalRecord
from pgproof.postgres.data_directory import DataDirectory
from pgproof.repository.local import LocalBucket
from tests.wal.segments import SIZE, archive_in, content, segment

_ADDRESS, _SEGMENT_SIZE = struct.Struct("<8xQ"), struct.Struct("<32xI")


def test_behind_the_segments_lies_a_file_in_which_no_wal_goes_on(tmp_path: Path) -> None:
    """Going back, segments are taken away that had lain there. With its own first page in its place, and a switch of
    segments in that, pg_waldump went on, and waited five seconds for the next file."""
    (tmp_path / "repo").mkdir()
    archive = archive_in(LocalBucket(tmp_path / "repo"))
    for number in range(5, 9):
        archive.create(StoredRange(segment(number), 0, SIZE), content(segment(number)), 1)
    directory = DataDirectory(tmp_path / "data", {}, None)
    directory.make_roots(0o700)
    directory.make_plain_directory(b"pg_wal")
    looks: list[tuple[set[int], set[int]]] = []

    def decode(_start: Lsn, _rmgrs: Sequence[str]) -> Generator[WalRecord]:
        real, ends = set(), set()
        for path in (tmp_path / "data" / "pg_wal").iterdir():
            found, of = path.read_bytes(), WalSegment.parse(path.name, SIZE)
            assert _SEGMENT_SIZE.unpack_from(found)[0] == len(found) == SIZE
            own = _ADDRESS.unpack_from(found)[0] == of.start.value
            (real if own else ends).add(of.number)
            assert own == (found == content(of))
        looks.append((real, ends))
        yield from ()

    reading = WalReading(
        archive, archive.inventory(1), TimelineHistory.parse(1, b""), directory, decode, Job()
    )
    assert reading.last_commit(segment(5).start, segment(9).start) is None
    assert looks == [({8}, {9, 10}), ({7, 8}, {9}), ({6, 7}, {8}), ({5, 6}, {7})]
