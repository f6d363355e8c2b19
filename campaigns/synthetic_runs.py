"""What a backup does to a repository, in its order, without a server: files and WAL that are made up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from campaigns.small_repository import PAGE, SEGMENT_SIZE, SYSTEM_IDENTIFIER, wal_bytes
from pgproof.errors import ConflictError, DataError
from pgproof.model.config import BackupType
from pgproof.model.filemap import DIRECTORY, FileEntry
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.manifest import Manifest
from pgproof.repository import intake
from pgproof.repository import writer as pack_writer
from pgproof.repository.frame_stream import batches, read_batch
from pgproof.repository.intake import FileIntake
from pgproof.repository.integrity import check_objects
from pgproof.repository.map_store import StoredFiles
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs, stored_frames
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_writer import WalWriter
from pgproof.repository.writer import PackWriter

Files = dict[bytes, bytes | None]
"""The files of a backup by path; None for a directory."""

_DESCRIBED = {
    "format": 1,
    "system_identifier": str(SYSTEM_IDENTIFIER),
    "block_size": PAGE,
    "wal_segment_size": SEGMENT_SIZE,
}


@contextmanager
def small_packs(size: int = 64 << 10) -> Iterator[None]:
    """Packs end early, so that a backup of a few hundred kilobytes has several."""
    before, pack_writer.PACK_SIZE = pack_writer.PACK_SIZE, size
    try:
        yield
    finally:
        pack_writer.PACK_SIZE = before


@contextmanager
def small_frames(size: int) -> Iterator[None]:
    """Frames of few pages, so that a small pack has several, and some of them are of use no longer."""
    before = intake.FRAME_SIZE, pack_writer.FRAME_SIZE
    intake.FRAME_SIZE = pack_writer.FRAME_SIZE = size
    try:
        yield
    finally:
        intake.FRAME_SIZE, pack_writer.FRAME_SIZE = before


@dataclass
class SyntheticRun:
    """One backup on its way. `acknowledged` are the WAL segments of which it could say that they are durable."""

    repository: Repository
    backup_id: str
    at: datetime
    files: Files
    wal: WalSegment
    stored: StoredFiles | None = None
    acknowledged: list[WalSegment] = field(default_factory=list)

    def take(self) -> Manifest:
        self.begin()
        self.store()
        return self.commit()

    def begin(self) -> None:
        repository = self.repository
        repository.create_json(Kind.CLUSTER, repository.layout.cluster, _DESCRIBED)
        intent = {"format": 1, "started_at": self.at.isoformat(), "host": "here", "pid": 1, "parents": []}
        repository.create_json(Kind.INTENT, repository.layout.intent(self.backup_id), intent)

    def store(self) -> None:
        repository, job = self.repository, Job()
        runs = tuple(run for run in interrupted_runs(repository) if run != self.backup_id)
        known = stored_frames(repository, runs, PAGE, job)
        with PackWriter(repository, self.backup_id, PAGE, 3, known, job) as packs:
            intake = FileIntake(repository, packs, (self.backup_id, *known.owners), PAGE)
            for path, content in self.files.items():
                if content is None:
                    intake.directory(path, 0o700)
                    continue
                intake.begin(path, len(content), 0o600)
                if content:
                    intake.data(memoryview(content))
            self.stored = intake.finish(job)
        append_wal(repository, [self.wal], self.acknowledged)
        if self.wal not in self.acknowledged:
            raise AssertionError("the WAL is not durable, and nobody said so")

    def commit(self) -> Manifest:
        files = self.stored
        assert files is not None
        manifest = Manifest(
            backup_id=self.backup_id,
            cluster=self.repository.cluster,
            type=BackupType.FULL,
            method="physical",
            parent_id=None,
            started_at=self.at,
            finished_at=self.at,
            size_bytes=files.size_bytes,
            stored_bytes=files.stored_bytes,
            files=files.files,
            start_lsn=self.wal.start + 40,
            stop_lsn=self.wal.start + PAGE,
            timeline=self.wal.timeline,
            wal_segment_size=SEGMENT_SIZE,
            system_identifier=str(SYSTEM_IDENTIFIER),
            server_version="18.6",
            block_size=PAGE,
            data_checksums=True,
            change_detection="none",
            maps=files.maps,
            packs=files.packs,
        )
        _text, missing = check_objects(self.repository, manifest, Job())
        if missing:
            raise ConflictError("objects of this backup are gone", missing="; ".join(missing))
        self.repository.commit(manifest)
        return manifest


def append_wal(
    repository: Repository,
    segments: list[WalSegment],
    acknowledged: list[WalSegment],
    server: str = "ours",
) -> None:
    """Stream neighbouring segments as they come from `server`; those that may be acknowledged are added."""
    first = segments[0]
    writer = WalWriter(repository, first.timeline, first.start, first.size, 3)
    try:
        with writer:
            for segment in segments:
                writer.write(segment.start, memoryview(wal_content(segment, server)))
    finally:
        durable = writer.durable
        acknowledged += [segment for segment in segments if segment.end <= durable]
    writer.check()


def wal_content(segment: WalSegment, server: str = "ours") -> bytes:
    """One server writes one thing into a segment, however often it is asked for it."""
    noise = Random(f"{server} {segment.name}").randbytes(PAGE)
    content = wal_bytes(segment) + noise
    return content + bytes(segment.size - len(content))


def segment_at(timeline: int, number: int) -> WalSegment:
    return WalSegment.containing(timeline, Lsn(number * SEGMENT_SIZE), SEGMENT_SIZE)


def read_files(repository: Repository, manifest: Manifest) -> Files:
    """Every file of a backup as a restore reads it. Raises DataError for what is not what was stored."""
    found: dict[bytes, bytearray | None] = {}
    sizes: dict[bytes, int] = {}
    for batch in batches(repository, manifest):
        for entry in batch.files:
            found[entry.path] = None if entry.kind == DIRECTORY else bytearray(-(-entry.size // PAGE) * PAGE)
            sizes[entry.path] = entry.size
        for _read in read_batch(repository, batch, PAGE, lambda: _Memory(found), 1, Job()):
            pass
    for path, content in found.items():
        if content is not None and any(content[sizes[path] :]):
            raise DataError("the padding of a file is not zeros", path=path)
    return {path: None if data is None else bytes(data[: sizes[path]]) for path, data in found.items()}


def read_wal(repository: Repository, segment: WalSegment) -> bytes:
    reader = repository.open_wal(segment)
    frames = range(len(reader.index.codecs))
    return b"".join(reader.frame(number, repository.hashes) for number in frames)


@dataclass
class _Memory:
    """Takes the pages of a pack into the files' buffers."""

    files: dict[bytes, bytearray | None]
    turn: threading.Lock = field(default_factory=threading.Lock)

    def take(self, entry: FileEntry, file_page: int, pages: memoryview) -> None:
        buffer = self.files[entry.path]
        assert buffer is not None
        with self.turn:
            buffer[file_page * PAGE : file_page * PAGE + len(pages)] = pages

    def close(self) -> None:
        """Nothing is kept open."""
