"""What is wrong with a replicated cluster, and what somebody has to do about it. Pure.

By what was seen only: a role that may not see who streams gives no false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator

from pgproof.model.replica_status import NodeStatus, ReplicaProblem, ReplicaStatus, Role
from pgproof.model.synchronous import needed
from pgproof.model.wal_status import SlotStatus

LAG_KINDS = ("lag-bytes", "lag-seconds")
# Told at the first look that has it: each minute may lose data, or writes stand still.
URGENT = ("two-primaries", "no-primary", "stale-primary", "sync-missing", "slot-lost", "slot-at-risk")


def problems_of(status: ReplicaStatus) -> tuple[ReplicaProblem, ...]:
    """What is wrong, the worst first."""
    nodes = [found for node in status.nodes for found in _of_node(node, status)]
    return (*_of_primaries(status), *nodes, *_at_the_primary(status), *_of_configuration(status))


def _of_configuration(status: ReplicaStatus) -> Iterator[ReplicaProblem]:
    if len(status.nodes) < 2:
        yield ReplicaProblem(
            "no-replicas",
            "",
            "no replicas are configured",
            "set READ_REPLICA_HOSTS, the table [replicas] of the configuration file, or the Read Replicas block",
        )


def _of_primaries(status: ReplicaStatus) -> Iterator[ReplicaProblem]:
    primaries = [node for node in status.nodes if node.role is Role.PRIMARY]
    if not primaries:
        yield ReplicaProblem(
            "no-primary",
            "",
            "no node is the primary: nothing can be written",
            "mend or start it, or promote a replica: pgproof replicas promote",
        )
    elif len(primaries) > 1:
        names = " and ".join(node.name for node in primaries)
        timeline = primaries[0].state.timeline if primaries[0].state else 0
        yield ReplicaProblem(
            "two-primaries",
            "",
            f"{names} all take writes, on timeline {timeline}: what is written to one is missing on the other",
            "end all but the one with the data that counts, and rebuild the others: pgproof replicas rebuild",
        )


def _of_node(node: NodeStatus, status: ReplicaStatus) -> Iterator[ReplicaProblem]:
    if node.role is Role.DOWN:
        yield ReplicaProblem(
            "node-down",
            node.name,
            f"{_named(node)} does not answer: {node.error}",
            node.hint or "start it, or rebuild it: pgproof replicas rebuild",
        )
    elif node.role is Role.FOREIGN:
        yield ReplicaProblem(
            "foreign-cluster",
            node.name,
            f"{_named(node)} belongs to another cluster: its system identifier differs",
            "correct its address, or rebuild it: pgproof replicas rebuild",
        )
    elif node.role is Role.STALE:
        timeline = "" if node.state is None else f", on timeline {node.state.timeline}"
        yield ReplicaProblem(
            "stale-primary",
            node.name,
            f"{_named(node)} takes writes although another one took over{timeline}: they will be lost",
            "stop it, and rebuild it: pgproof replicas rebuild",
        )
    elif node.role is Role.DIVERGED:
        yield ReplicaProblem(
            "diverged",
            node.name,
            f"{node.name} has replayed what is not in the primary's history, and cannot follow it",
            "rebuild it: pgproof replicas rebuild",
        )
    elif node.role is Role.STANDBY:
        yield from _of_standby(node, status)


def _named(node: NodeStatus) -> str:
    return node.name if node.server.endswith(node.name) else f"{node.name} ({node.server})"


def _of_standby(node: NodeStatus, status: ReplicaStatus) -> Iterator[ReplicaProblem]:
    state, details, lag = node.state, node.details, node.excess
    if state is not None and state.replay_paused:
        yield ReplicaProblem(
            "replay-paused",
            node.name,
            f"the replay of {node.name} is paused",
            "run SELECT pg_wal_replay_resume() there when it may go on",
        )
    if details is not None and not details.receiving and _should_stream(node):
        slots = _slots_of_primary(status)
        if details.slot_name and slots is not None and details.slot_name not in {each.name for each in slots}:
            yield ReplicaProblem(
                "slot-missing",
                node.name,
                f"{node.name} streams from the slot {details.slot_name}, which its primary does not have",
                f"run SELECT pg_create_physical_replication_slot('{details.slot_name}', true) on the primary",
            )
        else:
            yield ReplicaProblem(
                "not-streaming",
                node.name,
                f"{node.name} receives no WAL",
                "see its log and its primary_conninfo; if the WAL it needs is gone: pgproof replicas rebuild",
            )
    if lag is None:
        return
    beyond = f" beyond its delay of {node.delay:,.0f} s" if node.delay else ""
    hint = "see its load, its disk and its network, and queries that hold up its replay"
    if lag.nbytes > status.limits.lag_bytes:
        what = "has not received" if node.delay else "has not replayed"
        yield ReplicaProblem(
            "lag-bytes",
            node.name,
            f"{node.name} {what} {lag.nbytes / 1e6:,.1f} MB of WAL; the limit is {status.limits.lag_bytes / 1e6:,.1f} MB",
            hint,
        )
    if lag.seconds is not None and lag.seconds > status.limits.lag_seconds:
        yield ReplicaProblem(
            "lag-seconds",
            node.name,
            f"{node.name} is {lag.seconds:,.0f} s behind{beyond}; the limit is {status.limits.lag_seconds:,.0f} s",
            hint,
        )


def _should_stream(node: NodeStatus) -> bool:
    """Whether it is known to be told so: one that lives by restore_command alone has no receiver."""
    assert node.details is not None
    if node.details.configured is not None:
        return node.details.configured
    return bool(node.details.slot_name) or bool(node.lag and node.lag.nbytes)


def _slots_of_primary(status: ReplicaStatus) -> tuple[SlotStatus, ...] | None:
    primary = status.primary_node
    return None if primary is None or primary.details is None else primary.details.slots


def _at_the_primary(status: ReplicaStatus) -> Iterator[ReplicaProblem]:
    primary = status.primary_node
    if primary is None or primary.details is None:
        return
    yield from _of_synchronous(primary)
    for slot in primary.details.slots:
        if slot.lost:
            yield ReplicaProblem(
                "slot-lost",
                slot.name,
                f"{primary.name} has given the slot {slot.name} up: who needs it has to be rebuilt if WAL is missing",
                "see whether its standby still streams; if not: pgproof replicas rebuild",
            )
        elif slot.wal_status == "unreserved" or (slot.limit_used or 0.0) > 0.5:
            used = "" if slot.limit_used is None else f", {100 * slot.limit_used:.0f} % of its limit is used"
            yield ReplicaProblem(
                "slot-at-risk",
                slot.name,
                f"{primary.name} will soon give the slot {slot.name} up (wal_status {slot.wal_status}{used})",
                "see why its standby is behind, or raise max_slot_wal_keep_size meanwhile",
            )
        elif not slot.active and (slot.retained_bytes or 0) > status.limits.lag_bytes:
            yield ReplicaProblem(
                "slot-inactive",
                slot.name,
                f"nobody uses the slot {slot.name}, and {primary.name} keeps {(slot.retained_bytes or 0) / 1e6:,.1f} MB "
                "of WAL for it",
                "start who streams from it (a standby, or pgproof wal stream); if nobody needs it any more, drop it before the "
                "disk is full: SELECT pg_drop_replication_slot(…)",
            )


def _of_synchronous(primary: NodeStatus) -> Iterator[ReplicaProblem]:
    details = primary.details
    assert details is not None
    setting = details.settings.get("synchronous_standby_names", "").strip()
    wanted = needed(setting)
    if not wanted or details.settings.get("synchronous_commit") in ("off", "local"):
        return
    if any(each.sync_state is None for each in details.senders):
        return  # we may not see who counts
    there = sum(each.sync_state in ("sync", "quorum") for each in details.senders)
    if there < wanted:
        yield ReplicaProblem(
            "sync-missing",
            primary.name,
            f"synchronous_standby_names is '{setting}', and of {wanted} that commits wait for {there} are connected: "
            "commits hang",
            "start the standby that is missing, or change synchronous_standby_names and reload",
        )
