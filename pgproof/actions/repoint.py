"""Lead the other standbys to the new primary, and see that they stream from it.

Only where their primary is changes: everything else of primary_conninfo stays as it was, a password too, and none is added.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.failover_evidence import NodeFacts
from pgproof.model.failover_nodes import diverged
from pgproof.model.failover_report import Follower, Outcome
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.servers import place
from pgproof.postgres.asking import ask
from pgproof.postgres.failover_facts import parse_conninfo, places, read_failover_facts
from pgproof.postgres.node_query import measure_nodes

_LOOK_SECONDS = 5.0
_PAUSE = 0.5
_WHERE = ("host", "hostaddr", "port")


@dataclass(frozen=True, slots=True)
class NewPrimary:
    """`kept` is what it had received itself when it was promoted, None if that is not known any more."""

    node: str
    server: PostgresConfig
    state: NodeState
    kept: Lsn | None = None


def repoint(
    primary: NewPrimary,
    servers: Mapping[str, PostgresConfig],
    followers: tuple[str, ...],
    seconds: float,
    job: Job,
) -> tuple[Follower, ...]:
    """One answer for each of `followers`. What cannot be done for one of them does not keep the others."""
    found, led = {}, {}
    for node in followers:
        job.checkpoint()
        try:
            facts, why, hint = _lead(primary, node, servers)
            if why:
                found[node] = Follower(node, Outcome.LATER, why, hint)
            else:
                led[node] = facts
        except EngineError as error:
            reason = str(error.context.get("reason", "")) or error.message
            found[node] = Follower(node, Outcome.BY_HAND, reason, error.hint)
        except _StaysError as stays:
            found[node] = stays.follower
    found |= _wait_for_streams(primary, servers, led, seconds, job)
    return tuple(found[node] for node in followers)


class _StaysError(Exception):
    """This one is not led anywhere."""

    def __init__(self, follower: Follower) -> None:
        super().__init__(follower.node)
        self.follower = follower


def _lead(
    primary: NewPrimary, node: str, servers: Mapping[str, PostgresConfig]
) -> tuple[NodeFacts, str, str]:
    """Change its setting where that is needed. What it is known by on its primary; and why it will only stream later, if so,
    with a hint."""
    server = servers[node]
    answer = measure_nodes({node: server}, _LOOK_SECONDS)[node]
    if isinstance(answer, EngineError):
        raise answer
    if diverged(answer, primary.state, primary.kept):
        raise _StaysError(
            Follower(
                node,
                Outcome.REBUILD,
                f"it has WAL that timeline {primary.state.timeline} lacks",
                f"pgproof replicas rebuild {node}",
            )
        )
    facts = read_failover_facts(server, _LOOK_SECONDS)
    _point(primary, node, servers, answer, facts)
    # A standby looks for its primary when it has replayed all that it holds.
    if answer.replay_paused:
        return facts, "it is led there, and its replay is paused", "on it: SELECT pg_wal_replay_resume()"
    if answer.apply_delay > 0 and not _streams(answer):
        return facts, f"it is led there, and replays {answer.apply_delay:g} s late", ""
    return facts, "", ""


def _point(
    primary: NewPrimary,
    node: str,
    servers: Mapping[str, PostgresConfig],
    answer: NodeState,
    facts: NodeFacts,
) -> None:
    """Raises PreconditionError for what only a person can change."""
    server = servers[node]
    wanted = place(primary.server)
    others = {place(each) for name, each in servers.items() if name not in (node, primary.node)}
    if facts.upstream is None:
        raise PreconditionError(
            "the role may not see the standby's primary_conninfo",
            hint=f"GRANT pg_monitor TO {facts.user}; {_by_hand(wanted)}",
        )
    if wanted in facts.upstream:
        return
    if len(facts.upstream) == 1 and _streams(answer) and facts.upstream[0] in others:
        return  # from another standby, which is led itself
    if facts.conninfo_source == "command line":
        raise PreconditionError(
            "its primary_conninfo comes from the server's command line, which wins over every file",
            hint=f"start the server without that option; {_by_hand(wanted)}",
        )
    if not facts.follows_latest:
        raise PreconditionError(
            "its recovery_target_timeline is not 'latest', so that it would not follow",
            hint="ALTER SYSTEM RESET recovery_target_timeline, and restart it",
        )
    missing = [
        right
        for has, right in (
            (facts.may_alter, f"GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO {facts.user}"),
            (facts.may_reload, f"GRANT EXECUTE ON FUNCTION pg_reload_conf() TO {facts.user}"),
        )
        if not has
    ]
    if missing:
        raise PreconditionError(
            f"the role {facts.user} may not lead it",
            hint=f"run on the primary: {'; '.join(missing)}; {_by_hand(wanted)}",
        )
    _change(server, primary.server)


def _streams(state: NodeState) -> bool:
    return state.receiver == "streaming"


def _by_hand(wanted: tuple[str, str]) -> str:
    return f"or set host={wanted[0]} port={wanted[1]} in its primary_conninfo yourself"


def _change(server: PostgresConfig, primary: PostgresConfig) -> None:
    rows = ask(
        server, "SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'", seconds=_LOOK_SECONDS
    )
    known = parse_conninfo(str(rows[0][0]))
    kept = {name: value for name, value in known.items() if name not in _WHERE}
    where = {name: value for name, value in primary.parameters().items() if name in _WHERE}
    changed = make_conninfo("", **{**kept, **where})
    statement = sql.SQL("ALTER SYSTEM SET primary_conninfo = {}").format(sql.Literal(changed))
    ask(server, statement, seconds=_LOOK_SECONDS, what="changing primary_conninfo")
    ask(server, "SELECT pg_reload_conf()", seconds=_LOOK_SECONDS, what="reloading")


def _wait_for_streams(
    primary: NewPrimary,
    servers: Mapping[str, PostgresConfig],
    led: Mapping[str, NodeFacts],
    seconds: float,
    job: Job,
) -> dict[str, Follower]:
    """Until each receives on the new timeline, and the primary's own list (pg_stat_replication) has as many of its name."""
    end, found = time.monotonic() + seconds, {}
    waiting = dict(led)
    cascading = {node for node, facts in led.items() if facts.upstream and not _from(primary, servers[node])}
    while waiting:
        job.checkpoint()
        answers = measure_nodes({node: servers[node] for node in waiting}, _LOOK_SECONDS)
        try:
            listed = _listed(primary.server)
        except EngineError:
            listed = Counter()
        late = time.monotonic() > end
        for node in list(waiting):
            answer, name = answers[node], waiting[node].name
            there = node in cascading or listed[name] >= sum(
                each.name == name for other, each in led.items() if other not in cascading
            )
            if (
                isinstance(answer, NodeState)
                and _streams(answer)
                and answer.timeline >= primary.state.timeline
                and there
            ):
                del waiting[node]
                detail = "by another standby" if node in cascading else f"as {name}"
                found[node] = Follower(node, Outcome.STREAMING, detail)
            elif late:
                del waiting[node]
                why = (
                    str(answer)
                    if isinstance(answer, EngineError)
                    else f"its receiver is {answer.receiver or 'away'}"
                )
                found[node] = Follower(
                    node,
                    Outcome.NOT_STREAMING,
                    why.splitlines()[0],
                    "see its log: it may lack a password (~/.pgpass) or a line in pg_hba.conf of the new primary; "
                    f"if it lacks WAL: pgproof replicas rebuild {node}",
                )
        if waiting:
            time.sleep(_PAUSE)
    return found


def _from(primary: NewPrimary, server: PostgresConfig) -> bool:
    """Whether a standby's setting names the new primary now, as one that does not say is expected to."""
    try:
        rows = ask(
            server, "SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'", seconds=_LOOK_SECONDS
        )
    except EngineError:
        return True
    return bool(rows) and place(primary.server) in places(parse_conninfo(str(rows[0][0])))


def _listed(server: PostgresConfig) -> Counter[str]:
    rows = ask(
        server,
        "SELECT application_name, count(*) FROM pg_stat_replication WHERE state = 'streaming' GROUP BY 1",
        seconds=_LOOK_SECONDS,
    )
    return Counter(dict(rows))
