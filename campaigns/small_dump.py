"""A logical backup of a few kilobytes in memory, whose map can be replaced by any other one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np

from campaigns.small_repository import PAGE, MemoryBucket, make_small
from pgproof.model.chunks import RECORD_SIZE, put_record
from pgproof.model.dump_files import DATABASES, GLOBALS, directory_of, dump_path
from pgproof.model.filemap import DIRECTORY, FILE, RUN_TYPE, SegmentBuilder, bitmap_of, decode_segment
from pgproof.model.manifest import LOGICAL, DumpedDatabase, Manifest, MapRef
from pgproof.repository.catalog import find_backup
from pgproof.repository.packs import Frame, PackBuilder, make_frame
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind

OID = 16385
OWNER = "20261123T220000Z-incremental-00000a"
BASE = "20261123T213000Z-full-00000b"
_TEXTS = {
    GLOBALS: [b"CREATE ROLE app;\n"],
    dump_path(OID, b"toc.dat"): [b"PGDMP and so on"],
    dump_path(OID, b"4711.dat"): [b"1\tone\n" * 2000, b"2\ttwo\n" * 900, b"\\.\n"],
    dump_path(OID, b"4712.dat"): [b"2\ttwo\n" * 900],
}


@dataclass(frozen=True)
class SmallDump:
    """`payload` is its map as it was written; the packs 0 of `OWNER` and of `BASE` hold its chunks."""

    bucket: MemoryBucket
    key: Repository
    manifest: Manifest
    payload: bytes

    def repository(self) -> Repository:
        """Over a copy of the objects."""
        return Repository(self.bucket.copy(), self.key.key, self.key.cluster)

    def with_map(self, repository: Repository, payload: bytes) -> Manifest:
        """The manifest with another map, which is stored. Raises DataError for what is none."""
        segment = decode_segment(payload, PAGE)
        name, _stored = repository.create_map(payload)
        ref = MapRef(name, segment.first, len(segment.files), segment.bytes, segment.pages)
        return replace(self.manifest, maps=(ref,))


def make_small_dump() -> SmallDump:
    small = make_small(Random(3), encrypted=False)
    repository = small.open()
    owners = (OWNER, BASE)
    builders = [
        PackBuilder(repository.key, Kind.PACK, repository.layout.pack_context(owner, 0), PAGE, tags=True)
        for owner in owners
    ]
    places: dict[bytes, tuple[int, int, int]] = {}
    segment = SegmentBuilder()
    for path in sorted([DATABASES, directory_of(OID), *_TEXTS]):
        rows, at = [], 0
        for text in _TEXTS.get(path, []):
            if text not in places:
                number = len(places) % 2
                frame = _record(repository, text)
                places[text] = number, builders[number].add(frame), frame.pages
            number, page, pages = places[text]
            rows.append((at, pages, number, 0, page))
            at += pages
        kind = FILE if path in _TEXTS else DIRECTORY
        segment.add(path, kind, at * PAGE, 0o600, np.array(rows, RUN_TYPE), owners)
    for owner, builder in zip(owners, builders, strict=True):
        repository.create_pack(repository.layout.pack_context(owner, 0), builder.finish())
    payload = segment.encode()
    physical = find_backup(repository, small.backups[0])
    manifest = replace(
        physical,
        backup_id=OWNER,
        method=LOGICAL,
        start_lsn=physical.stop_lsn,
        packs={owner: bitmap_of([0]) for owner in owners},
        databases=(DumpedDatabase(OID, "app", 20_000, "UTF8", "libc", "C", "C", "", 2, True),),
    )
    found = SmallDump(small.bucket, repository, manifest, payload)
    return replace(found, manifest=found.with_map(repository, payload))


def _record(repository: Repository, text: bytes) -> Frame:
    room = memoryview(bytearray(RECORD_SIZE))
    pages = put_record(memoryview(text), room, PAGE)
    return make_frame(repository.hashes, PAGE, 3, bytes(room[: pages * PAGE]))
