"""Whether a backup finds its frames in packs that were rewritten without what was thought to be of no use to anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.frame_stream import batches, by_pack
from pgproof.repository.packs import PackIndex
from pgproof.repository.repository import Repository

_NAMED = 20
_AT_ONCE = 8
_BATCH = 256


def frames_left_out(
    repository: Repository,
    manifest: Manifest,
    rewritten: Mapping[tuple[str, int], Sequence[ObjectInfo]],
    job: Job,
) -> list[str]:
    """In words what is missing. `rewritten` are the objects of the packs to look into, by owner and number, newest first.

    Reads the indexes of these packs, of which it keeps a few hundred bytes each, and all maps of the backup, a batch at a time.
    """
    missing: list[str] = []
    absent = _left_out_everywhere(repository, rewritten, missing, job)
    owners = {owner for owner, _number in absent}
    numbers = np.array(sorted({number for _owner, number in absent}), np.uint32)
    if not absent:
        return missing
    for batch in batches(repository, manifest, lambda error: missing.append(_told(error))):
        ours = [number for number, owner in enumerate(batch.owners) if owner in owners]
        places = batch.places[np.isin(batch.places["owner"], ours) & np.isin(batch.places["pack"], numbers)]
        for rows in by_pack(places):
            job.checkpoint()
            name = batch.owners[int(rows[0]["owner"])], int(rows[0]["pack"])
            if name not in absent:
                continue
            index, frames = absent[name]
            firsts = rows["page"].astype(np.int64)
            try:
                count = int(np.count_nonzero(index.frames_of(firsts, firsts + rows["pages"]) & frames))
            except DataError as error:
                missing.append(_told(error))
                continue
            if count:
                context = repository.layout.pack_context(*name)
                missing.append(f"missing: {count} frames of {context}-*, left out when it was rewritten")
    more = len(missing) - _NAMED
    return missing if more <= 0 else [*missing[:_NAMED], f"missing: frames of {more:,} more packs"]


def _left_out_everywhere(
    repository: Repository,
    rewritten: Mapping[tuple[str, int], Sequence[ObjectInfo]],
    missing: list[str],
    job: Job,
) -> dict[tuple[str, int], tuple[PackIndex, npt.NDArray[np.bool_]]]:
    """The packs of which some frames are in none of their objects, with an index and which frames these are."""

    def look(name: tuple[str, int]) -> tuple[PackIndex, npt.NDArray[np.bool_]] | DataError:
        found: tuple[PackIndex, npt.NDArray[np.bool_]] | None = None
        damage = DataError("a pack is missing", key=f"{repository.layout.pack_context(*name)}-*")
        for info in rewritten[name]:
            try:
                # Of this object alone: another one in its place would not lack what it lacks.
                index = repository.open_pack(info).index
            except DataError as error:
                damage = error
                continue
            frames = index.left_out if found is None else found[1] & index.left_out
            found = replace(index, hashes=b"", tags=None), frames
            if not frames.any():
                break
        return damage if found is None else found

    names, absent = sorted(rewritten), {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-index") as pool:
        for at in range(0, len(names), _BATCH):
            job.checkpoint()
            some = names[at : at + _BATCH]
            for name, found in zip(some, pool.map(look, some), strict=True):
                if isinstance(found, DataError):
                    missing.append(_told(found))
                elif found[1].any():
                    absent[name] = found
    return absent


def _told(error: DataError) -> str:
    return str(error).partition("\n")[0]
