"""What each node of a cluster is, by what all of them say (decision 0018). Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end
from pgproof.model.replica_status import Role
from pgproof.model.replication_config import PRIMARY


def judge_roles(
    states: Mapping[str, NodeState | None],
    *,
    floors: Mapping[int, int] | None = None,
    known: str | None = None,
    ends: Mapping[str, Lsn] | None = None,
    receiving: Collection[str] = (),
) -> tuple[str | None, dict[str, Role]]:
    """The primary, and the role of each node; None stands for one that did not answer.

    `floors` are the highest timelines that were ever seen, by system identifier, and `known` the primary of the look before:
    of two on one timeline it stays the one that the others are held against. `ends` are how far primaries had written after
    the standbys were asked. Who is `receiving` WAL may be on a later timeline than it was able to tell.
    """
    system = _system_of(states)
    ours = {
        name: state
        for name, state in states.items()
        if state is not None and state.system_identifier == system
    }
    highest = max([(floors or {}).get(system or 0, 0), *(state.timeline for state in ours.values())])
    primaries = [name for name, state in ours.items() if state.primary and state.timeline == highest]
    primary = next((name for name in (known, PRIMARY) if name in primaries), next(iter(primaries), None))
    roles = {}
    for name, state in states.items():
        if state is None:
            roles[name] = Role.DOWN
        elif name not in ours:
            roles[name] = Role.FOREIGN
        elif name in primaries:
            roles[name] = Role.PRIMARY
        elif state.primary:
            roles[name] = Role.STALE
        elif primary is not None and _diverged(
            state, ours[primary], (ends or {}).get(primary), name in receiving
        ):
            roles[name] = Role.DIVERGED
        else:
            roles[name] = Role.STANDBY
    return primary, roles


def _system_of(states: Mapping[str, NodeState | None]) -> int | None:
    """The cluster that this is about: that of the configured primary, without its answer that of most nodes."""
    configured = states.get(PRIMARY)
    if configured is not None:
        return configured.system_identifier
    systems = [state.system_identifier for state in states.values() if state is not None]
    return max(systems, key=systems.count, default=None)


def _diverged(standby: NodeState, primary: NodeState, end: Lsn | None, receiving: bool) -> bool:
    """Whether it has replayed what is not in the primary's history; only what was seen counts."""
    if standby.replayed is None:
        return False
    replayed = record_end(standby.replayed, standby.segment_size)
    if standby.timeline < primary.timeline:
        # Without pg_monitor its timeline is known from its last restartpoint only.
        if receiving and not standby.receiver:
            return False
        branch = primary.branched_at
        return branch is not None and replayed > record_end(branch, primary.segment_size)
    return end is not None and replayed > end
