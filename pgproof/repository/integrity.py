"""Whether a backup's objects are there, and whether every byte of them is what was stored."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pgproof.errors import DataError
from pgproof.model.filemap import FileEntry, numbers_of
from pgproof.model.job import Job
from pgproof.model.lsn import WalSegment
from pgproof.model.manifest import Manifest
from pgproof.model.wal_pages import check_first_page
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.compacting import read_whole
from pgproof.repository.escape_hatch import damaged_scripts
from pgproof.repository.frame_stream import batches, read_batch
from pgproof.repository.left_out import frames_left_out
from pgproof.repository.pack_versions import rewriting_of
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.unlocking import damaged_slots

_THREADS = max(2, os.cpu_count() or 1)
_AT_ONCE = 1000
_NAMED = 1000

Note = Callable[[DataError], None]


def check_objects(repository: Repository, manifest: Manifest, job: Job) -> tuple[str, list[str]]:
    """Look for every object that the backup names, without reading it, and for its frames in packs that were rewritten.

    Returns what was looked at in words, and the names of what is missing.
    """
    layout, bucket = repository.layout, repository.bucket
    missing: list[str] = []
    rewritten: dict[tuple[str, int], list[ObjectInfo]] = {}
    count = 0
    for owner, bitmap in manifest.packs.items():
        job.checkpoint()
        try:
            present = repository.pack_versions(owner)
        except DataError as error:
            missing.append(str(error))
            continue
        wanted = numbers_of(bitmap)
        rewritten |= {(owner, n): present[n] for n in wanted if n in present and rewriting_of(present[n][0])}
        count += len(wanted)
        absent = [n for n in wanted if n not in present]
        missing += [f"missing: {layout.pack_context(owner, n)}-*" for n in absent[:_NAMED]]
        if len(absent) > _NAMED:
            missing.append(f"missing: {len(absent) - _NAMED:,} more packs of {owner}")
    if rewritten:
        missing += frames_left_out(repository, manifest, rewritten, job)
    keys = [
        layout.intent(manifest.backup_id),
        layout.cluster,
        *(layout.map(ref.hash) for ref in manifest.maps),
        *(layout.segment(segment) for segment in manifest.wal_segments),
    ]
    # Asked for one by one: maps and WAL lie among those of every other backup, which may be a million.
    with ThreadPoolExecutor(8, thread_name_prefix="pgproof-look") as pool:
        for at in range(0, len(keys), _AT_ONCE):
            some = keys[at : at + _AT_ONCE]
            found = pool.map(lambda key: bucket.head(key) is not None, some)
            missing += [f"missing: {key}" for key, there in zip(some, found, strict=True) if not there]
    count += len(keys)
    return f"{count:,} objects", missing


def check_frames(repository: Repository, manifest: Manifest, job: Job) -> tuple[int, list[str]]:
    """Read, open and compare everything that the backup names.

    Returns the stored bytes read, and for each damage the object with the files and pages it hits.
    """
    damage: list[str] = []

    def note(error: DataError) -> None:
        damage.append(str(error).partition("\n")[0])

    _small_objects(repository, manifest, note)
    read = done = maps_damaged = 0
    reached: set[tuple[str, int]] = set()

    def note_map(error: DataError) -> None:
        nonlocal maps_damaged
        maps_damaged += 1
        note(error)

    for batch in batches(repository, manifest, note_map):
        packs = np.unique(batch.places[["owner", "pack"]])
        reached |= {(batch.owners[owner], pack) for owner, pack in packs.tolist()}
        for nbytes in read_batch(repository, batch, manifest.block_size, _Nowhere, _THREADS, job, note):
            done += nbytes
            job.report("reading", done, max(done, manifest.stored_bytes))
    if maps_damaged:
        read += _read_unreached(repository, manifest, reached, job, note)
    for segment in manifest.wal_segments:
        try:
            read += _read_wal(repository, manifest, segment, job)
        except DataError as error:
            note(error)
    return read + done, damage


def check_rewritten(repository: Repository, manifest: Manifest, job: Job) -> list[str]:
    """The damage in rewritten packs that nobody notices yet, because the objects before them serve in their place."""
    damage: list[str] = []
    for owner, bitmap in manifest.packs.items():
        present = repository.pack_versions(owner)
        for number in numbers_of(bitmap):
            newest, *older = present.get(number, (None,))
            if newest is not None and older:
                job.checkpoint()
                try:
                    read_whole(repository, newest)
                except DataError as error:
                    damage.append(f"{newest.key}: {error.message}")
    return damage


class _Nowhere:
    def take(self, entry: FileEntry, file_page: int, pages: memoryview) -> None:
        """Opening a frame has compared it already."""

    def close(self) -> None:
        pass


def _read_unreached(
    repository: Repository, manifest: Manifest, reached: set[tuple[str, int]], job: Job, note: Note
) -> int:
    """Packs that only damaged maps lead to may be damaged as well, and are better told now than after the repair."""
    read = 0
    for owner, bitmap in manifest.packs.items():
        try:
            present = repository.pack_versions(owner)
        except DataError as error:
            note(error)
            continue
        for number in numbers_of(bitmap):
            if number in present and (owner, number) not in reached:
                try:
                    newest, *older = present[number]
                    reader = repository.open_pack(newest, older)
                    for frame in np.flatnonzero(~reader.index.left_out).tolist():
                        job.checkpoint()
                        reader.frame(frame, repository.hashes)
                    read += newest.size
                except DataError as error:
                    note(error)
    return read


def _small_objects(repository: Repository, manifest: Manifest, note: Note) -> None:
    layout = repository.layout
    for kind, key in (
        (Kind.INTENT, layout.intent(manifest.backup_id)),
        (Kind.CLUSTER, layout.cluster),
        *(
            (Kind.VERIFICATION, i.key)
            for i in repository.bucket.list(layout.verifications(manifest.backup_id))
        ),
    ):
        try:
            repository.read_json(kind, key)
        except DataError as error:
            note(error)
    for damaged in (*damaged_slots(repository.bucket), *damaged_scripts(repository.bucket)):
        note(damaged)


def _read_wal(repository: Repository, manifest: Manifest, segment: WalSegment, job: Job) -> int:
    reader = repository.open_wal(segment)
    key = repository.layout.segment(segment)
    needed = min(segment.size, manifest.stop_lsn - segment.start)
    if not needed <= reader.index.plain_size <= segment.size:
        raise DataError("a WAL segment does not have its length", key=key, bytes=reader.index.plain_size)
    for frame in range(len(reader.index.codecs)):
        job.checkpoint()
        plain = reader.frame(frame, repository.hashes)
        if frame == 0:
            check_first_page(plain, segment, manifest.system_identifier, key)
    return int(reader.index.offsets[-1])
