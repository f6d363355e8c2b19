"""Whole repositories of a few kilobytes, written by the engine's own functions, and a bucket to try things in.

Small, because a check of everything in one then takes milliseconds and can be repeated 200,000 times.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

import crc32c
import numpy as np

from pgproof.errors import ConflictError, DataError
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.filemap import DIRECTORY, FILE, RUN_TYPE, ZEROS, SegmentBuilder, bitmap_of, numbers_of
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.manifest import Manifest, MapRef, backup_id_for
from pgproof.model.report import VerificationReport
from pgproof.model.source_files import CONTROL_FILE
from pgproof.repository import keyring, layout
from pgproof.repository.bucket import Bucket, ObjectInfo
from pgproof.repository.catalog import store_verification
from pgproof.repository.compacting import rewrite
from pgproof.repository.escape_hatch import ensure_restore_script
from pgproof.repository.frame_stream import batches
from pgproof.repository.leases import identity
from pgproof.repository.packs import Frame, PackBuilder, make_frame
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.unlocking import make_repository, unlock

PAGE = 8192
SEGMENT_SIZE = 1 << 20
SYSTEM_IDENTIFIER = 7_300_000_000_000_000_001
BEGUN = datetime(2026, 11, 23, 21, 30, tzinfo=UTC)
_CONTROL_VERSION, _CATALOG_VERSION, _CRC_AT = 1800, 202506291, 292


@dataclass
class MemoryBucket:
    """Objects in a dictionary; the store's clock says `now` until somebody changes it."""

    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    now: datetime = BEGUN
    location: str = "memory"

    def copy(self) -> MemoryBucket:
        return MemoryBucket(dict(self.objects), self.now)

    def put(self, key: str, data: bytes) -> None:
        """Bring any bytes under any name, as a rotten disk or an intruder would."""
        self.objects[key] = (data, self.now)

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise DataError("an object is missing", key=key)
        return self.objects[key][0]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = self.read(key)[start : start + length]
        if len(data) != length:
            raise DataError("an object is shorter than expected", key=key, wanted=start + length)
        return data

    def create(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise ConflictError("an object of this name exists", key=key)
        self.put(key, data)

    def head(self, key: str) -> ObjectInfo | None:
        found = self.objects.get(key)
        return ObjectInfo(key, len(found[0]), found[1]) if found else None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        for key, (data, modified) in list(self.objects.items()):
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key, len(data), modified)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


@dataclass(frozen=True)
class Small:
    """A repository with backups, what opens it, and what is in each backup by path (None for directories)."""

    bucket: MemoryBucket
    secret: str | None
    cluster: str
    backups: tuple[str, ...]
    contents: dict[str, dict[bytes, bytes | None]]
    # Places of an object that nobody reads, because they hold nothing: where frames were left out.
    unread: dict[str, list[range]] = field(default_factory=dict)

    @property
    def encrypted(self) -> bool:
        return self.secret is not None

    def alike(self, key: str, content: bytes) -> bool:
        """Whether all that anybody reads of this object is what it was."""
        data = self.bucket.read(key)
        changed = [at for at, (old, new) in enumerate(zip(data, content, strict=False)) if old != new]
        unread = self.unread.get(key, ())
        return len(data) == len(content) and all(any(at in empty for empty in unread) for at in changed)

    def open(self, bucket: Bucket | None = None) -> Repository:
        """Open as the engine does; another bucket than our own may be given."""
        store = bucket or self.bucket
        return Repository(store, unlock(store, self.secret, self.encrypted).key, self.cluster)


def small_and_large(random: Random, *, encrypted: bool) -> list[Small]:
    """One whose objects are all small, and one whose pack and WAL have hundreds of kilobytes."""
    return [make_small(random, encrypted=encrypted), make_small(random, encrypted=encrypted, noise=200_000)]


def make_small(
    random: Random, *, encrypted: bool, backups: int = 1, cluster: str = "main", noise: int = 3000
) -> Small:
    """A repository with an object of every kind; a backup after the first refers to packs of the one before.

    `noise` is how many bytes in its pages and in its WAL do not compress: they make larger objects.
    """
    bucket = MemoryBucket()
    recovery_key = make_repository(bucket, "of the operator" if encrypted else None, encrypted, BEGUN)
    if encrypted:
        _keep_quick_slot(bucket)
    found = Small(bucket, recovery_key, cluster, (), {})
    repository = found.open()
    made = _Backups(repository, random, noise)
    ids = tuple(made.add(number) for number in range(backups))
    ensure_restore_script(bucket)
    lease = {"format": 1, **identity(), "nonce": "0" * 16}
    repository.create_json(Kind.LEASE, f"{repository.layout.leases('backup')}0000000001", lease)
    return Small(bucket, recovery_key, cluster, ids, made.contents)


