"""Small backups made by the engine's own writers, and the judge who compares what is listed and read with what was
put in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TypeVar

from campaigns.campaign import Campaign
from campaigns.s3_ground import attempt, count
from campaigns.small_repository import PAGE, SEGMENT_SIZE, SYSTEM_IDENTIFIER, wal_bytes
from pgproof.errors import TransientError
from pgproof.model.config import BackupType
from pgproof.model.filemap import FileEntry
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.manifest import Manifest, backup_id_for
from pgproof.repository.catalog import list_backups
from pgproof.repository.frame_stream import batches, read_batch
from pgproof.repository.intake import FileIntake
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.leases import hold_lease
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs, stored_frames
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_writer import WalWriter
from pgproof.repository.writer import PackWriter

T = TypeVar("T")
Files = dict[bytes, bytes]
_WAL_SEGMENTS = 2


@dataclass
class Life:
    """The backups of one cluster: what went into each that was begun, and which were reported done."""

    campaign: Campaign
    cluster: str
    random: Random
    begun: dict[str, Files] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    incomplete_lists: int = 0
    _segment: int = 16
    _judged: set[str] = field(default_factory=set)

    def back_up(self, repository: Repository) -> str:
        """One backup as take_backup makes it, of files instead of a server."""
        files = _files(self.random)
        at = datetime.now(UTC)
        backup_id = backup_id_for(at, BackupType.FULL, self.random.randbytes(3).hex())
        first = WalSegment.containing(1, Lsn(self._segment * SEGMENT_SIZE), SEGMENT_SIZE)
        self._segment += _WAL_SEGMENTS
        self.begun[backup_id] = files
        with hold_lease(repository, "backup") as lease:
            cluster = {"format": 1, "system_identifier": str(SYSTEM_IDENTIFIER)}
            repository.create_json(Kind.CLUSTER, repository.layout.cluster, cluster)
            dead = interrupted_runs(repository)
            intent = {"format": 1, "started_at": at.isoformat(), "parents": list(dead)}
            repository.create_json(Kind.INTENT, repository.layout.intent(backup_id), intent)
            known = stored_frames(repository, dead, PAGE, Job())
            with PackWriter(repository, backup_id, PAGE, 3, known, Job()) as packs:
                intake = FileIntake(repository, packs, (backup_id, *known.owners), PAGE)
                for path, content in files.items():
                    intake.begin(path, len(content), 0o600)
                    if content:
                        intake.data(memoryview(content))
                stored = intake.finish(Job())
            stop = _store_wal(repository, first)
            manifest = Manifest(
                backup_id=backup_id,
                cluster=repository.cluster,
                type=BackupType.FULL,
                method="physical",
                parent_id=None,
                started_at=at,
                finished_at=datetime.now(UTC),
                size_bytes=stored.size_bytes,
                stored_bytes=stored.stored_bytes,
                files=stored.files,
                start_lsn=first.start + 40,
                stop_lsn=stop + -100,
                timeline=1,
                wal_segment_size=SEGMENT_SIZE,
                system_identifier=str(SYSTEM_IDENTIFIER),
                server_version="18.6",
                block_size=PAGE,
                data_checksums=True,
                change_detection="none",
                maps=stored.maps,
                packs=stored.packs,
            )
            lease.check()
            _text, missing = check_objects(repository, manifest, Job())
            if missing:
                raise TransientError("objects are missing", hint="run it again", missing=missing[0])
            repository.commit(manifest)
        self.done.append(backup_id)
        return backup_id

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        return attempt(self.campaign, what, work)

    def look(self, repository: Repository) -> None:
        """List, verify and read back, while the store may do anything: nothing wrong may come of it."""
        shown = self.attempt("list", lambda: list_backups(repository))
        if shown is not None:
            good = {info.backup_id for info in shown if info.status == "ok"}
            assert good <= set(self.begun), f"a backup is listed that nobody took: {good - set(self.begun)}"
            if not set(self.done) <= {info.backup_id for info in shown}:
                self.incomplete_lists += 1
                count(self.campaign, "lists that were not complete")
            if len(good) < len(shown):
                count(self.campaign, "lists with an alarm")
        for backup_id in self.done[-2:]:
            self.attempt("verify", partial(self._verify, repository, backup_id))
            self.attempt("read back", partial(self._compare, repository, backup_id))

    def judge(self, repository: Repository, *, again: bool = False) -> None:
        """With a store that works again: everything reported done is listed, and everything listed is whole.

        What was found whole before is looked at `again` only where the store itself may have lost something.
        """
        if again:
            self._judged.clear()
        shown = list_backups(repository)
        ids = [info.backup_id for info in shown]
        assert all(info.status == "ok" for info in shown), f"damaged: {shown}"
        assert set(self.done) <= set(ids), f"reported done, but not listed: {set(self.done) - set(ids)}"
        assert set(ids) <= set(self.begun), f"listed, but never taken: {set(ids) - set(self.begun)}"
        for backup_id in sorted(set(ids) - self._judged):
            manifest = repository.read_manifest(backup_id)
            assert manifest is not None
            _text, missing = check_objects(repository, manifest, Job())
            _read, damage = check_frames(repository, manifest, Job())
            assert not missing and not damage, f"{backup_id} is listed and not whole: {missing} {damage}"
            self._compare(repository, backup_id)
            if backup_id not in self.done:
                count(self.campaign, "backups whole though the run failed")
                self.done.append(backup_id)
            self._judged.add(backup_id)
            count(self.campaign, "backups judged whole")

    def _verify(self, repository: Repository, backup_id: str) -> None:
        manifest = repository.read_manifest(backup_id)
        assert manifest is not None
        _text, missing = check_objects(repository, manifest, Job())
        _read, damage = check_frames(repository, manifest, Job())
        if missing or damage:
            count(self.campaign, "verifications with an alarm")

    def _compare(self, repository: Repository, backup_id: str) -> None:
        manifest = repository.read_manifest(backup_id)
        assert manifest is not None
        found = contents(repository, manifest)
        assert found == self.begun[backup_id], f"{backup_id} was read back wrong, and nobody said so"


def contents(repository: Repository, manifest: Manifest) -> Files:
    """Every file of a backup, read the way a restore reads."""
    found: dict[bytes, bytearray] = {}
    lock = threading.Lock()

    class Memory:
        def take(self, entry: FileEntry, file_page: int, pages: memoryview) -> None:
            with lock:
                file = found[entry.path]
                piece = pages[: len(file) - file_page * PAGE]
                file[file_page * PAGE : file_page * PAGE + len(piece)] = piece

        def close(self) -> None:
            pass

    for batch in batches(repository, manifest):
        # What no page is written to stays wrong, and is seen.
        found |= {entry.path: bytearray(b"\xee" * entry.size) for entry in batch.files}
        for _bytes in read_batch(repository, batch, manifest.block_size, Memory, 2, Job()):
            pass
    return {path: bytes(content) for path, content in found.items()}


def _files(random: Random) -> Files:
    """Half a megabyte that does not compress, some that does, and the shapes that files have."""
    found: Files = {b"base/1/%d" % n: random.randbytes(PAGE * random.randint(5, 30)) for n in range(4)}
    found |= {b"small/%d" % n: random.randbytes(random.randint(1, 2000)) for n in range(6)}
    found[b"base/1/large"] = random.randbytes(600_000)
    found[b"base/1/empty"] = b""
    found[b"base/1/text"] = b"the same again " * random.randint(1, 5000)
    return dict(sorted(found.items()))


def _store_wal(repository: Repository, first: WalSegment) -> Lsn:
    segment = first
    with WalWriter(repository, 1, first.start, SEGMENT_SIZE, 3) as wal:
        for _ in range(_WAL_SEGMENTS):
            content = wal_bytes(segment)
            wal.write(segment.start, memoryview(content + bytes(SEGMENT_SIZE - len(content))))
            segment = segment.next()
    wal.check()
    if wal.durable != segment.start:
        raise AssertionError("the WAL is not durable, and nobody said so")
    return segment.start
