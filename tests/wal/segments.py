"""WAL files as a server would leave them, made without one: a right first page, and noise behind it."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from pgproof.model.lsn import WalSegment
from pgproof.repository.bucket import Bucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind, RepositoryKey, Suite
from pgproof.repository.wal_archive import WalArchive

KEY = RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32)))
SIZE = 1 << 20
SYSTEM = 7_300_000_000_000_000_001
_LONG_HEADER = struct.Struct("<HHIQI4xQII")


def segment(number: int, timeline: int = 1) -> WalSegment:
    return WalSegment(timeline, number, SIZE)


def content(of: WalSegment, seed: int = 0, **changes: int) -> bytes:
    """A segment's bytes; `changes` are fields of its first page's header."""
    fields = {
        "magic": 0xD118,
        "info": 2,
        "timeline": of.timeline,
        "address": of.start.value,
        "left": 0,
        "system": SYSTEM,
        "size": of.size,
        "block": 8192,
        **changes,
    }
    chance = random.Random(f"{of.name}/{seed}")
    # Half of it compresses, as real WAL does.
    noise = chance.randbytes(of.size // 2 - 40)
    return (_LONG_HEADER.pack(*fields.values()) + noise).ljust(of.size, b"\0")


def archive_in(bucket: Bucket) -> WalArchive:
    repository = Repository(bucket, KEY, "main")
    described = {"format": 1, "system_identifier": str(SYSTEM), "block_size": 8192, "wal_segment_size": SIZE}
    repository.create_json(Kind.CLUSTER, repository.layout.cluster, described)
    return WalArchive.open(repository)


def leave(pg_wal: Path, of: WalSegment, *, seed: int = 0, ready: bool = True) -> Path:
    """Write a segment into pg_wal, and mark it as a server marks what is to be archived."""
    path = pg_wal / of.name
    path.write_bytes(content(of, seed))
    if ready:
        status = pg_wal / "archive_status"
        status.mkdir(exist_ok=True)
        (status / f"{of.name}.ready").touch()
    return path


def stored(archive: WalArchive, of: WalSegment) -> bytes | None:
    """What the repository holds of a segment."""
    read = archive.read_segment(of, archive.pieces_of(of))
    return read.data if read else None