def make_compacted(random: Random, *, encrypted: bool) -> Small:
    """One whose first backup was removed, its pack rewritten for what the second needs of it, and all else of it is gone."""
    small = make_small(random, encrypted=encrypted, backups=2)
    repository = small.open()
    removed, kept = small.backups
    manifest = repository.read_manifest(kept)
    assert manifest is not None
    (number,) = numbers_of(manifest.packs[removed])
    newest = repository.pack_versions(removed)[number][0]
    index = repository.open_pack(newest).index
    live = np.zeros(len(index.codecs), np.bool_)
    for batch in batches(repository, manifest):
        of_removed = batch.places[batch.places["owner"] == batch.owners.index(removed)]
        firsts = of_removed["page"].astype(np.int64)
        live |= index.frames_of(firsts, firsts + of_removed["pages"])
    assert live.any() and not live.all()
    key, _data = rewrite(repository, removed, number, newest, (), live, Job())
    layout = repository.layout
    needed = {
        key,
        *(layout.map(ref.hash) for ref in manifest.maps),
        *map(layout.segment, manifest.wal_segments),
    }
    for old in [
        old for old in small.bucket.objects if removed in old or old.startswith((layout.maps, layout.wal))
    ]:
        if old not in needed:
            small.bucket.delete(old)
    index = repository.open_pack(repository.pack_versions(removed)[number][0]).index
    empty = [
        range(int(index.offsets[frame]), int(index.offsets[frame + 1]))
        for frame in np.flatnonzero(index.left_out).tolist()
    ]
    return replace(small, backups=(kept,), contents={kept: small.contents[kept]}, unread={key: empty})


def _keep_quick_slot(bucket: MemoryBucket) -> None:
    """Only the recovery key opens it: a passphrase takes 0.1 seconds by design."""
    for info in list(bucket.list(layout.KEYS)):
        slot = keyring.describe_slot(bucket.read(layout.REPOSITORY), bucket.read(info.key))
        if slot is not None and slot.kind == keyring.PASSPHRASE:
            bucket.delete(info.key)


