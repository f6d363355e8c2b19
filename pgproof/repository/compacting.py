"""Write a pack anew without the frames that no backup needs (docs/decisions/0019-compaction.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.frame_stream import stretches
from pgproof.repository.pack_reader import PackReader
from pgproof.repository.pack_versions import rewriting_of
from pgproof.repository.packs import PackBuilder, PackIndex
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind, object_name

# Rewritings are numbered with two digits.
MOST_REWRITINGS = 99


def rewrite(
    repository: Repository,
    owner: str,
    number: int,
    newest: ObjectInfo,
    older: Sequence[ObjectInfo],
    keep: npt.NDArray[np.bool_],
    job: Job,
) -> tuple[str, bytes]:
    """Store the frames that are marked in `keep` as the pack's next object; return its key and content.

    `newest` and `older` are its objects now. Every frame is opened and compared with its hash. Raises DataError for damage that
    no copy heals, and the store's errors; then nothing is changed.
    """
    if rewriting_of(newest) >= MOST_REWRITINGS:
        # One more digit would be a name that no reader knows.
        raise DataError("a pack cannot be rewritten once more", hint="take a full backup", key=newest.key)
    reader = repository.open_pack(newest, older)
    index = reader.index
    for each in older:
        if not _fits(index, _index_of(repository, each)):
            raise DataError("the objects of a pack do not fit each other", key=newest.key)
    context = repository.layout.pack_context(owner, number)
    builder = PackBuilder(repository.key, Kind.PACK, context, index.page_size, tags=index.tags is not None)
    done = 0
    for first, count in stretches(np.flatnonzero(keep), index.offsets):
        job.checkpoint()
        _leave_out(builder, index, done, first)
        sealed, begin = memoryview(reader.read_frames(first, count)), int(index.offsets[first])
        for frame in range(first, first + count):
            start, end = int(index.offsets[frame]) - begin, int(index.offsets[frame + 1]) - begin
            builder.add(reader.sealable(frame, sealed[start:end], repository.hashes))
        done = first + count
    _leave_out(builder, index, done, len(index.codecs))
    data = builder.finish()
    failpoint("compact.sealed")
    key = repository.create_pack(
        repository.layout.rewritten_pack(owner, number, rewriting_of(newest) + 1), data
    )
    failpoint("compact.stored")
    return key, data


def _leave_out(builder: PackBuilder, index: PackIndex, first: int, end: int) -> None:
    for length in index.plain_lengths[first:end].tolist():
        builder.leave_out(length)


def serves_for(
    repository: Repository, newest: ObjectInfo, old: ObjectInfo, live: npt.NDArray[np.bool_]
) -> bool:
    """Whether the newest object of a pack has the frames in `live`, and what it has is what the old one has. All of it is read,
    in this copy and nowhere else. Raises DataError if it is damaged.
    """
    index, before = read_whole(repository, newest), _index_of(repository, old)
    if len(live) != len(index.codecs) or (index.left_out & live).any() or not _fits(index, before):
        return False
    both = live if before is None else live & ~before.left_out
    return before is None or all(
        index.hash_of(frame) == before.hash_of(frame) for frame in np.flatnonzero(both).tolist()
    )


def _fits(index: PackIndex, before: PackIndex | None) -> bool:
    """Whether every page has its number in both; what cannot be read cannot be compared."""
    if before is None:
        return True
    return index.page_size == before.page_size and np.array_equal(index.plain_lengths, before.plain_lengths)


def _index_of(repository: Repository, info: ObjectInfo) -> PackIndex | None:
    try:
        return repository.open_pack(info).index
    except DataError:
        return None


def read_whole(repository: Repository, info: ObjectInfo) -> PackIndex:
    """Read all of a pack's object, in this copy and nowhere else. Raises DataError if it is damaged."""
    data = repository.bucket.read_range(info.key, 0, info.size)
    if not info.key.endswith(f"-{object_name(data)}"):
        raise DataError("a pack is damaged", key=info.key)
    folder, _slash, name = info.key.rpartition("/")
    context = f"{folder}/{name[:8]}"
    reader = PackReader(
        repository.key, Kind.PACK, context, info.size, lambda at, length: data[at : at + length]
    )
    for frame in np.flatnonzero(~reader.index.left_out).tolist():
        reader.frame(frame, repository.hashes)
    return reader.index
