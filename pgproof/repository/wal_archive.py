"""The WAL of a cluster as it lies in the repository: whole segments, parts of them, history files.

A segment's bytes come from its own object, or from parts that follow each other from its first byte on; behind
their end stand zeros, where PostgreSQL finds the end of the WAL. Absence is never concluded from silence: it is
told only by a list, of a repository that is seen to be there afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_coverage import Coverage
from pgproof.model.wal_merging import longest
from pgproof.model.wal_names import StoredRange
from pgproof.repository.blobs import encode_blob, encode_json
from pgproof.repository.compression import Buffer
from pgproof.repository.frame_slots import FRAME_SIZE
from pgproof.repository.packs import Frame, PackBuilder, make_frame
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_inventory import Inventory, StoredWal, list_from, list_wal

WAL_PAGE = 8192
_FRAMES_AT_ONCE = 32
_FRAMES_IN_FLIGHT = 6
_LOOKS = 10


@dataclass(frozen=True, slots=True)
class SegmentBytes:
    """A segment in full length; everything behind `end` is zeros that were added."""

    data: bytes
    end: Lsn


class WalArchive:
    """Reads and writes the WAL of one cluster. Raises the repository's errors."""

    def __init__(self, repository: Repository, system_identifier: str, segment_size: int) -> None:
        self.repository = repository
        self.system_identifier = system_identifier
        self.segment_size = segment_size
        self._histories: set[int] = set()

    @classmethod
    def open(cls, repository: Repository) -> WalArchive:
        """By the cluster's record. Raises PreconditionError if there is no such cluster in the repository."""
        return cls(repository, *_described(repository))

    # what is there

    def inventory(self, timeline: int | None = None) -> Inventory:
        """Everything that is stored, of one timeline or of all."""
        return list_wal(self.repository, self.segment_size, timeline)

    def later_than(self, segment: WalSegment) -> Inventory:
        """What is stored of the segment's timeline from this segment on."""
        return list_from(self.repository, segment)

    def prove_present(self) -> None:
        """The repository that a list was made of is there, and is this cluster's. Otherwise what the list did not
        show (an unmounted disk, another bucket) proves nothing."""
        try:
            identifier, _size = _described(self.repository)
        except (DataError, PreconditionError) as error:
            raise TransientError(
                "the repository is not there, so nothing can be told absent",
                hint="mount the disk, or correct BACKUP_DIR, the bucket or --cluster",
                location=self.repository.bucket.location,
                reason=error.message,
            ) from error
        if identifier != self.system_identifier:
            raise DataError("the repository was exchanged for one of another cluster", found=identifier)

    # segments

    def pieces_of(self, segment: WalSegment) -> list[StoredWal]:
        """The objects that hold bytes of a segment; the whole segment alone, if it is there."""
        whole = StoredRange(segment, 0, segment.size)
        info = self.repository.bucket.head(self.repository.layout.wal_range(whole))
        if info is not None:
            return [StoredWal(whole, info)]
        return [each for each in self.later_than(segment).pieces if each.range.segment == segment]

    def partials_of(self, segment: WalSegment) -> list[StoredWal]:
        """What promoted servers stored of a segment that its timeline did not finish."""
        layout = self.repository.layout
        prefix = layout.partial(segment, "")
        listed = self.repository.bucket.list(layout.timeline(segment.timeline), prefix)
        whole = StoredRange(segment, 0, segment.size)
        return [StoredWal(whole, info) for info in listed if info.key.startswith(prefix)]

    def read_segment(self, segment: WalSegment, pieces: Iterable[StoredWal]) -> SegmentBytes | None:
        """The segment's bytes up to the first one that no piece has; None if that is the very first.

        Pieces that were replaced since they were listed are looked for again. Raises DataError where a piece is
        damaged or gone and no other one has its bytes, or two pieces disagree about the same bytes.
        """
        pieces = [each for each in pieces if each.range.segment == segment]
        promised = Coverage.of(each.piece for each in pieces).run_end(segment.timeline, segment.start)
        damaged: dict[str, DataError] = {}
        for _try in range(_LOOKS):
            try:
                found = self._put_together(segment, [each for each in pieces if each.info.key not in damaged])
            except _UnreadableError as error:
                if self.repository.bucket.head(error.key) is None:
                    pieces = self.pieces_of(segment)
                else:
                    damaged[error.key] = error.reason
                continue
            if promised > segment.start and (found is None or found.end < promised):
                raise next(iter(damaged.values()), None) or DataError(
                    "WAL that was listed is gone",
                    hint="something else than pgproof removes objects",
                    segment=segment.name,
                )
            return found
        if damaged:
            raise next(iter(damaged.values()))
        raise TransientError(
            "the parts of a WAL segment are replaced faster than they can be read",
            hint="try again; see what slows the store down if it stays",
            segment=segment.name,
        )

    def _put_together(self, segment: WalSegment, pieces: Iterable[StoredWal]) -> SegmentBytes | None:
        """Pieces that another one covers are not read: there may be thousands that are about to go."""
        by_range = {each.range: each for each in pieces}
        data, end = bytearray(segment.size), 0
        for part in longest(by_range):
            if part.start > end:
                break
            stored = by_range[part]
            try:
                plain = b"".join(self.plain(stored))
            except DataError as error:
                raise _UnreadableError(stored.info.key, error) from error
            known = end - part.start
            if data[part.start : end] != plain[:known]:
                raise DataError(
                    "two stored parts of a WAL segment disagree",
                    hint="two servers wrote this timeline into the same cluster name",
                    key=stored.info.key,
                )
            data[end : part.end] = plain[known:]
            end = part.end
        return SegmentBytes(bytes(data), segment.start + end) if end else None

    def plain(self, stored: StoredWal) -> Iterator[bytes]:
        """The bytes of a segment or part, a frame at a time, read some frames at once. DataError for damage."""
        reader = self.repository.open_wal_object(stored.info)
        length, count = stored.range.end - stored.range.start, len(reader.index.codecs)
        if reader.index.plain_size != length:
            raise DataError(
                "a WAL object does not have the length that its name says",
                key=stored.info.key,
                bytes=reader.index.plain_size,
                expected=length,
            )
        offsets = reader.index.offsets
        for first in range(0, count, _FRAMES_AT_ONCE):
            some = range(first, min(first + _FRAMES_AT_ONCE, count))
            sealed = memoryview(reader.read_frames(first, len(some)))
            for frame in some:
                start, end = (int(offsets[n] - offsets[first]) for n in (frame, frame + 1))
                yield reader.open_frame(frame, sealed[start:end], self.repository.hashes)

    def create(self, stored: StoredRange, data: Buffer, level: int | None) -> int:
        """Store a segment, or a part of one; return the bytes stored now, 0 if the same was there.

        Raises ConflictError if something different is there: then nothing may be acknowledged.
        """
        if len(data) != stored.end - stored.start:
            raise DataError(
                "not the bytes that the name says", expected=stored.end - stored.start, bytes=len(data)
            )
        view = memoryview(data)
        frames = (view[at : at + FRAME_SIZE] for at in range(0, len(view), FRAME_SIZE))
        return self.create_object(self.repository.layout.wal_range(stored), frames, level)

    def create_object(
        self, key: str, frames: Iterable[Buffer], level: int | None, pool: Executor | None = None
    ) -> int:
        """Store frames of FRAME_SIZE bytes, the last one may be shorter, in a WAL object. With `pool` several of
        them are compressed at once."""
        builder = PackBuilder(self.repository.key, Kind.WAL, key, WAL_PAGE, tags=False)
        make = partial(make_frame, self.repository.hashes, WAL_PAGE, level)
        if pool is None:
            for frame in map(make, frames):
                builder.add(frame)
        else:
            waiting: deque[Future[Frame]] = deque()
            for data in frames:
                waiting.append(pool.submit(make, data))
                if len(waiting) > _FRAMES_IN_FLIGHT:
                    builder.add(waiting.popleft().result())
            for future in waiting:
                builder.add(future.result())
        return self.repository.create_wal_object(key, builder)

    def note_minimal(self, segment: WalSegment, offset: int) -> int:
        """Keep for ever that WAL from here on was written with wal_level = minimal."""
        key = self.repository.layout.minimal(segment, offset)
        data = encode_blob(self.repository.key, Kind.WAL_NOTE, key, encode_json({"wal_level": "minimal"}))
        try:
            self.repository.bucket.create(key, data)
        except ConflictError:
            return 0  # its name is all that it says
        return len(data)

    # history files

    def create_history(self, timeline: int, content: bytes) -> bool:
        """Store a history file for ever; return whether it is new. ConflictError if another one is there."""
        TimelineHistory.parse(timeline, content)
        return self.repository.create_history(timeline, content)

    def knows_history(self, timeline: int) -> bool:
        """Whether a history file is stored; asked once for each."""
        if timeline not in self._histories:
            if self.repository.bucket.head(self.repository.layout.history(timeline)) is None:
                return False
            self._histories.add(timeline)
        return True

    def read_history(self, timeline: int) -> bytes | None:
        """A history file, or None if none is listed."""
        if self.repository.bucket.head(self.repository.layout.history(timeline)) is None:
            return None
        return self.repository.read_history(timeline)

    def history(self, timeline: int) -> TimelineHistory:
        """The way to a timeline; one without a history file is a root, as PostgreSQL has it."""
        content = self.read_history(timeline)
        if content is None:
            return TimelineHistory(timeline)
        return TimelineHistory.parse(timeline, content)


class _UnreadableError(Exception):
    """A piece is damaged, or gone."""

    def __init__(self, key: str, reason: DataError) -> None:
        super().__init__(key)
        self.key = key
        self.reason = reason


def _described(repository: Repository) -> tuple[str, int]:
    """The system identifier and the segment size of the cluster."""
    key = repository.layout.cluster
    if repository.bucket.head(key) is None:
        raise PreconditionError(
            "the repository does not know this cluster",
            hint="take its first backup with `pgproof create`, or correct --cluster",
            cluster=repository.cluster,
            location=repository.bucket.location,
        )
    value = repository.read_json(Kind.CLUSTER, key)
    identifier, size = value.get("system_identifier"), value.get("wal_segment_size")
    if (
        not isinstance(identifier, str)
        or not isinstance(size, int)
        or size < 1 << 20
        or size > 1 << 30
        or size & (size - 1)
    ):
        raise DataError("the cluster's record is damaged", key=key)
    return identifier, size
