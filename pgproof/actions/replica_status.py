"""Measure all nodes of a replicated cluster at once, and judge what was seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pgproof.errors import EngineError
from pgproof.model.config import PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lag import NO_LAG, Lag
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.replica_history import Look, highest_timelines, timelines_of_nodes, track_of
from pgproof.model.replica_problems import problems_of
from pgproof.model.replica_roles import judge_roles
from pgproof.model.replica_status import NodeStatus, ReplicaLimits, ReplicaStatus, Role, Sender
from pgproof.model.replication_config import ReplicationConfig
from pgproof.postgres.node_survey import Surveyed, survey_nodes

# A node that does not answer is given up after twice this; a standby that is behind may catch up for so long.
SECONDS = 3.0
PATIENCE = 1.5


def replica_status(
    postgres: PostgresConfig,
    replication: ReplicationConfig,
    cluster: str,
    job: Job,
    before: Sequence[Look] = (),
    *,
    seconds: float = SECONDS,
    patience: float = PATIENCE,
) -> ReplicaStatus:
    """How the nodes stand now. `before` are earlier looks, the oldest first: they tell since when a replica is behind.

    A node that does not answer within `seconds`, twice, is down; the others do not wait for it longer. Raises nothing for nodes
    that cannot be asked: they are part of the answer; Cancelled when `job` is to stop.
    """
    servers = replication.servers(postgres)
    at = datetime.now(UTC)
    last = before[-1] if before else None
    known = None if last is None else last.primary
    floors = highest_timelines(before)

    def roles_of(
        states: Mapping[str, NodeState | None],
        ends: Mapping[str, Lsn] | None = None,
        receiving: Collection[str] = (),
    ) -> tuple[str | None, dict[str, Role]]:
        return judge_roles(states, floors=floors, known=known, ends=ends, receiving=receiving)

    found = survey_nodes(servers, lambda states: roles_of(states)[0], job, seconds=seconds, patience=patience)
    seen = timelines_of_nodes(before)
    answers = {
        name: replace(each, state=_with_timeline(each.state, seen))
        for name, each in found.items()
        if isinstance(each, Surveyed)
    }
    receiving = {name for name, each in answers.items() if each.details.receiving}
    ends = {
        name: each.details.position for name, each in answers.items() if each.details.position is not None
    }
    primary, roles = roles_of(
        {name: answers[name].state if name in answers else None for name in servers}, ends, receiving
    )
    types = {each.id: each.replica_type for each in replication.replicas}
    nodes = []
    for name, server in servers.items():
        node = NodeStatus(name, str(server), roles[name], types.get(name))
        failure = found[name]
        if isinstance(failure, EngineError):
            nodes.append(replace(node, error=_reason(failure), hint=failure.hint))
            continue
        answer = answers[name]
        lag = None
        if primary is not None and roles[name] is Role.STANDBY:
            lag = _lag(answer, answers[primary].state, before, at)
        nodes.append(
            replace(
                node,
                state=answer.state,
                details=answer.details,
                lag=lag,
                sender=_sender(name, answers, primary),
                new_conflicts=_new_conflicts(name, answer, last),
            )
        )
    limits = ReplicaLimits(replication.max_lag_bytes, replication.max_lag_seconds)
    status = ReplicaStatus(cluster, at, limits, primary, tuple(nodes))
    return replace(status, problems=problems_of(status))


def _with_timeline(state: NodeState, seen: Mapping[tuple[int, str], int]) -> NodeState:
    """A standby that receives nothing tells the timeline of its last restartpoint: it may have been on a later one."""
    known = seen.get((state.system_identifier, state.node), 0)
    return replace(state, timeline=max(state.timeline, known)) if state.in_recovery else state


def _lag(answer: Surveyed, primary: NodeState, before: Sequence[Look], at: datetime) -> Lag:
    """As seconds the least of what is known to be no less than the truth."""
    state = answer.state
    track = track_of(before, primary.system_identifier, primary.timeline, at)
    if primary.position is not None:
        track.saw(primary.position, at.timestamp())
    # Of one that replays late on purpose the age of its last transaction says nothing: it may wait for the next one rightly.
    bound = track.lag(replace(state, replayed_age=None) if state.apply_delay else state, at.timestamp())
    if bound == NO_LAG or answer.caught_up is not None:
        return Lag(bound.nbytes, answer.caught_up or 0.0)
    ages = [bound.seconds, None if state.apply_delay else state.replayed_age]
    known = [max(0.0, each) for each in ages if each is not None]
    return Lag(bound.nbytes, max(answer.waited, min(known)) if known else None)


def _sender(name: str, answers: Mapping[str, Surveyed], primary: str | None) -> Sender | None:
    """What the node that `name` streams from says of it: by its slot, else by a name that only one there has."""
    details = answers[name].details
    first = [primary] if primary is not None and primary != name else []
    for upstream in (*first, *(each for each in answers if each not in (name, primary))):
        senders = answers[upstream].details.senders
        for each in senders:
            if details.slot_name and each.slot == details.slot_name:
                return each
        named = [each for each in senders if details.application and each.application == details.application]
        if len(named) == 1:
            return named[0]
    return None


def _new_conflicts(name: str, answer: Surveyed, last: Look | None) -> int | None:
    now = answer.details.conflicts
    seen = None if last is None or name not in last.nodes else last.nodes[name].conflicts
    if now is None or seen is None:
        return None
    # A smaller number counts from a beginning that lies between the looks.
    return now - seen if now >= seen else now


def _reason(error: EngineError) -> str:
    reason = str(error.context.get("reason", ""))
    # libpq's own question adds nothing.
    reason = reason.partition(" Is the server running")[0]
    return f"{error.message} ({reason})" if reason else error.message
