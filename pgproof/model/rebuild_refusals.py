"""What a rebuild refuses whatever the way: another cluster's directory, tablespaces, a primary that nobody can tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.errors import PreconditionError
from pgproof.model.node import NodeState
from pgproof.model.rebuild_evidence import Directory, Primary


def refuse_directory(directory: Directory, primary: Primary) -> None:
    """Raises PreconditionError for what must not be touched, or cannot be done here."""
    control = directory.control
    if control is not None and control.system_identifier != primary.state.system_identifier:
        raise PreconditionError(
            "the directory holds another cluster; nothing was changed",
            hint="look at --data-dir again",
            path=directory.path,
            found=control.system_identifier,
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
