"""How a cluster's backups stand, measured from the repository, and from the server if it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from pgproof.actions.opening import open_for_reading
from pgproof.actions.wal_status import status_of
from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.manifest import LOGICAL
from pgproof.model.objectives import Standing
from pgproof.model.report import BackupInfo
from pgproof.model.wal_status import WalStatus
from pgproof.repository.catalog import list_backups
from pgproof.repository.drills import list_drills
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.store_clock import CLOCK

# How many of the newest drills are looked through for one that passed.
_DRILLS = 10
# A collection ends itself after so long: an older mark was left behind.
_LONGEST_CLEANUP = timedelta(hours=12)


def measure(postgres: PostgresConfig, config: BackupConfig) -> Standing:
    """Raises the errors of a repository that cannot be opened; a server that does not answer is named in the result."""
    repository = open_for_reading(config)
    backups = list_backups(repository)
    good = [each for each in backups if _good(each)]
    proven = [each for each in backups if each.proven]
    layout = repository.layout
    backup, backup_at = _newest(repository, good, _moment, lambda each: layout.manifest(each.backup_id))
    proof, proof_at = _newest(
        repository, proven, _proof_time, lambda each: layout.verified(each.backup_id, _proof_time(each))
    )
    wal = _wal(repository, postgres, backups)
    # Only now: what can be restored may reach to the moment at which the server was asked.
    now = datetime.now(UTC)
    window = wal.restorable if wal is not None else None
    primary = wal.primary if wal is not None else None
    return Standing(
        cluster=repository.cluster,
        at=now,
        backups=len(backups),
        backup_id=backup.backup_id if backup else "",
        backup_at=backup_at,
        proven_id=proof.backup_id if proof else "",
        proof_at=proof_at,
        proof_seconds=_proof_seconds(repository, proof) if proof else None,
        drill_seconds=_drill_seconds(repository),
        oldest=window.oldest if window else None,
        newest=window.newest if window else None,
        lag_seconds=primary.lag_seconds if primary else None,
        server_problem=wal.server_problem if wal is not None else "",
        gaps=tuple(each.message for each in wal.problems if each.kind == "gap") if wal is not None else (),
        flawed=tuple(_flaws(backups)),
        cleanup_since=_broken_off(repository, now),
    )


def _newest(
    repository: Repository,
    some: Sequence[BackupInfo],
    told_at: Callable[[BackupInfo], datetime],
    key: Callable[[BackupInfo], str],
) -> tuple[BackupInfo | None, datetime | None]:
    """The newest one and its time, which is the store's where that is earlier.

    By the word of a host alone whose clock runs ahead, its last backup would still be young when it is long dead.
    """
    newest, at = None, None
    for each in sorted(some, key=told_at, reverse=True):
        if at is not None and told_at(each) <= at:
            break
        stored = repository.bucket.head(key(each))
        found = told_at(each) if stored is None else min(told_at(each), stored.modified)
        if at is None or found > at:
            newest, at = each, found
    return newest, at


def _good(info: BackupInfo) -> bool:
    return info.status == "ok" and (info.verified is None or info.verified.ok)


def _moment(info: BackupInfo) -> datetime:
    """What a backup holds: a dump sees the databases as they were when it began."""
    return info.started_at if info.method == LOGICAL else info.finished_at


def _proof_time(info: BackupInfo) -> datetime:
    return info.verified.at if info.verified is not None else datetime.min.replace(tzinfo=UTC)


def _proof_seconds(repository: Repository, info: BackupInfo) -> float | None:
    try:
        report = repository.read_json(
            Kind.VERIFICATION, repository.layout.verified(info.backup_id, _proof_time(info))
        )
    except DataError:
        return None
    seconds = report.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) and seconds >= 0 else None


def _drill_seconds(repository: Repository) -> float | None:
    for drill in list_drills(repository, _DRILLS):
        if drill.ok and drill.rto_seconds is not None:
            return drill.forecast.seconds if drill.forecast is not None else drill.rto_seconds
    return None


def _wal(repository: Repository, postgres: PostgresConfig, backups: Sequence[BackupInfo]) -> WalStatus | None:
    try:
        return status_of(repository, postgres, backups)
    except PreconditionError:
        # Nothing physical is stored under this name, and so no WAL.
        return None


def _flaws(backups: Sequence[BackupInfo]) -> list[str]:
    """What is wrong with the newest backup of each method."""
    newest = {each.method: each for each in backups}
    found = []
    for each in newest.values():
        if each.status != "ok":
            found.append(f"the newest {each.method} backup {each.backup_id} is {each.status}")
        elif each.verified is not None and not each.verified.ok:
            found.append(f"the newest {each.method} backup {each.backup_id} has failed its verification")
    return found


def _broken_off(repository: Repository, now: datetime) -> datetime | None:
    prefix = repository.layout.condemned
    marks = [
        info.modified
        for info in repository.bucket.list(prefix)
        if not info.key.removeprefix(prefix).startswith(CLOCK)
    ]
    return min((at for at in marks if now - at > _LONGEST_CLEANUP), default=None)
