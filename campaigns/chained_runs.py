"""Backups that build on others and on interrupted runs, without a server: the real intent and commit around made-up files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, cast

from campaigns.small_repository import PAGE, SEGMENT_SIZE, SYSTEM_IDENTIFIER
from campaigns.synthetic_runs import Files, append_wal, segment_at
from pgproof.actions.backup_commit import announce, commit
from pgproof.actions.backup_record import BackupRecord
from pgproof.actions.choose_base import choose_base
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from pgproof.model.lsn import WalSegment
from pgproof.model.manifest import Manifest, backup_id_for
from pgproof.repository.base import Base
from pgproof.repository.catalog import committed_ids
from pgproof.repository.intake import FileIntake
from pgproof.repository.leases import Lease
from pgproof.repository.map_store import StoredFiles
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs, stored_frames
from pgproof.repository.sealing import Kind
from pgproof.repository.writer import PackWriter

PATHS = (b"PG_VERSION", *(b"base/%d" % number for number in range(4)), b"global/pg_control")


@dataclass
class ChainedRun:
    """One backup on its way, without a lease: safety does not depend on it."""

    repository: Repository
    at: datetime
    kind: BackupType
    nonce: str
    files: Files
    position: int
    backup_id: str = ""
    manifest: Manifest | None = None

    def take(self) -> None:
        repository, job = self.repository, Job()
        repository.create_json(Kind.CLUSTER, repository.layout.cluster, described())
        committed = committed_ids(repository.bucket, repository.layout)
        base = choose_base(repository, committed, self.kind, PAGE)
        kind = self.kind if base is not None else BackupType.FULL
        self.backup_id = backup_id_for(self.at, kind, self.nonce, committed)
        record = BackupRecord(self.backup_id, kind, self.at, cast(Any, None), base, "compare", [])
        interrupted = interrupted_runs(repository)
        announce(repository, record, interrupted)
        stored = self._store(interrupted, base, job)
        wal = segment_at(1, self.position)
        acknowledged: list[WalSegment] = []
        append_wal(repository, [wal], acknowledged)
        assert acknowledged == [wal]
        manifest = self._manifest(kind, base, stored, wal)
        commit(repository, Lease(repository, "", 0), manifest, job)
        self.manifest = manifest

    def _store(self, interrupted: tuple[str, ...], base: Manifest | None, job: Job) -> StoredFiles:
        repository = self.repository
        known = stored_frames(repository, interrupted, PAGE, job)
        ours = (self.backup_id, *known.owners)
        with PackWriter(repository, self.backup_id, PAGE, 3, known, job, compares=base is not None) as packs:
            if base is None:
                return self._feed(FileIntake(repository, packs, ours, PAGE), job)
            with Base(repository, base, len(ours)) as old:
                return self._feed(FileIntake(repository, packs, (*ours, *old.owners), PAGE, old), job)

    def _feed(self, intake: FileIntake, job: Job) -> StoredFiles:
        for path, content in sorted(self.files.items()):
            if content is None:
                intake.directory(path, 0o700)
                continue
            intake.begin(path, len(content), 0o600)
            if content:
                intake.data(memoryview(content))
        return intake.finish(job)

    def _manifest(
        self, kind: BackupType, base: Manifest | None, stored: StoredFiles, wal: WalSegment
    ) -> Manifest:
        return Manifest(
            backup_id=self.backup_id,
            cluster=self.repository.cluster,
            type=kind,
            method="physical",
            parent_id=base.backup_id if base is not None else None,
            started_at=self.at,
            finished_at=self.at,
            size_bytes=stored.size_bytes,
            stored_bytes=stored.stored_bytes,
            files=stored.files,
            start_lsn=wal.start + 40,
            stop_lsn=wal.start + PAGE,
            timeline=1,
            wal_segment_size=SEGMENT_SIZE,
            system_identifier=str(SYSTEM_IDENTIFIER),
            server_version="18.6",
            block_size=PAGE,
            data_checksums=True,
            change_detection="compare" if base is not None else "none",
            maps=stored.maps,
            packs=stored.packs,
        )


def described() -> dict[str, Any]:
    """The record of the made-up cluster."""
    return {
        "format": 1,
        "system_identifier": str(SYSTEM_IDENTIFIER),
        "block_size": PAGE,
        "wal_segment_size": SEGMENT_SIZE,
    }


def first_files(random: Random) -> Files:
    found: Files = {path: random.randbytes(PAGE * random.randrange(4)) for path in PATHS}
    return found | {b"base": None, b"global": None}


def changed(random: Random, files: Files) -> Files:
    """Some pages are different, some files grow, shrink or have nothing new."""
    found = dict(files)
    for path in random.sample(PATHS, random.randrange(4)):
        content = bytearray(found[path] or b"")
        if content and random.random() < 0.7:
            at = random.randrange(len(content) // PAGE) * PAGE
            content[at : at + PAGE] = random.randbytes(PAGE)
        else:
            content = bytearray(random.randbytes(PAGE * random.randrange(4)))
        found[path] = bytes(content)
    return found
