"""The map of a backup, from what its run found out: segments cut by paths, each stored unless it is there."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pgproof.failpoints import failpoint
from pgproof.model.filemap import SegmentBuilder, bitmap_of, cuts_before
from pgproof.model.job import Job
from pgproof.model.manifest import MapRef
from pgproof.repository.repository import Repository
from pgproof.repository.run_table import RunTable

# Each is small, and waits for the store or the disk.
_AT_ONCE = 4


@dataclass(slots=True)
class FileColumns:
    """The files of a backup by their numbers: columns, because there may be millions."""

    paths: list[bytes] = field(default_factory=list)
    kinds: array[int] = field(default_factory=lambda: array("B"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    modes: array[int] = field(default_factory=lambda: array("H"))

    def add(self, path: bytes, kind: int, size: int, mode: int) -> None:
        self.paths.append(path)
        self.kinds.append(kind)
        self.sizes.append(size)
        self.modes.append(mode)


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """What a run has stored: the map's segments, for each owner the packs that these name as a bitmap, and
    sizes in bytes. `reused_bytes` is the plain size of frames that an interrupted run had stored already."""

    maps: tuple[MapRef, ...]
    packs: dict[str, bytes]
    size_bytes: int
    stored_bytes: int
    reused_bytes: int
    files: int


def store_maps(
    repository: Repository, files: FileColumns, runs: RunTable, owners: tuple[str, ...], job: Job
) -> tuple[tuple[MapRef, ...], int]:
    """The segments in order, and the bytes that were stored for them now."""
    refs: list[MapRef] = []
    stored = 0
    storing: deque[tuple[Future[tuple[str, int]], SegmentBuilder]] = deque()
    builder = SegmentBuilder()

    def create(payload: bytes) -> tuple[str, int]:
        created = repository.create_map(payload)
        failpoint("map.stored")
        return created

    def settle(most: int) -> int:
        """Wait until no more than so many are on their way; in the order of the paths."""
        nbytes = 0
        while len(storing) > most:
            future, built = storing.popleft()
            name, length = future.result()
            nbytes += length
            refs.append(MapRef(name, built.first, len(built), built.bytes, built.pages))
        return nbytes

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-map") as pool:
        for number in sorted(range(len(files.paths)), key=files.paths.__getitem__):
            path = files.paths[number]
            if len(builder) and (builder.full or cuts_before(repository.hashes.frame_hash(path))):
                storing.append((pool.submit(create, builder.encode()), builder))
                stored += settle(_AT_ONCE)
                builder = SegmentBuilder()
                job.checkpoint()
            kind, size, mode = files.kinds[number], files.sizes[number], files.modes[number]
            builder.add(path, kind, size, mode, runs.rows_of(number), owners)
        if len(builder):
            storing.append((pool.submit(create, builder.encode()), builder))
        stored += settle(0)
    return tuple(refs), stored


def named_packs(runs: RunTable, owners: Sequence[str]) -> dict[str, bytes]:
    """For each owner the packs that the runs name."""
    named = {owner: runs.packs(number) for number, owner in enumerate(owners)}
    return {owner: bitmap_of(packs) for owner, packs in named.items() if packs}
