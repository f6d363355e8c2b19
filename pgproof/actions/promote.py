"""Make a standby the primary: it has all that there is, it is promoted, it takes writes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.model.config import PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end
from pgproof.postgres.asking import ask
from pgproof.postgres.node_query import measure_nodes

_LOOK_SECONDS = 5.0
_PAUSE = 0.2
_BETWEEN_LOOKS = 1.0
# A checkpoint's record, 114 bytes, and the header of a page in it; any other record behind it would make more.
_CHECKPOINT_BYTES = 168


def look_at(node: str, server: PostgresConfig) -> NodeState:
    """Raises the engine's errors for one that cannot be asked."""
    answer = measure_nodes({node: server}, _LOOK_SECONDS)[node]
    if isinstance(answer, EngineError):
        raise answer
    return answer


def held_by(servers: Mapping[str, PostgresConfig]) -> tuple[Lsn, dict[str, NodeState]]:
    """How far the most advanced standby has received, and what each is."""
    answers = measure_nodes(servers, _LOOK_SECONDS)
    states = {node: each for node, each in answers.items() if isinstance(each, NodeState)}
    return max((each.held for each in states.values() if each.in_recovery), default=Lsn(0)), states


def wait_for_quiet(
    servers: Mapping[str, PostgresConfig], before: Lsn, seconds: float, job: Job
) -> dict[str, NodeState]:
    """What the standbys hold once none of them receives more: by two looks, of which the first, a second ago at least, has
    found `before`.

    It is the look at the old primary that needs no way to it: whoever still receives is fed by somebody. Raises
    PreconditionError if that does not end.
    """
    end = time.monotonic() + seconds
    while True:
        job.checkpoint()
        most, states = held_by(servers)
        if most == before:
            return states
        if time.monotonic() > end:
            raise PreconditionError(
                "the standbys still receive WAL: the old primary writes, although we do not see it",
                hint="nothing was promoted; end it, or bring the standbys to the server that feeds them",
                seconds=seconds,
            )
        before = most
        time.sleep(_BETWEEN_LOOKS)


def wait_for_everything(
    node: str, server: PostgresConfig, at_least: Lsn, seconds: float, job: Job, *, accept_loss: bool
) -> bool:
    """Wait until a standby has replayed all of a primary that was ended cleanly. Whether that is proven.

    The proof is the last record: a primary that ends well writes a checkpoint, and nothing behind it. Asked for a
    checkpoint the standby makes a restartpoint of it, which stands in its control file then. Raises PreconditionError where it
    does not come, unless `accept_loss`.
    """
    end = time.monotonic() + seconds
    while True:
        job.checkpoint()
        state = look_at(node, server)
        replayed = state.replayed or Lsn(0)
        caught_up = record_end(replayed, state.segment_size) >= record_end(at_least, state.segment_size)
        if caught_up and _ends_with_a_shutdown(server):
            return True
        if time.monotonic() > end:
            break
        time.sleep(_PAUSE)
    if accept_loss:
        return False
    raise PreconditionError(
        f"{node} has not got the end of the old primary's WAL",
        hint="nothing was promoted: start the old primary again, it is whole; its fence must shut it down cleanly "
        "(pg_ctl stop -m fast). --accept-loss goes on without",
        replayed=replayed,
        primary_was_at=at_least,
    )


def _ends_with_a_shutdown(server: PostgresConfig) -> bool:
    """Whether the last record is a checkpoint that was no online one: such a one begins where its record lies."""
    rows = ask(
        server,
        "CHECKPOINT",
        "SELECT checkpoint_lsn = redo_lsn, pg_last_wal_replay_lsn() - checkpoint_lsn FROM pg_control_checkpoint()",
        seconds=_LOOK_SECONDS * 12,
        what="a checkpoint on the standby",
    )
    at_once, behind = rows[0]
    return bool(at_once) and 0 < behind <= _CHECKPOINT_BYTES


def promote(node: str, server: PostgresConfig, seconds: float, job: Job) -> NodeState:
    """Promote, and wait until it is out of recovery and takes a transaction. Return what it is then.

    Raises PreconditionError for a missing right, TransientError if it takes longer than `seconds`: then it may be promoted
    yet, and the next run goes on from there.
    """
    end = time.monotonic() + seconds
    state = look_at(node, server)
    if state.in_recovery:
        job.checkpoint()
        ask(server, "SELECT pg_promote(false)", seconds=_LOOK_SECONDS * 2, what=f"promoting {node}")
    while True:
        job.checkpoint()
        try:
            state = look_at(node, server)
            if state.primary:
                _take_a_write(server)
                return state
        except TransientError as error:
            # A promoted server may refuse for a moment.
            if time.monotonic() > end:
                raise error from None
        if time.monotonic() > end:
            raise TransientError(
                f"{node} was told to take over and does not write yet",
                hint="see its log; once it does, run this again: it goes on from there",
                seconds=seconds,
            )
        time.sleep(_PAUSE)


def _take_a_write(server: PostgresConfig) -> None:
    """A transaction that gets an id and leaves nothing."""
    ask(
        server,
        "BEGIN READ WRITE",
        "SELECT pg_current_xact_id()",
        seconds=_LOOK_SECONDS,
        what="the first transaction",
    )


@dataclass(frozen=True, slots=True)
class Slots:
    """What became of the slots: those that are there now, and those that could not be made, with the reason."""

    kept: tuple[str, ...]
    missing: Mapping[str, str]


def keep_slots(server: PostgresConfig, names: tuple[str, ...]) -> Slots:
    """Physical slots with these names that keep WAL from now on: made where they are missing, never used or given up."""
    kept, missing = [], {}
    for name in names:
        try:
            _keep_slot(server, name)
            kept.append(name)
        except EngineError as error:
            missing[name] = str(error.context.get("reason", error.message))
    return Slots(tuple(kept), missing)


def _keep_slot(server: PostgresConfig, name: str) -> None:
    rows = ask(
        server,
        "SELECT restart_lsn IS NOT NULL AND wal_status <> 'lost' FROM pg_replication_slots WHERE slot_name = %s",
        params=(name,),
        seconds=_LOOK_SECONDS,
    )
    if rows and rows[0][0]:
        return
    if rows:
        ask(server, "SELECT pg_drop_replication_slot(%s)", params=(name,), seconds=_LOOK_SECONDS)
    ask(
        server,
        "SELECT pg_create_physical_replication_slot(%s, true)",
        params=(name,),
        seconds=_LOOK_SECONDS,
        what=f"making the slot {name}",
    )
