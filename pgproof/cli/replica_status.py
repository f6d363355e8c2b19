"""`replicas status`: all nodes of a cluster on one screen, and what is wrong."""

from __future__ import annotations

import argparse

from pgproof.cli import text
from pgproof.cli.engine import open_replicas
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.model.replica_status import NodeStatus, ReplicaStatus, Role

_DESCRIPTION = """Ask the primary and all replicas at once: role, timeline, lag, receiver, slots, conflicts.

A role in pg_monitor sees who streams; another one sees the rest. The limits of the lag are
REPLICA_MAX_LAG_BYTES and REPLICA_MAX_LAG_SECONDS. Exit status 7 if there is a problem."""


def add_commands(actions: Subparsers) -> None:
    add_command(actions, "status", status, "show role, lag and problems of every node", _DESCRIPTION)


def status(args: argparse.Namespace, screen: Screen) -> int:
    found = wait_for(open_replicas(args).status())
    screen.document(found.to_json())
    screen.say(f"Cluster {found.cluster}", "bold")
    screen.table(node_table(found))
    for note in notes(found):
        screen.say(note)
    for problem in found.problems:
        screen.say(f"✗ {problem.kind}: {problem.message}", "bold red")
        screen.say(f"  HINT: {problem.hint}")
    if found.ok:
        screen.say("✓ Every node is where it should be.", "green")
    return Exit.OK if found.ok else Exit.NOT_PASSED


def node_table(found: ReplicaStatus) -> Table:
    return Table(
        columns=[
            Column("node"),
            Column("role"),
            Column("lag", right=True),
            Column("behind", right=True),
            Column("timeline", right=True),
            Column("replayed"),
            Column("receiver"),
            Column("sync"),
            Column("slot"),
        ],
        rows=[_row(node, found) for node in found.nodes],
    )


def _row(node: NodeStatus, found: ReplicaStatus) -> tuple[str, ...]:
    state, lag = node.state, node.lag
    mark = "✗" if node.role in _BAD or any(each.node == node.name for each in found.problems) else "✓"
    if state is None:
        return (f"{mark} {node.name}", str(node.role), *["–"] * 7)
    return (
        f"{mark} {node.name}",
        str(node.role),
        lag_seconds(node),
        "–" if lag is None else text.size(lag.nbytes),
        str(state.timeline),
        str(state.reached),
        receiver(node),
        sync_state(node),
        slot(node, found),
    )


_BAD = (Role.DOWN, Role.STALE, Role.FOREIGN, Role.DIVERGED)


def lag_seconds(node: NodeStatus) -> str:
    if node.lag is None:
        return "–"
    if node.lag.seconds is None:
        return "?"
    shown = text.duration(node.lag.seconds) if node.lag.seconds else "0 s"
    return f"{shown} of {text.duration(node.delay)}" if node.delay else shown


def receiver(node: NodeStatus) -> str:
    """What its receiver does; what holds its replay up comes first."""
    if node.state is None or node.details is None or not node.state.in_recovery:
        return "–"
    words = [*(["paused"] if node.state.replay_paused else [])]
    words.append(node.state.receiver or ("running" if node.details.receiving else "none"))
    return ", ".join(words)


def sync_state(node: NodeStatus) -> str:
    return "–" if node.sender is None else node.sender.sync_state or "?"


def slot(node: NodeStatus, found: ReplicaStatus) -> str:
    """The slot it streams by, and how much WAL is kept for it."""
    name = "" if node.details is None else node.details.slot_name
    if not name or node.role is Role.PRIMARY:
        return "–"
    primary = found.primary_node
    slots = () if primary is None or primary.details is None else primary.details.slots
    for each in slots:
        if each.name == name:
            kept = f", keeps {text.size(each.retained_bytes)}" if each.retained_bytes else ""
            return f"{name} {'active' if each.active else 'inactive'}{kept}"
    return name


def notes(found: ReplicaStatus) -> list[str]:
    """What is no problem, and good to know."""
    lines = []
    primary = found.primary_node
    if primary is not None and primary.type is not None:
        lines.append(
            f"The primary is {primary.name}, not the server that is configured as such ({found.nodes[0].server})."
        )
    for node in found.nodes:
        if node.new_conflicts:
            lines.append(
                f"{node.name}: {node.new_conflicts} queries cancelled for recovery since the last look."
            )
        if node.details is not None and node.details.hidden:
            lines.append(
                f"{node.name}: not seen: {', '.join(node.details.hidden)} (GRANT pg_monitor to the role)."
            )
    return lines
