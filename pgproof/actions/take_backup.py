"""Take a physical backup: slot and WAL first, then the base backup, the manifest last.

A differential or incremental one streams the whole cluster as well and does not store what its base has; or,
by WAL summaries, the server sends only what changed.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import closing
from datetime import UTC, datetime

from pgproof.actions.backup_record import BackupRecord, without_base, without_summaries
from pgproof.actions.backup_run import BackupRun
from pgproof.actions.by_summaries import BySummaries
from pgproof.actions.choose_base import choose_base
from pgproof.actions.cluster_identity import ensure_cluster
from pgproof.actions.opening import open_repository
from pgproof.actions.standby import StandbySource, standby_server
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, BackupType, ChangeDetection, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest, backup_id_for
from pgproof.model.report import BackupInfo, Finding
from pgproof.model.summaries import SummariesUnusable
from pgproof.postgres.connection import connect_replication
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.repository.catalog import committed_ids
from pgproof.repository.escape_hatch import ensure_restore_script
from pgproof.repository.leases import hold_lease

_log = logging.getLogger(__name__)


def take_backup(
    postgres: PostgresConfig, config: BackupConfig, backup_type: BackupType, job: Job
) -> BackupInfo:
    """Back up the cluster that `postgres` reaches; return the committed backup.

    Raises PreconditionError where something must be changed first, ConflictError if another backup of this
    cluster runs, TransientError where the same call may succeed later. Nothing is listed unless it is whole.
    """
    job.report("opening repository")
    repository = open_repository(config)
    with hold_lease(repository, "backup") as lease:
        server = standby_server(postgres, config.standby) if config.standby else postgres
        with closing(connect_replication(server)) as connection:
            failpoint("backup.leased")
            facts = read_facts(connection)
            failpoint("backup.connected")
            standby = StandbySource(postgres, server, facts, config) if config.standby else None
            if standby is None and facts.in_recovery:
                raise PreconditionError(
                    "this server is a standby",
                    hint="connect to its primary; to read the files from this one add --from-standby HOST[:PORT]",
                )
            ensure_cluster(repository, facts)
            ensure_restore_script(repository.bucket)
            failpoint("backup.identified")
            committed = committed_ids(repository.bucket, repository.layout)
            base = choose_base(repository, committed, backup_type, facts)
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
    return BackupRecord(backup_id, kind, started_at, facts, base, changes, findings)
