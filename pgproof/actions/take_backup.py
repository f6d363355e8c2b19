"""Take a physical backup: slot and WAL first, then the base backup, the manifest last.

Every type streams the whole cluster; a differential or incremental one does not store what its base has.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg

from pgproof.actions.choose_base import choose_base, packs_known_damaged
from pgproof.actions.cluster_identity import ensure_cluster
from pgproof.actions.opening import open_repository
from pgproof.actions.page_check import damaged_pages
from pgproof.actions.receive import Receiver
from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, segments_between
from pgproof.model.manifest import Manifest, backup_id_for
from pgproof.model.notices import finding_for
from pgproof.model.report import BackupInfo, Finding
from pgproof.postgres.base_backup import BackupOptions, Ended, Started, stream_base_backup
from pgproof.postgres.connection import connect_replication
from pgproof.postgres.facts import ServerContext, ServerFacts, read_context, read_facts
from pgproof.postgres.wal_stream import SystemIdentity, WalStream, stream_wal, timeline_history
from pgproof.repository.base import Base
from pgproof.repository.escape_hatch import ensure_restore_script
from pgproof.repository.intake import FileIntake, StoredFiles
from pgproof.repository.integrity import check_objects
from pgproof.repository.leases import Lease, hold_lease
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs, stored_frames
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_writer import WalWriter
from pgproof.repository.writer import PackWriter

_log = logging.getLogger(__name__)

_LOOK_EVERY = 16 << 20
_WAL_PATIENCE_SECONDS = 120.0


def take_backup(
    postgres: PostgresConfig, config: BackupConfig, backup_type: BackupType, job: Job
) -> BackupInfo:
    """Back up the cluster that `postgres` reaches; return the committed backup.

    Raises PreconditionError where something must be changed first, ConflictError if another backup of this
    cluster runs, TransientError where the same call may succeed later. Nothing is listed unless it is whole.
    """
    job.report("opening repository")
    repository = open_repository(config)
    with hold_lease(repository, "backup") as lease, closing(connect_replication(postgres)) as connection:
        failpoint("backup.leased")
        facts = read_facts(connection)
        failpoint("backup.connected")
        if facts.in_recovery:
            raise PreconditionError(
                "this server is a standby", hint="back up the primary; standbys come with a later version"
            )
        ensure_cluster(repository, facts)
        ensure_restore_script(repository.bucket)
        failpoint("backup.identified")
        base = choose_base(repository, backup_type, facts)
        findings = [] if base or backup_type is BackupType.FULL else [_without_base(backup_type)]
        kind = backup_type if base else BackupType.FULL
        run = _Run(postgres, config, repository, lease, connection, facts, base, kind, findings, job)
        return run.take()


def _without_base(wanted: BackupType) -> Finding:
    base = "full backup" if wanted is BackupType.DIFFERENTIAL else "earlier backup"
    return Finding("no-base", f"there is no {base} to build on: everything was stored, as a full backup")


class _Run:
    """One backup on its way; `take` is the recipe."""

    def __init__(
        self,
        postgres: PostgresConfig,
        config: BackupConfig,
        repository: Repository,
        lease: Lease,
        connection: psycopg.Connection[Any],
        facts: ServerFacts,
        base: Manifest | None,
        backup_type: BackupType,
        findings: list[Finding],
        job: Job,
    ) -> None:
        self._postgres = postgres
        self._config = config
        self._repository = repository
        self._lease = lease
        self._connection = connection
        self._facts = facts
        self._job = job
        self._level = config.compression_level if config.compression else None
        self._started_at = datetime.now(UTC)
        self._type = backup_type
        self._base = base
        self._backup_id = backup_id_for(self._started_at, backup_type, secrets.token_hex(3))
        self._interrupted = interrupted_runs(repository)
        self._seconds: dict[str, float] = {}
        self._findings_so_far = findings
        self._notices: list[Finding] = []
        self._history = b""

    def take(self) -> BackupInfo:
        self._repository.create_json(
            Kind.INTENT,
            self._repository.layout.intent(self._backup_id),
            {
                "format": 1,
                "started_at": self._started_at.isoformat(),
                "host": os.uname().nodename,
                "pid": os.getpid(),
                "parents": [*self._interrupted, *(self._base.packs if self._base else ())],
            },
        )
        failpoint("backup.intended")
        self._job.report("reading settings")
        context = read_context(self._postgres)
        failpoint("backup.context")
        with ExitStack() as stack:
            # The stream ends before the writer that takes what it brings.
            streaming = stream_wal(
                self._postgres, lambda *start: stack.enter_context(self._wal_writer(*start))
            )
            stream, identity = stack.enter_context(streaming)
            failpoint("backup.streaming")
            receiver, files = self._receive(stream)
            started, ended = receiver.started, receiver.ended
            if started is None or ended is None:
                raise DataError("the base backup has no start or no end")
            with self._timed("WAL"):
                wal_bytes = self._wait_for_wal(stream, ended)
        failpoint("backup.enough")
        findings = self._findings(context, ended, files)
        if not started.timeline == ended.timeline == identity.timeline:
            raise TransientError("the server changed its timeline during the backup", hint="run it again")
        manifest = self._manifest(receiver, started, ended, files, wal_bytes, context, findings)
        self._job.report("committing")
        self._lease.check()
        self._check_objects(manifest)
        failpoint("backup.checked")
        self._repository.commit(manifest)
        failpoint("backup.committed")
        _log.info(
            "backup committed id=%s status=%s size=%d stored=%d files=%d findings=%d seconds=%.1f",
            manifest.backup_id,
            manifest.status,
            manifest.size_bytes,
            manifest.stored_bytes,
            manifest.files,
            len(manifest.findings),
            (manifest.finished_at - manifest.started_at).total_seconds(),
        )
        return manifest.info()

    def _wal_writer(self, identity: SystemIdentity, start: Lsn, segment_size: int) -> WalWriter:
        if identity.system_identifier != self._facts.system_identifier:
            raise TransientError(
                "two connections reached two different clusters", hint="connect to one server"
            )
        self._history = timeline_history(self._connection.pgconn, identity.timeline)
        if self._history:
            # Before any WAL of its timeline.
            self._repository.create_history(identity.timeline, self._history)
        self._wal = WalWriter(self._repository, identity.timeline, start, segment_size, self._level)
        return self._wal

    def _receive(self, stream: WalStream) -> tuple[Receiver, StoredFiles]:
        self._connection.add_notice_handler(self._notice)
        options = BackupOptions(
            f"pgproof {self._backup_id}", self._config.fast_checkpoint, self._config.max_rate
        )
        repository, page_size = self._repository, self._facts.block_size
        known = stored_frames(repository, self._interrupted, page_size, self._job)
        if known.owners:
            failpoint("backup.resumed")
        ours = (self._backup_id, *known.owners)
        with ExitStack() as stack:
            base = None
            if self._base is not None:
                damaged = packs_known_damaged(repository, self._base)
                base = stack.enter_context(Base(repository, self._base, len(ours), damaged))
                failpoint("backup.based")
            writer = stack.enter_context(
                PackWriter(
                    repository,
                    self._backup_id,
                    page_size,
                    self._level,
                    known,
                    self._job,
                    compares=base is not None,
                )
            )
            owners = (*ours, *(base.owners if base else ()))
            intake = FileIntake(repository, writer, owners, page_size, base)
            receiver = Receiver(intake)
            events = stream_base_backup(self._connection.pgconn, options, self._job)
            self._job.report("waiting for checkpoint")
            with self._timed("data"):
                next_look = 0
                for received in receiver.take(events):
                    if received >= next_look:
                        next_look = received + _LOOK_EVERY
                        stream.check()
                        self._lease.check()
                        total = receiver.started.size_bytes if receiver.started else 0
                        self._job.report("copying", received, max(total, received))
            failpoint("backup.received")
            with self._timed("storing"):
                self._job.report("storing the map")
                files = intake.finish(self._job)
            failpoint("backup.mapped")
            if base is not None and base.given_up:
                self._findings_so_far.append(_healed(base))
        return receiver, files

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        severity = diagnostic.severity_nonlocalized or diagnostic.severity or "WARNING"
        finding = finding_for(severity, diagnostic.message_primary or "")
        # The server reads directories twice, for its estimate and to send them.
        if finding is not None and finding not in self._notices:
            self._notices.append(finding)

    def _wait_for_wal(self, stream: WalStream, ended: Ended) -> int:
        """Until the segment with the stop position is stored; return the WAL bytes stored by us."""
        failpoint("backup.waiting")
        self._job.report("waiting for WAL")
        size = self._facts.wal_segment_size
        wanted = segments_between(ended.timeline, ended.lsn, ended.lsn, size)[-1].end
        patience, durable = time.monotonic() + _WAL_PATIENCE_SECONDS, self._wal.durable
        while self._wal.durable < wanted:
            stream.check()
            self._lease.check()
            if self._wal.durable != durable:
                patience, durable = time.monotonic() + _WAL_PATIENCE_SECONDS, self._wal.durable
            if time.monotonic() > patience:
                raise TransientError(
                    "the WAL of the backup does not arrive",
                    hint="run it again; if it stays, look for a server that does not finish its WAL segment",
                    stored_to=durable,
                    needed=wanted,
                )
            self._job.checkpoint()
            self._job.stop.wait(0.02)
        return self._wal.stored_bytes

    def _findings(self, context: ServerContext, ended: Ended, files: StoredFiles) -> list[Finding]:
        findings = [*self._findings_so_far, *context.findings, *self._notices]
        if ended.checksum_failure:
            findings.append(Finding("page-checksum", f"the server reports: {ended.checksum_failure}", True))
        if any(finding.kind == "page-checksum" for finding in findings):
            self._job.report("looking at damaged pages")
            findings.extend(
                damaged_pages(self._repository, files, self._facts.block_size, findings, self._job)
            )
        if files.reused_bytes:
            findings.append(
                Finding(
                    "resumed",
                    f"{files.reused_bytes / 1e6:,.1f} MB of {files.size_bytes / 1e6:,.1f} MB had been stored by an "
                    "interrupted run and were not stored again",
                )
            )
        if not self._facts.data_checksums:
            findings.append(
                Finding("no-checksums", "the cluster has no data checksums: damaged pages cannot be noticed")
            )
        return findings

    def _check_objects(self, manifest: Manifest) -> None:
        """What the manifest names is there, at the last moment before it is told."""
        _text, missing = check_objects(self._repository, manifest, self._job)
        if missing:
            raise ConflictError(
                "objects of this backup are gone from the repository",
                hint="something else deletes here; find it, then take the backup again",
                missing="; ".join(missing[:3]),
            )

    def _manifest(
        self,
        receiver: Receiver,
        started: Started,
        ended: Ended,
        files: StoredFiles,
        wal_bytes: int,
        context: ServerContext,
        findings: list[Finding],
    ) -> Manifest:
        facts = self._facts
        return Manifest(
            backup_id=self._backup_id,
            cluster=self._repository.cluster,
            type=self._type,
            method="physical",
            parent_id=self._base.backup_id if self._base else None,
            started_at=self._started_at,
            finished_at=datetime.now(UTC),
            size_bytes=files.size_bytes,
            stored_bytes=files.stored_bytes + wal_bytes,
            files=files.files,
            start_lsn=started.lsn,
            stop_lsn=ended.lsn,
            timeline=started.timeline,
            timeline_history=self._history,
            wal_segment_size=facts.wal_segment_size,
            system_identifier=facts.system_identifier,
            server_version=facts.version,
            block_size=facts.block_size,
            data_checksums=facts.data_checksums,
            change_detection="compare" if self._base else "none",
            maps=files.maps,
            packs=files.packs,
            tablespaces=tuple(receiver.tablespaces),
            external_config=context.external_config,
            settings=context.settings,
            findings=tuple(findings),
            seconds=self._seconds,
        )

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._seconds[phase] = time.monotonic() - begun


def _healed(base: Base) -> Finding:
    named = sorted(base.given_up)
    more = f" and {len(named) - 3:,} more" if len(named) > 3 else ""
    return Finding(
        "healed",
        "what the base has in damaged or missing objects was stored again; backups that name them stay damaged: "
        + ", ".join(named[:3])
        + more,
    )
