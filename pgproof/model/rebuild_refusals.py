"""What a rebuild refuses whatever the way: another cluster's directory, tablespaces, a primary that is not the one. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.errors import PreconditionError
from pgproof.model.node import NodeState
from pgproof.model.rebuild_evidence import Directory, Primary, Source


def refuse_directory(directory: Directory, primary: Primary) -> None:
    """Raises PreconditionError for what must not be touched, or cannot be done here."""
    if directory.system_identifier not in (None, primary.state.system_identifier):
        raise PreconditionError(
            "the directory holds another cluster; nothing was changed",
            hint="look at --data-dir again",
            path=directory.path,
            found=directory.system_identifier,
            wanted=primary.state.system_identifier,
        )
    if directory.tablespaces or primary.tablespaces:
        raise PreconditionError(
            "the cluster has tablespaces, which a rebuild does not move",
            hint="use `pgproof restore latest --standby --delta` with --tablespace OLD=NEW",
            path=directory.path,
        )


def primary_among(states: Iterable[NodeState], system_identifier: int | None) -> NodeState:
    """The one server of the cluster to follow: out of recovery, on the highest timeline.

    Raises PreconditionError if there is none, or if more than one claims to be it.
    """
    found = sorted(
        (each for each in states if each.primary and system_identifier in (None, each.system_identifier)),
        key=lambda each: each.timeline,
    )
    if not found:
        raise PreconditionError(
            "no primary of this cluster answers",
            hint="start it, or correct where it is looked for: --host, READ_REPLICA_HOSTS; `pgproof replicas status` shows all",
            system_identifier=system_identifier,
        )
    if len(found) > 1 and found[-2].timeline == found[-1].timeline:
        raise PreconditionError(
            "two servers claim to be the primary on the same timeline",
            hint="stop the one that is wrong; nothing tells from here which that is",
            servers=f"{found[-2].node}, {found[-1].node}",
        )
    return found[-1]


def refuse_older_timeline(
    directory: Directory, primary: Primary, states: Iterable[NodeState], source: Source | None
) -> None:
    """Raises PreconditionError if somebody was on a newer timeline than the primary's: then this is an old primary that came
    back while the new one is away, or a promotion that was a mistake. Only its operator knows; `source` says that he does.
    """
    seen = {
        each.timeline: each.node
        for each in states
        if each.system_identifier == primary.state.system_identifier
    }
    if directory.control is not None:
        seen[directory.timeline] = str(directory.path)
    newest = max(seen, default=0)
    if source is None and newest > primary.state.timeline:
        raise PreconditionError(
            f"timeline {newest} is newer than that of the only primary that answers; nothing was changed",
            hint=f"start the primary of timeline {newest}; or, if what was written on it is to be given up, name the way: "
            "--from rewind or --from repository",
            primary=f"{primary.name}, timeline {primary.state.timeline}",
            seen=seen[newest],
        )