class _Backups:
    def __init__(self, repository: Repository, random: Random, noise: int) -> None:
        self._repository = repository
        self._noise = noise
        self._random = random
        self._earlier: tuple[str, int, int] | None = None
        self.contents: dict[str, dict[bytes, bytes | None]] = {}

    def add(self, number: int) -> str:
        repository = self._repository
        at = BEGUN + timedelta(hours=number)
        backup_id = backup_id_for(at, BackupType.FULL, f"{self._random.randrange(1 << 24):06x}")
        wal = WalSegment.containing(1, Lsn((5 + number) * SEGMENT_SIZE), SEGMENT_SIZE)
        contents = small_contents(self._random, wal.start, self._noise)
        intent = {"format": 1, "started_at": at.isoformat(), "host": "here", "pid": 1, "parents": []}
        repository.create_json(Kind.INTENT, repository.layout.intent(backup_id), intent)
        if number == 0:
            described = {"format": 1, "system_identifier": str(SYSTEM_IDENTIFIER), "block_size": PAGE}
            described |= {"wal_segment_size": SEGMENT_SIZE}
            repository.create_json(Kind.CLUSTER, repository.layout.cluster, described)
        manifest = self._manifest(backup_id, at, wal, contents)
        builder = PackBuilder(repository.key, Kind.WAL, repository.layout.segment(wal), PAGE, tags=False)
        builder.add(_frame(repository, wal_bytes(wal) + self._random.randbytes(self._noise // PAGE * PAGE)))
        repository.create_wal(wal, builder)
        repository.commit(manifest)
        report = VerificationReport(backup_id, VerifyLevel.FRAMES, True, False, at, 1.0, 1)
        store_verification(repository, report)
        self.contents[backup_id] = contents
        return backup_id

    def _manifest(
        self, backup_id: str, at: datetime, wal: WalSegment, contents: dict[bytes, bytes | None]
    ) -> Manifest:
        repository = self._repository
        builders = [PackBuilder(repository.key, Kind.PACK, repository.layout.pack_context(backup_id, number), PAGE, tags=True)
                    for number in range(2)]  # fmt: skip
        # Two maps and two packs, so that some can change places.
        segments = [SegmentBuilder(), SegmentBuilder()]
        owners = (backup_id, *([self._earlier[0]] if self._earlier else []))
        paths = sorted(contents)
        for place, path in enumerate(paths):
            half = 0 if place < len(paths) // 2 else 1
            content, runs = contents[path], np.empty(0, RUN_TYPE)
            if content is not None and content:
                pages = -(-len(content) // PAGE)
                if not any(content):
                    runs = np.array([(0, pages, ZEROS, 0, 0)], RUN_TYPE)
                elif path == b"shared" and self._earlier is not None:
                    runs = np.array([(0, pages, 1, *self._earlier[1:])], RUN_TYPE)
                else:
                    padded = content + bytes(-len(content) % PAGE)
                    first = builders[half].add(_frame(repository, padded))
                    runs = np.array([(0, pages, 0, half, first)], RUN_TYPE)
                    if path == b"shared":
                        self._earlier = (backup_id, half, first)
            kind = DIRECTORY if content is None else FILE
            segments[half].add(
                path, kind, len(content or b""), 0o700 if content is None else 0o600, runs, owners
            )
        for number, builder in enumerate(builders):
            repository.create_pack(repository.layout.pack_context(backup_id, number), builder.finish())
        refs = []
        for segment in segments:
            name, _stored = repository.create_map(segment.encode())
            refs.append(MapRef(name, segment.first, len(segment), segment.bytes, segment.pages))
        packs = {backup_id: bitmap_of([0, 1])}
        if self._earlier and self._earlier[0] != backup_id:
            packs[self._earlier[0]] = bitmap_of([self._earlier[1]])
        return Manifest(
            backup_id=backup_id,
            cluster=repository.cluster,
            type=BackupType.FULL,
            method="physical",
            parent_id=None,
            started_at=at,
            finished_at=at,
            size_bytes=sum(ref.bytes for ref in refs),
            stored_bytes=1,
            files=sum(ref.files for ref in refs),
            start_lsn=wal.start + 40,
            stop_lsn=wal.start + PAGE,
            timeline=1,
            wal_segment_size=SEGMENT_SIZE,
            system_identifier=str(SYSTEM_IDENTIFIER),
            server_version="18.6",
            block_size=PAGE,
            data_checksums=True,
            change_detection="none",
            maps=tuple(refs),
            packs=packs,
            settings={"work_mem": "4MB"},
        )


def _frame(repository: Repository, data: bytes) -> Frame:
    frame = make_frame(repository.hashes, PAGE, 3, data)
    assert isinstance(frame, Frame)
    return frame


SHARED = b"the same in every backup " * 100


def small_contents(random: Random, start: Lsn, noise: int) -> dict[bytes, bytes | None]:
    """The files of a backup: the two that a restore insists on, and a few of every shape."""
    label = f"START WAL LOCATION: {start + 40} (file 000000010000000000000000)\n"
    return {
        b"PG_VERSION": b"18\n",
        b"backup_label": label.encode(),
        b"base": None,
        b"base/1": None,
        b"base/1/compressible": b"page " * 4000,
        b"base/1/empty": b"",
        b"base/1/noise": random.randbytes(noise),
        b"base/1/zeros": bytes(PAGE * 3),
        b"global": None,
        CONTROL_FILE: control_file(),
        b"pg_tblspc": None,
        b"pg_wal": None,
        b"shared": SHARED,
        b"zzz": random.randbytes(50),
    }


def control_file() -> bytes:
    """A pg_control of PostgreSQL 18 that says what a restore asks it."""
    data = bytearray(PAGE)
    struct.pack_into("<QIIi", data, 0, SYSTEM_IDENTIFIER, _CONTROL_VERSION, _CATALOG_VERSION, 6)
    struct.pack_into("<QQI", data, 32, 5 * SEGMENT_SIZE + 40, 5 * SEGMENT_SIZE + 40, 1)
    struct.pack_into("<i?3x5i?", data, 172, 1, False, 100, 8, 10, 0, 64, False)
    struct.pack_into("<4I", data, 216, PAGE, 131072, PAGE, SEGMENT_SIZE)
    struct.pack_into("<I", data, 252, 1)
    struct.pack_into("<I", data, _CRC_AT, crc32c.crc32c(bytes(data[:_CRC_AT])))
    return bytes(data)


def wal_bytes(segment: WalSegment) -> bytes:
    """The first pages of a segment: a long header, then nothing."""
    data = bytearray(2 * PAGE)
    struct.pack_into(
        "<HHIQI4xQII", data, 0, 0xD118, 2, segment.timeline, segment.start.value, 0, SYSTEM_IDENTIFIER, segment.size, PAGE
    )  # fmt: skip
    return bytes(data)
