"""Take a backup, by the method that is asked for or that the server allows.

A physical one: slot and WAL first, then the base backup, the manifest last. A differential or incremental one streams the
whole cluster as well and does not store what its base has; or, by WAL summaries, the server sends only what changed.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import closing
from datetime import UTC, datetime

import psycopg

from pgproof.actions.backup_record import BackupRecord, without_base, without_summaries
from pgproof.actions.backup_run import BackupRun
from pgproof.actions.by_summaries import BySummaries
from pgproof.actions.choose_base import choose_base, newest_method
from pgproof.actions.cluster_identity import ensure_cluster
from pgproof.actions.opening import open_repository
from pgproof.actions.standby import StandbySource, standby_server
from pgproof.actions.unlocking import Unlocking
from pgproof.errors import EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, BackupMethod, BackupType, ChangeDetection, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.manifest import LOGICAL, PHYSICAL, Manifest, backup_id_for
from pgproof.model.report import BackupInfo, Finding
from pgproof.model.summaries import SummariesUnusable
from pgproof.postgres.connection import connect, connect_replication
from pgproof.postgres.facts import ServerFacts, read_facts, read_ordinary_facts
from pgproof.repository.catalog import committed_ids
from pgproof.repository.escape_hatch import ensure_restore_script
from pgproof.repository.leases import Lease, hold_lease
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)


def take_backup(
    postgres: PostgresConfig,
    config: BackupConfig,
    backup_type: BackupType,
    job: Job,
    unlocking: Unlocking | None = None,
) -> BackupInfo:
    """Back up the cluster that `postgres` reaches; return the committed backup.

    Raises PreconditionError where something must be changed first, ConflictError if another backup of this
    cluster runs, TransientError where the same call may succeed later. Nothing is listed unless it is whole.
    """
    job.report("opening repository")
    repository = open_repository(config, unlocking)
    with hold_lease(repository, "backup") as lease:
        if config.logical_only:
            return _take_logical(postgres, config, backup_type, repository, lease, job)
        server = standby_server(postgres, config.standby) if config.standby else postgres
        try:
            connection = connect_replication(server)
        except PreconditionError as refusal:
            if not _may_be_logical(config, repository):
                raise
            return _take_instead(postgres, config, backup_type, repository, lease, job, refusal)
        return _take_physical(postgres, server, config, backup_type, repository, lease, connection, job)


def _take_physical(
    postgres: PostgresConfig,
    server: PostgresConfig,
    config: BackupConfig,
    backup_type: BackupType,
    repository: Repository,
    lease: Lease,
    first: psycopg.Connection[tuple[object, ...]],
    job: Job,
) -> BackupInfo:
    with closing(first) as connection:
        failpoint("backup.leased")
        facts = read_facts(connection)
        failpoint("backup.connected")
        standby = StandbySource(postgres, server, facts, config) if config.standby else None
        if standby is None and facts.in_recovery:
            raise PreconditionError(
                "this server is a standby",
                hint="connect to its primary; to read the files from this one add --from-standby HOST[:PORT]; "
                "to dump its databases add --method logical",
            )
        committed = _prepare(repository, facts)
        base = choose_base(repository, committed, backup_type, facts.block_size)
        findings = [] if base or backup_type is BackupType.FULL else [without_base(backup_type)]
        record = _record(facts, committed, base, backup_type, findings, "compare" if base else "none")
        if standby is not None:
            record.standby = standby.described
            record.findings.append(standby.finding)
        run = BackupRun(postgres, config, repository, lease, connection, record, job, server, standby)
        if base is None or config.change_detection is not ChangeDetection.SUMMARIES:
            return run.take()
        if standby is not None:
            record.findings.append(without_summaries("the files come from a standby"))
            return run.take()
        try:
            with BySummaries(repository, postgres, connection.pgconn, facts, base, job) as summaries:
                record.change_detection = "summaries"
                return run.take(summaries)
        except SummariesUnusable as reason:
            _log.warning("pages are compared: %s", reason)
            findings = [without_summaries(str(reason).partition("\n")[0])]
    # What was begun by summaries has used up its connection and its name.
    with closing(connect_replication(postgres)) as connection:
        record = _record(facts, committed, base, backup_type, findings, "compare")
        return BackupRun(postgres, config, repository, lease, connection, record, job, server).take()


def _take_logical(
    postgres: PostgresConfig,
    config: BackupConfig,
    backup_type: BackupType,
    repository: Repository,
    lease: Lease,
    job: Job,
    reason: str = "",
) -> BackupInfo:
    # A physical backup need not wait for what dumps need to be imported.
    from pgproof.actions.take_logical import PAGE_SIZE, LogicalRun

    with closing(connect(postgres)) as connection:
        failpoint("backup.leased")
        facts = read_ordinary_facts(connection)
        failpoint("backup.connected")
        committed = _prepare(repository, facts)
        base = choose_base(repository, committed, backup_type, PAGE_SIZE, LOGICAL)
        findings = [] if base or backup_type is BackupType.FULL else [without_base(backup_type)]
        if reason:
            findings.append(Finding("method", f"a logical backup was taken, not a physical one: {reason}"))
        if facts.in_recovery:
            findings.append(Finding("standby", "the dump is of a standby, which may be behind its primary"))
        changes = "chunks" if base else "none"
        record = _record(facts, committed, base, backup_type, findings, changes)
        return LogicalRun(postgres, config, repository, lease, connection, record, job).take()


def _may_be_logical(config: BackupConfig, repository: Repository) -> bool:
    """A chain never changes its method by itself: what was physical could be restored to any moment."""
    return (
        config.method is BackupMethod.AUTO
        and not config.standby
        and newest_method(repository, committed_ids(repository.bucket, repository.layout)) != PHYSICAL
    )


def _take_instead(
    postgres: PostgresConfig,
    config: BackupConfig,
    backup_type: BackupType,
    repository: Repository,
    lease: Lease,
    job: Job,
    refusal: PreconditionError,
) -> BackupInfo:
    """A logical backup, because a physical one was refused; where neither is possible, that refusal comes first."""
    try:
        connect(postgres).close()
    except EngineError:
        raise refusal from None
    try:
        return _take_logical(postgres, config, backup_type, repository, lease, job, refusal.message)
    except PreconditionError as error:
        refusal.context["logical"] = error.message
        refusal.hint = f"{refusal.hint}; or, for a logical backup: {error.hint}"
        raise refusal from error


def _prepare(repository: Repository, facts: ServerFacts) -> list[str]:
    """The ids of all backups of this cluster, which is the one that the repository knows under this name."""
    ensure_cluster(repository, facts)
    ensure_restore_script(repository.bucket)
    failpoint("backup.identified")
    return committed_ids(repository.bucket, repository.layout)


def _record(
    facts: ServerFacts,
    committed: list[str],
    base: Manifest | None,
    wanted: BackupType,
    findings: list[Finding],
    changes: str,
) -> BackupRecord:
    started_at = datetime.now(UTC)
    kind = wanted if base else BackupType.FULL
    backup_id = backup_id_for(started_at, kind, secrets.token_hex(3), committed)
    # The next line may be hours away.
    _log.info("backup begins id=%s based_on=%s", backup_id, base.backup_id if base else "nothing")
    return BackupRecord(backup_id, kind, started_at, facts, base, changes, findings)
