"""Take the fingerprints of a running cluster at exactly one point of its WAL, and keep them in the repository."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pgproof.actions.opening import open_repository
from pgproof.actions.recovery_choosing import all_bases, known_histories
from pgproof.actions.wal_reading import wal_reading
from pgproof.errors import PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.exact_point import Snapshot, separating_point
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import PHYSICAL, Manifest
from pgproof.model.source_fingerprint import SourceFingerprint
from pgproof.model.timelines import TimelineHistory
from pgproof.postgres.connection import connect, query
from pgproof.postgres.fingerprints import fingerprint_database
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import find_programs
from pgproof.postgres.snapshots import (
    Connection,
    HeldSnapshots,
    finish_segment,
    held_snapshots,
    standing_still,
)
from pgproof.repository.catalog import find_backup, store_fingerprint
from pgproof.repository.repository import Repository
from pgproof.repository.wal_archive import WalArchive

_log = logging.getLogger(__name__)
_TRIES = 10
_ARCHIVE_SECONDS = 120.0
_POLL = 1.0


def fingerprint_source(
    postgres: PostgresConfig, config: BackupConfig, databases: Sequence[str], job: Job
) -> SourceFingerprint:
    """Of all databases that take connections, or of those that are named; only read.

    The WAL up to the point must come into the repository by itself. Raises PreconditionError where it does not or
    the server is another cluster, TransientError where no snapshot could be separated.
    """
    begun, taken_at = time.monotonic(), datetime.now(UTC)
    job.report("opening repository")
    repository = open_repository(config)
    newest = find_backup(repository, "latest", PHYSICAL)
    with connect(postgres, name="pgproof_fingerprint") as watcher:
        standby, timeline = _identify(watcher, newest)
        names = list(databases) or _databases(watcher)
        point = _on_standby if standby else _on_primary
        with point(postgres, repository, config, newest, timeline, watcher, names, job) as found:
            failpoint("fingerprint.reading")
            read = tuple(fingerprint_database(connection, job) for connection in found.connections)
    fingerprint = SourceFingerprint(
        newest.system_identifier,
        timeline,
        found.lsn,
        taken_at,
        time.monotonic() - begun,
        read,
        found.snapshots,
    )
    store_fingerprint(repository, fingerprint)
    _log.info(
        "source fingerprinted lsn=%s databases=%d rows=%d seconds=%.1f",
        fingerprint.lsn,
        len(read),
        fingerprint.rows,
        fingerprint.seconds,
    )
    return fingerprint


@dataclass(frozen=True, slots=True)
class _Point:
    lsn: Lsn
    connections: tuple[Connection, ...]
    snapshots: tuple[Snapshot, ...] = ()


def _identify(watcher: Connection, newest: Manifest) -> tuple[bool, int]:
    """Whether it is a standby, and its timeline; raises PreconditionError for another cluster."""
    ((identifier, standby, timeline),) = query(
        watcher,
        """
        SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), pg_catalog.pg_is_in_recovery(),
               greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
                        (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver))
        """,
    )
    if identifier != newest.system_identifier:
        raise PreconditionError(
            "the server that is configured is another cluster than the backup's",
            hint="correct --host and --port, or --cluster",
            server=identifier,
            backup=newest.system_identifier,
        )
    return bool(standby), int(timeline)


def _databases(watcher: Connection) -> list[str]:
    found = query(
        watcher,
        "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate "
        "AND datconnlimit <> -2 ORDER BY datname",
    )
    return [row[0] for row in found]


@contextmanager
def _on_standby(
    postgres: PostgresConfig,
    _repository: Repository,
    _config: BackupConfig,
    _newest: Manifest,
    _timeline: int,
    watcher: Connection,
    names: Sequence[str],
    job: Job,
) -> Iterator[_Point]:
    """It sees what it has replayed; as long as it stands still, that is one position."""
    with standing_still(watcher, job) as lsn, ExitStack() as stack:
        connections = [
            stack.enter_context(connect(postgres, dbname=name, name="pgproof_fingerprint")) for name in names
        ]
        yield _Point(lsn, tuple(connections))


@contextmanager
def _on_primary(
    postgres: PostgresConfig,
    repository: Repository,
    config: BackupConfig,
    newest: Manifest,
    timeline: int,
    watcher: Connection,
    names: Sequence[str],
    job: Job,
) -> Iterator[_Point]:
    """Snapshots are taken until there are some that a position separates; only then are tables read."""
    archive = WalArchive(repository, newest.system_identifier, newest.wal_segment_size)
    for _try in range(_TRIES):
        job.report("looking for a point that separates")
        with held_snapshots(postgres, names, watcher) as held:
            _wait_for_wal(archive, timeline, held, watcher, job)
            lsn = _separate(repository, config, newest, archive, timeline, held, job)
            if lsn is not None:
                yield _Point(lsn, held.connections, held.snapshots)
                return
    raise TransientError(
        f"the server is so busy that none of {_TRIES} snapshots ended between two commits",
        hint="run it again when there is less to do, or on a standby, which is made to stand still; fewer databases help",
        databases=len(names),
    )


def _wait_for_wal(
    archive: WalArchive, timeline: int, held: HeldSnapshots, watcher: Connection, job: Job
) -> None:
    """Until the repository has all WAL from before the snapshots to behind them, and something more: a recovery ends
    for certain only before a record."""
    job.report("waiting for WAL")
    patience, finished = time.monotonic() + _ARCHIVE_SECONDS, False
    while True:
        coverage = archive.inventory().coverage()
        stored = coverage.run_end(timeline, Lsn(held.start.value - 1))
        if stored > held.end:
            return
        if not finished:
            finish_segment(watcher)
            finished = True
        if time.monotonic() > patience:
            raise PreconditionError(
                "the WAL of the server does not come into the repository",
                hint="run `pgproof wal stream`, or set archive_command and grant EXECUTE on pg_switch_wal() to the role",
                stored_to=stored,
                needed=held.end,
            )
        job.checkpoint()
        job.stop.wait(_POLL)


def _separate(
    repository: Repository,
    config: BackupConfig,
    newest: Manifest,
    archive: WalArchive,
    timeline: int,
    held: HeldSnapshots,
    job: Job,
) -> Lsn | None:
    if held.start == held.end:
        return held.end
    inventory = archive.inventory()
    histories = known_histories(archive, inventory, newest, all_bases(repository, newest))
    history = histories.get(timeline, TimelineHistory(timeline))
    programs = find_programs(newest.major_version, config.bin_dir)
    user = service_user(config.scratch_user)
    with (
        wal_reading(archive, inventory, history, config, programs, user, job) as reading,
        closing(reading.commits(held.start, held.end)) as commits,
    ):
        return separating_point(held.snapshots, commits, held.end)
