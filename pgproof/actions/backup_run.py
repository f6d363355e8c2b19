"""One backup on its way: intent, WAL and files, map, manifest; each durable before the next names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg

from pgproof.actions.audit_base import audit_for, finding, liars, limits_since, tell_on
from pgproof.actions.backup_commit import announce, commit
from pgproof.actions.backup_record import BackupRecord, healed
from pgproof.actions.backup_wal import wait_for_wal, wal_writer
from pgproof.actions.by_summaries import BySummaries
from pgproof.actions.choose_base import packs_known_damaged
from pgproof.actions.receive import Receiver
from pgproof.actions.standby import StandbySource
from pgproof.errors import DataError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.report import BackupInfo
from pgproof.model.summaries import SummariesUnusable
from pgproof.postgres.base_backup import BackupOptions, Event, Started, stream_base_backup
from pgproof.postgres.facts import read_context
from pgproof.postgres.wal_stream import SystemIdentity, WalStream, stream_wal, timeline_history
from pgproof.repository.audit import Audit, Omitted
from pgproof.repository.base import Base
from pgproof.repository.intake import FileIntake
from pgproof.repository.leases import Lease
from pgproof.repository.map_store import StoredFiles
from pgproof.repository.rebuild import Rebuild
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs, stored_frames
from pgproof.repository.wal_writer import WalWriter
from pgproof.repository.writer import PackWriter

_LOOK_EVERY = 16 << 20


class BackupRun:
    """One backup on its way; `take` is the recipe."""

    def __init__(
        self,
        postgres: PostgresConfig,
        config: BackupConfig,
        repository: Repository,
        lease: Lease,
        connection: psycopg.Connection[Any],
        record: BackupRecord,
        job: Job,
        server: PostgresConfig,
        standby: StandbySource | None = None,
    ) -> None:
        """`server` sends, `postgres` is the primary: the same, unless there is a `standby`."""
        self._postgres = postgres
        self._server = server
        self._standby = standby
        self._config = config
        self._repository = repository
        self._lease = lease
        self._connection = connection
        self._record = record
        self._facts = record.facts
        self._base = record.base
        self._job = job
        self._level = config.compression_level if config.compression else None
        self._interrupted = interrupted_runs(repository)
        self._history = b""
        self._liars: list[tuple[Manifest, list[Omitted]]] = []

    def take(self, summaries: BySummaries | None = None) -> BackupInfo:
        """Raises SummariesUnusable if only then it turns out that these cannot be used: nothing is committed."""
        record = self._record
        announce(self._repository, record, self._interrupted)
        failpoint("backup.intended")
        self._job.report("reading settings")
        context = read_context(self._postgres)
        failpoint("backup.context")
        with ExitStack() as stack:
            # The stream ends before the writer that takes what it brings.
            streaming = stream_wal(
                self._server,
                lambda *start: stack.enter_context(self._wal_writer(*start)),
                from_reserved=self._standby is not None,
            )
            stream, identity = stack.enter_context(streaming)
            failpoint("backup.streaming")
            receiver, files = self._receive(stream, summaries, identity.timeline)
            started, ended = receiver.started, receiver.ended
            if started is None or ended is None:
                raise DataError("the base backup has no start or no end")
            with record.timed("WAL"):
                wal_bytes = wait_for_wal(
                    stream,
                    self._wal,
                    ended.timeline,
                    ended.lsn,
                    self._facts.wal_segment_size,
                    self._lease,
                    self._job,
                    self._standby,
                )
        failpoint("backup.enough")
        record.conclude(self._repository, context, ended.checksum_failure, files, self._job)
        if not started.timeline == ended.timeline == identity.timeline:
            raise TransientError("the server changed its timeline during the backup", hint="run it again")
        manifest = record.manifest(
            self._repository.cluster,
            files,
            wal_bytes,
            context,
            receiver.tablespaces,
            started.timeline,
            self._history,
            started.lsn,
            ended.lsn,
        )
        commit(self._repository, self._lease, manifest, self._job)
        for liar in self._liars:
            tell_on(self._repository, *liar)
        return manifest.info()

    def _wal_writer(self, identity: SystemIdentity, start: Lsn, segment_size: int) -> WalWriter:
        self._wal = wal_writer(self._repository, self._facts, self._level, identity, start, segment_size)
        self._history = timeline_history(self._connection.pgconn, identity.timeline)
        if self._history:
            # Before any WAL of its timeline.
            self._repository.create_history(identity.timeline, self._history)
        return self._wal

    def _receive(
        self, stream: WalStream, summaries: BySummaries | None, timeline: int
    ) -> tuple[Receiver, StoredFiles]:
        self._connection.add_notice_handler(self._record.notice)
        options = BackupOptions(
            f"pgproof {self._record.backup_id}",
            self._config.fast_checkpoint,
            self._config.max_rate,
            incremental=summaries is not None,
        )
        if summaries is not None:
            summaries.upload(self._connection.pgconn)
        repository, page_size = self._repository, self._facts.block_size
        known = stored_frames(repository, self._interrupted, page_size, self._job)
        if known.owners:
            failpoint("backup.resumed")
        ours = (self._record.backup_id, *known.owners)
        with ExitStack() as stack:
            base = audit = None
            if self._base is not None:
                # The files of a standby may be older than the base.
                if summaries is None and self._standby is None:
                    audit = audit_for(self._base, self._facts, timeline, self._history)
                damaged = packs_known_damaged(repository, self._base)
                base = stack.enter_context(Base(repository, self._base, len(ours), damaged))
                failpoint("backup.based")
            writer = stack.enter_context(
                PackWriter(
                    repository,
                    self._record.backup_id,
                    page_size,
                    self._level,
                    known,
                    self._job,
                    compares=base is not None,
                    audit=audit,
                )
            )
            owners = (*ours, *(base.owners if base else ()))
            intake = FileIntake(repository, writer, owners, page_size, base)
            receiver = Receiver(intake, partial(self._on_start, summaries, base, audit))
            events = stream_base_backup(self._connection.pgconn, options, self._job)
            self._job.report("waiting for checkpoint")
            with self._record.timed("data"):
                try:
                    self._take(receiver, events, stream)
                except PreconditionError as error:
                    if self._standby is not None and receiver.started is not None:
                        raise self._standby.lost(error) from error
                    if summaries is None or receiver.started is not None:
                        raise
                    raise SummariesUnusable(f"the server refuses ({error.context.get('reason')})") from error
            failpoint("backup.received")
            with self._record.timed("storing"):
                self._job.report("storing the map")
                files = intake.finish(self._job)
            failpoint("backup.mapped")
            if base is not None and base.given_up:
                if summaries is not None:
                    raise SummariesUnusable("the base is damaged", object=min(base.given_up))
                self._record.findings.append(healed(base.given_up))
            if audit is not None and self._base is not None:
                self._record.pages = {"audited": audit.judged, "omitted": audit.count}
                self._liars = list(liars(repository, self._base, owners, audit))
                self._record.findings += [finding(*liar) for liar in self._liars]
            if summaries is not None and summaries.rebuild is not None:
                self._record.pages = summaries.rebuild.counts.to_json()
        return receiver, files

    def _on_start(
        self, summaries: BySummaries | None, base: Base | None, audit: Audit | None, started: Started
    ) -> Rebuild | None:
        if summaries is not None and base is not None:
            return summaries.rebuild_for(base, started)
        if audit is not None and self._base is not None:
            audit.limits = limits_since(self._postgres, self._facts, self._base, started.lsn)
        return None

    def _take(self, receiver: Receiver, events: Iterator[Event], stream: WalStream) -> None:
        next_look = 0
        for received in receiver.take(events):
            if received >= next_look:
                next_look = received + _LOOK_EVERY
                stream.check()
                self._lease.check()
                total = receiver.started.size_bytes if receiver.started else 0
                self._job.report("copying", received, max(total, received))
