"""Write a pack anew without the frames that no backup needs (docs/decisions/0019-compaction.md)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.pack_versions import rewriting_of
from pgproof.repository.packs import PackBuilder, PackReader
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind, object_name

# Rewritings are numbered with two digits.
MOST_REWRITINGS = 99


def rewrite(
    repository: Repository, owner: str, number: int, info: ObjectInfo, keep: npt.NDArray[np.bool_], job: Job
) -> tuple[str, bytes]:
    """Store the frames that are marked in `keep` as the pack's next object; return its key and content.

    `info` is its newest object. Every frame is opened and compared with its hash. Raises DataError for damage that no copy
    heals, and the store's errors; then nothing is changed.
    """
    reader = repository.open_pack(info)
    context = repository.layout.pack_context(owner, number)
    tags = reader.index.tags is not None
    builder = PackBuilder(repository.key, Kind.PACK, context, reader.index.page_size, tags=tags)
    for frame, wanted in enumerate(keep.tolist()):
        job.checkpoint()
        if wanted:
            builder.add(reader.sealable(frame, repository.hashes))
        else:
            builder.leave_out(int(reader.index.plain_lengths[frame]))
    data = builder.finish()
    failpoint("compact.sealed")
    key = repository.create_pack(
        repository.layout.rewritten_pack(owner, number, rewriting_of(info) + 1), data
    )
    failpoint("compact.stored")
    return key, data


def check_whole(repository: Repository, info: ObjectInfo) -> None:
    """Read all of a pack's object in this copy, and nowhere else. Raises DataError for damage."""
    data = repository.bucket.read_range(info.key, 0, info.size)
    if not info.key.endswith(f"-{object_name(data)}"):
        raise DataError("a pack is damaged", key=info.key)
    context = f"{info.key.rpartition('/')[0]}/{info.key.rpartition('/')[2][:8]}"
    reader = PackReader(
        repository.key, Kind.PACK, context, info.size, lambda at, length: data[at : at + length]
    )
    for frame in np.flatnonzero(~reader.index.left_out).tolist():
        reader.frame(frame, repository.hashes)
