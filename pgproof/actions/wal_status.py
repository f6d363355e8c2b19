"""How the WAL of a cluster stands: in the repository, at the primary, and for a restore. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

from pgproof.actions.opening import open_for_reading
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import PHYSICAL
from pgproof.model.report import BackupInfo
from pgproof.model.servers import place
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_coverage import Coverage, reachable_end
from pgproof.model.wal_gaps import gaps_on_the_way
from pgproof.model.wal_legs import Position
from pgproof.model.wal_problems import problems_of
from pgproof.model.wal_status import (
    PrimaryStatus,
    Restorable,
    StandbyStatus,
    TimelineStatus,
    WalLimits,
    WalStatus,
    wal_rate,
)
from pgproof.model.wal_stream import DEFAULT_SLOT
from pgproof.postgres.connection import connect_replication
from pgproof.postgres.standby_slots import other_servers
from pgproof.postgres.wal_health import read_wal_health
from pgproof.postgres.wal_stream import SystemIdentity, identify_system
from pgproof.repository.catalog import list_backups
from pgproof.repository.repository import Repository
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_inventory import Inventory, StoredWal


def wal_status(
    postgres: PostgresConfig,
    config: BackupConfig,
    *,
    slot: str = DEFAULT_SLOT,
    limits: WalLimits | None = None,
    free_bytes: int | None = None,
) -> WalStatus:
    """`free_bytes` is the free space of the primary's WAL disk where it cannot be seen from here.

    Raises the errors of a repository that cannot be opened; a server that cannot be asked is a problem in the answer.
    """
    repository = open_for_reading(config)
    return status_of(repository, postgres, list_backups(repository), slot, limits, free_bytes)


def status_of(
    repository: Repository,
    postgres: PostgresConfig,
    all_backups: Sequence[BackupInfo],
    slot: str = DEFAULT_SLOT,
    limits: WalLimits | None = None,
    free_bytes: int | None = None,
) -> WalStatus:
    """`wal_status` of an opened repository with these backups."""
    archive = WalArchive.open(repository)
    inventory = archive.inventory()
    coverage = inventory.coverage()
    histories = {number: archive.history(number) for number in {1, *inventory.histories, *coverage.timelines}}
    backups = [each for each in all_backups if each.method == PHYSICAL]
    now = datetime.now(UTC)
    minimal = {(segment.timeline, segment.start + at) for segment, at in inventory.minimal}
    primary, problem = None, ""
    standbys: tuple[StandbyStatus, ...] = ()
    try:
        identity, others = _identity(postgres)
        primary = _primary(postgres, identity, archive, inventory, slot, free_bytes, now)
        standbys = _standbys(others, identity.timeline, coverage, slot)
    except EngineError as error:
        problem = error.message
    way = histories.get(primary.timeline) if primary is not None else None
    if way is None:
        way = histories[max(coverage.timelines, default=1)]
    status = WalStatus(
        cluster=repository.cluster,
        at=now,
        timelines=tuple(
            TimelineStatus(
                number,
                histories[number].parent,
                histories[number].begin if histories[number].parent else None,
                coverage.of_timeline(number),
            )
            for number in coverage.timelines
        ),
        gaps=tuple(
            replace(gap, minimal=(gap.timeline, gap.start) in minimal)
            for gap in gaps_on_the_way(
                coverage,
                way,
                archive.segment_size,
                [Position(backup.timeline, backup.start_lsn) for backup in backups],
            )
        ),
        restorable=_restorable(archive, inventory, coverage, way, backups, primary, now),
        primary=primary,
        server_problem=problem,
        standbys=standbys,
    )
    return replace(status, problems=problems_of(status, limits or WalLimits()))


def _primary(
    postgres: PostgresConfig,
    identity: SystemIdentity,
    archive: WalArchive,
    inventory: Inventory,
    slot: str,
    free_bytes: int | None,
    now: datetime,
) -> PrimaryStatus:
    if identity.system_identifier != archive.system_identifier:
        raise PreconditionError(
            "this is another cluster than the one that is stored under this name",
            hint="correct the host or --cluster",
        )
    health = read_wal_health(postgres, slot)
    pieces = [each for each in inventory.pieces if each.piece.timeline == identity.timeline]
    durable = max((each.piece.end for each in pieces), default=None)
    lag = None if durable is None else max(0, health.position - durable)
    newest = max((each.stored_at for each in pieces), default=None)
    return PrimaryStatus(
        version=health.version,
        timeline=identity.timeline,
        position=health.position,
        in_recovery=health.in_recovery,
        slot_name=slot,
        slot=health.slot,
        sync_state=health.sync_state,
        lag_bytes=lag,
        lag_seconds=_lag_seconds(
            lag,
            archive.segment_size,
            health.flush_lag,
            health.slot is not None and health.slot.active,
            None if newest is None else max(0.0, (now - newest).total_seconds()),
        ),
        bytes_per_second=wal_rate([(each.stored_at, each.piece.end) for each in pieces]),
        free_bytes=free_bytes if free_bytes is not None else health.free_bytes,
        full_page_writes=health.full_page_writes,
    )


def _identity(postgres: PostgresConfig) -> tuple[SystemIdentity, tuple[PostgresConfig, ...]]:
    """The server that answers, and the others on the list of hosts."""
    with closing(connect_replication(postgres)) as connection:
        return identify_system(connection.pgconn), other_servers(postgres, connection)


def _standbys(
    servers: Sequence[PostgresConfig], timeline: int, coverage: Coverage, slot: str
) -> tuple[StandbyStatus, ...]:
    """The slot on every other server that is a standby; one that cannot be asked may be one."""
    stored = max((each.end for each in coverage.of_timeline(timeline)), default=None)
    found = []
    for server in servers:
        name = ":".join(place(server))
        try:
            health = read_wal_health(server, slot)
        except EngineError as error:
            found.append(StandbyStatus(name, None, None, error.message))
            continue
        if health.in_recovery:
            restart = None if health.slot is None else health.slot.restart
            behind = None if stored is None or restart is None else max(0, stored - restart)
            found.append(StandbyStatus(name, health.slot, behind))
    return tuple(found)


def _lag_seconds(
    lag: int | None, segment_size: int, flush_lag: float | None, active: bool, age: float | None
) -> float | None:
    """How old the oldest WAL that is not stored is at most.

    While somebody streams, the server measures it; then the age of the newest piece only counts for a lag that is too
    large to have just been written.
    """
    if lag is None or age is None:
        return None
    if lag == 0:
        return 0.0
    if active and lag < segment_size:
        return flush_lag or 0.0
    return age


def _restorable(
    archive: WalArchive,
    inventory: Inventory,
    coverage: Coverage,
    way: TimelineHistory,
    backups: list[BackupInfo],
    primary: PrimaryStatus | None,
    now: datetime,
) -> Restorable | None:
    """From the end of the oldest backup on this way to where replay from the newest one ends."""
    usable = [each for each in backups if way.passes(each.timeline, each.stop_lsn)]
    if not usable:
        return None
    oldest = min(usable, key=lambda each: each.stop_lsn)
    newest = max(usable, key=lambda each: each.stop_lsn)
    end = reachable_end(coverage, newest.start_lsn, way, archive.segment_size)
    end = max(end, newest.stop_lsn)
    at = max([newest.finished_at, *(each.stored_at for each in inventory.pieces if _holds(each, end, way))])
    if primary is not None and primary.timeline == way.timeline and end >= primary.position:
        at = now
    return Restorable(way.timeline, oldest.stop_lsn, oldest.finished_at, end, min(at, now))


def _holds(stored: StoredWal, end: Lsn, way: TimelineHistory) -> bool:
    """Whether this piece brought the last byte of what can be replayed."""
    return stored.piece.timeline == way.timeline_at(end) and stored.piece.start < end <= stored.piece.end
