"""What a backup tells of itself: its findings, and the manifest that commits it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg

from pgproof.actions.page_check import damaged_pages
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import LOGICAL, PHYSICAL, DumpedDatabase, Manifest, Standby, Tablespace
from pgproof.model.notices import finding_for
from pgproof.model.report import Finding
from pgproof.postgres.facts import ServerContext, ServerFacts
from pgproof.repository.map_store import StoredFiles
from pgproof.repository.repository import Repository


@dataclass
class BackupRecord:
    """Collects what is to be told while a backup runs. `base` is what it builds on, if anything."""

    backup_id: str
    type: BackupType
    started_at: datetime
    facts: ServerFacts
    base: Manifest | None
    change_detection: str
    findings: list[Finding]
    seconds: dict[str, float] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)
    standby: Standby | None = None
    _notices: list[Finding] = field(default_factory=list)

    def notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Take what the server says while it sends."""
        severity = diagnostic.severity_nonlocalized or diagnostic.severity or "WARNING"
        finding = finding_for(severity, diagnostic.message_primary or "")
        # The server reads directories twice, for its estimate and to send them.
        if finding is not None and finding not in self._notices:
            self._notices.append(finding)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - begun

    def conclude(
        self,
        repository: Repository,
        context: ServerContext,
        checksum_failure: str,
        files: StoredFiles,
        job: Job,
    ) -> None:
        """Add what the end of the backup and what it stored have to tell."""
        self.findings += [*context.findings, *self._notices]
        if checksum_failure:
            self.findings.append(Finding("page-checksum", f"the server reports: {checksum_failure}", True))
        if any(finding.kind == "page-checksum" for finding in self.findings):
            job.report("looking at damaged pages")
            self.findings.extend(
                damaged_pages(repository, files, self.facts.block_size, list(self.findings), job)
            )
        if files.reused_bytes:
            self.findings.append(resumed(files))
        if not self.facts.data_checksums:
            self.findings.append(
                Finding("no-checksums", "the cluster has no data checksums: damaged pages cannot be noticed")
            )

    def manifest(
        self,
        cluster: str,
        files: StoredFiles,
        wal_bytes: int,
        context: ServerContext,
        tablespaces: list[Tablespace],
        timeline: int,
        history: bytes,
        start: Lsn,
        stop: Lsn,
        databases: Sequence[DumpedDatabase] = (),
    ) -> Manifest:
        """With `databases` it is a logical one."""
        facts = self.facts
        return Manifest(
            backup_id=self.backup_id,
            cluster=cluster,
            type=self.type,
            method=LOGICAL if databases else PHYSICAL,
            parent_id=self.base.backup_id if self.base else None,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            size_bytes=files.size_bytes,
            stored_bytes=files.stored_bytes + wal_bytes,
            files=files.files,
            start_lsn=start,
            stop_lsn=stop,
            timeline=timeline,
            timeline_history=history,
            wal_segment_size=facts.wal_segment_size,
            system_identifier=facts.system_identifier,
            server_version=facts.version,
            block_size=facts.block_size,
            data_checksums=facts.data_checksums,
            change_detection=self.change_detection,
            maps=files.maps,
            packs=files.packs,
            tablespaces=tuple(tablespaces),
            external_config=context.external_config,
            settings=context.settings,
            findings=tuple(self.findings),
            seconds=self.seconds,
            pages=self.pages,
            standby=self.standby,
            databases=tuple(databases),
        )


def without_base(wanted: BackupType) -> Finding:
    base = "full backup" if wanted is BackupType.DIFFERENTIAL else "earlier backup"
    return Finding("no-base", f"there is no {base} to build on: everything was stored, as a full backup")


def without_summaries(reason: str) -> Finding:
    return Finding("summaries-not-used", f"pages were compared instead of using WAL summaries: {reason}")


def healed(given_up: Collection[str]) -> Finding:
    """`given_up` are the objects of the base that cannot be built on."""
    named = sorted(given_up)
    more = f" and {len(named) - 3:,} more" if len(named) > 3 else ""
    return Finding(
        "healed",
        "what the base has in damaged or missing objects was stored again; backups that name them stay damaged: "
        + ", ".join(named[:3])
        + more,
    )


def resumed(files: StoredFiles) -> Finding:
    return Finding(
        "resumed",
        f"{files.reused_bytes / 1e6:,.1f} MB of {files.size_bytes / 1e6:,.1f} MB had been stored by an "
        "interrupted run and were not stored again",
    )
