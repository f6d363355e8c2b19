"""Which way a replica is made one again, from what is known of its directory, its primary and the repository. Pure.

PostgreSQL follows a primary only from a position on that primary's own way. A directory that is on it needs nothing but
WAL; one that wrote on behind the place where the way left its timeline is rewound, if pg_rewind's rules allow it, or
restored from the repository.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.errors import PreconditionError
from pgproof.model.node import NodeState
from pgproof.model.rebuild_divergence import diverged, other_timeline, rewind_obstacles
from pgproof.model.rebuild_evidence import Directory, Primary, Source, Stage, Stored, StoredBackup
from pgproof.model.rebuild_loss import loss_of
from pgproof.model.rebuild_plan import RebuildPlan, Way
from pgproof.model.rebuild_refusals import refuse_directory, refuse_older_timeline
from pgproof.model.rebuild_wal import lacks_wal, leading_backup


class _NoBackup(Exception):
    def __init__(self, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons


def plan_rebuild(
    node: str,
    directory: Directory,
    primary: Primary,
    stored: Stored | None,
    *,
    slot: str,
    states: Iterable[NodeState] = (),
    streams: bool = False,
    source: Source | None = None,
    can_stop: bool = False,
    why_not_stored: str = "",
) -> RebuildPlan:
    """Choose the way. `states` are what all nodes said of themselves, `streams` says that the primary itself sees the replica
    streaming, `can_stop` that there is a command that stops its server, `why_not_stored` why `stored` is None although a
    repository is configured.

    Raises PreconditionError where the directory is another cluster's, where a newer timeline than the primary's was seen and
    no `source` is asked for, where nothing leads from the directory to the primary, and for what is not done here
    (tablespaces, a server that nobody can stop).
    """
    refuse_directory(directory, primary)
    refuse_older_timeline(directory, primary, states, source)
    if streams and source is None:
        return RebuildPlan(
            node, primary.name, directory.path, Way.NOTHING, ("the primary sees it streaming",), slot
        )
    if directory.running and not directory.stoppable and not can_stop:
        raise PreconditionError(
            "a server uses this directory, and it is none that can be stopped from here",
            hint="stop it yourself, or give --stop-command and --start-command",
            path=directory.path,
        )
    backup = leading_backup(primary, stored)
    try:
        way, reasons = _choose(directory, primary, stored, backup, source)
    except _NoBackup as error:
        what = why_not_stored or (
            "no repository is configured"
            if stored is None
            else "no backup of the repository leads to the primary"
        )
        raise PreconditionError(
            f"the replica has to be restored, and {what}",
            hint=f"{'; '.join(error.reasons)}. Take a backup of the primary with `pgproof create`, then run this again",
        ) from None
    if way in (Way.START, Way.NOTHING):
        backup = None
    return RebuildPlan(
        node,
        primary.name,
        directory.path,
        way,
        reasons,
        slot,
        stops=directory.running,
        backup_id=backup.backup_id if backup else None,
        timeline=_restored_timeline(primary, stored, backup),
        tail=loss_of(directory, primary, stored) if way in (Way.REWIND, Way.RESTORE) else None,
    )


def _restored_timeline(primary: Primary, stored: Stored | None, backup: StoredBackup | None) -> int | None:
    """Never the newest of the repository, which may be that of a cluster that was restored elsewhere."""
    if stored is None or backup is None:
        return None
    return primary.state.timeline if primary.state.timeline in stored.timelines else backup.timeline


def _choose(
    directory: Directory,
    primary: Primary,
    stored: Stored | None,
    backup: StoredBackup | None,
    source: Source | None,
) -> tuple[Way, tuple[str, ...]]:
    if directory.stage is Stage.READY and source is None:
        return _ready(directory, primary, stored, backup)
    if directory.control is None:
        why = "there is no cluster in the directory"
        if directory.stage is Stage.RESTORING:
            why = "a restore into the directory was broken off"
        if source is Source.REWIND:
            raise PreconditionError(
                f"{why}, so there is nothing to rewind", hint="leave --from out", path=directory.path
            )
        return _restore(backup, (why,))
    if source is Source.REPOSITORY:
        return _restore(backup, ("this was asked for",))
    obstacles = rewind_obstacles(directory, primary)
    if source is Source.REWIND:
        if obstacles:
            raise PreconditionError(
                "the directory cannot be rewound", hint="; ".join(obstacles), path=directory.path
            )
        return Way.REWIND, ("this was asked for",)
    if directory.stage is Stage.REWINDING:
        why = "an earlier rewind was broken off: its files are of no use as they are"
        return _restore(backup, (why,)) if backup else (Way.REWIND, (why, "there is no backup"))
    why = diverged(directory, primary)
    if why:
        if not obstacles:
            return Way.REWIND, (why,)
        return _restore(backup, (why, *obstacles))
    lacks = lacks_wal(directory, primary, stored)
    if not lacks:
        return Way.START, ("it is on the primary's way, and the WAL that it lacks is there",)
    return _restore(backup, (lacks,))


def _ready(
    directory: Directory, primary: Primary, stored: Stored | None, backup: StoredBackup | None
) -> tuple[Way, tuple[str, ...]]:
    """Since then there may have been another failover, and the primary may have removed WAL."""
    if directory.control is not None:
        if other_timeline(directory, primary) or not primary.history.passes(
            directory.timeline, directory.position
        ):
            return _restore(backup, ("what an earlier rebuild had made ready is not on the primary's way",))
        lacks = lacks_wal(directory, primary, stored)
        if lacks:
            return _restore(backup, (lacks,))
    return Way.START, ("an earlier rebuild had made its files ready",)


def _restore(backup: StoredBackup | None, reasons: tuple[str, ...]) -> tuple[Way, tuple[str, ...]]:
    if backup is None:
        raise _NoBackup(reasons)
    return Way.RESTORE, reasons
