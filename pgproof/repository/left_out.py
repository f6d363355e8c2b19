"""Whether a backup finds its frames in packs that were rewritten without what was thought to be of no use to anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.frame_stream import batches, by_pack
from pgproof.repository.repository import Repository

_NAMED = 20


def frames_left_out(
    repository: Repository,
    manifest: Manifest,
    rewritten: Mapping[tuple[str, int], Sequence[ObjectInfo]],
    job: Job,
) -> list[str]:
    """In words what is missing. `rewritten` are the objects of the packs to look into, by owner and number, newest first.

    Reads all maps of the backup, a batch at a time, and the indexes of these packs.
    """
    missing: list[str] = []
    numbers = np.array(sorted({number for _owner, number in rewritten}), np.uint32)
    for batch in batches(repository, manifest, lambda error: missing.append(str(error).partition("\n")[0])):
        owners = [
            number
            for number, owner in enumerate(batch.owners)
            if any(owner == each for each, _n in rewritten)
        ]
        places = batch.places[np.isin(batch.places["owner"], owners) & np.isin(batch.places["pack"], numbers)]
        for rows in by_pack(places):
            job.checkpoint()
            name = batch.owners[int(rows[0]["owner"])], int(rows[0]["pack"])
            if name not in rewritten:
                continue
            try:
                absent = _absent(repository, rewritten[name], rows)
            except DataError as error:
                missing.append(str(error).partition("\n")[0])
                continue
            if absent:
                context = repository.layout.pack_context(*name)
                missing.append(f"missing: {absent} frames of {context}-*, left out when it was rewritten")
    more = len(missing) - _NAMED
    return missing if more <= 0 else [*missing[:_NAMED], f"missing: frames of {more:,} more packs"]


def _absent(repository: Repository, objects: Sequence[ObjectInfo], rows: npt.NDArray[np.void]) -> int:
    """How many frames with these pages are in none of the objects."""
    firsts = rows["page"].astype(np.int64)
    absent: npt.NDArray[np.bool_] | None = None
    for info in objects:
        index = repository.open_pack(info).index
        if absent is None:
            absent = index.frames_of(firsts, firsts + rows["pages"])
        absent = absent & index.left_out
        if not absent.any():
            return 0
    return 0 if absent is None else int(np.count_nonzero(absent))
