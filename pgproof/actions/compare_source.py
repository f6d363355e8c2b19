"""Whether a recovered server holds what its source held at the same point."""

from __future__ import annotations

import time

from pgproof.actions.recovery_choosing import ChosenRecovery, choose_recovery
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.fingerprints import NOTHING, Difference, FingerprintComparison, compare_databases
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.model.report import Check
from pgproof.model.source_fingerprint import SourceFingerprint
from pgproof.postgres.fingerprints import fingerprint_database
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.scratch import ScratchServer
from pgproof.postgres.snapshots import committed_of
from pgproof.repository.repository import Repository

_NAME = "same as the source"


def request_for(source: SourceFingerprint) -> RecoveryRequest:
    return RecoveryRequest(target_from(lsn=source.lsn, inclusive=False), source.timeline)


def choose_for_source(
    repository: Repository,
    config: BackupConfig,
    manifest: Manifest,
    source: SourceFingerprint,
    user: OsUser | None,
    job: Job,
) -> ChosenRecovery:
    """The recovery of this backup to exactly the point of the fingerprints; raises PreconditionError if there is none."""
    chosen = choose_recovery(
        repository, config, manifest.backup_id, request_for(source), recover=True, user=user, job=job
    )
    if chosen.stop.at is None:
        # Recovery would go on to whatever comes into the repository meanwhile.
        raise PreconditionError(
            "the repository has no WAL from behind the point of the fingerprints yet",
            hint=f"run it again with --against-fingerprint {source.lsn} when some has come",
            point=source.lsn,
        )
    return chosen


def compare_with_source(server: ScratchServer, source: SourceFingerprint, job: Job) -> Check:
    """Differences by database and table. A point that separates nothing is told as not checked, never as damage."""
    begun = time.monotonic()
    running = sorted({xid for snapshot in source.snapshots for xid in snapshot.running})
    with server.connect() as connection:
        early = committed_of(connection, running)
    if early:
        return Check(
            _NAME,
            None,
            f"not comparable: transaction {early[0]} was in the WAL before the point, but not to be seen in the "
            "source yet (it waited for a synchronous standby)",
            "take the fingerprints again: --against-source",
            time.monotonic() - begun,
        )
    found, known = NOTHING, set(server.databases())
    for database in source.databases:
        if database.database in known:
            with server.connect(database.database) as connection:
                copy = fingerprint_database(connection, job, rates=database.rates())
            found += compare_databases(database, copy)
        else:
            missing = Difference(database.database, "", "", "the database is missing")
            found += FingerprintComparison(0, 0, 0, (missing,))
    detail = "\n".join([f"at {source.lsn}: {found.summary()}", *found.lines()])
    hint = "" if found.same else "take a new full backup and verify it; keep this one until you know why"
    return Check(_NAME, found.same, detail, hint, time.monotonic() - begun)
