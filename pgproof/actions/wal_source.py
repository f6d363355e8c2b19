"""A server to stream WAL from: is it the right one, what does it keep for us, and how did it come here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.actions.cluster_identity import ensure_cluster
from pgproof.errors import EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.synchronous import Listed, listed
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_legs import Position
from pgproof.model.wal_stream import StreamOptions
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.wal_slots import Slot, create_slot, drop_slot, read_slot
from pgproof.postgres.wal_stream import SystemIdentity, identify_system, show, timeline_history
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_archive import WalArchive

_UNDEFINED_FILE = "58P01"


@dataclass(frozen=True, slots=True)
class WalSource:
    """What a connected server says of itself."""

    facts: ServerFacts
    identity: SystemIdentity
    history: TimelineHistory
    reserved: Position
    listed: Listed


def look_at_source(
    connection: psycopg.Connection[Any], repository: Repository, options: StreamOptions
) -> tuple[WalSource, WalArchive]:
    """Identify the server, reserve WAL on it, and keep the histories of its timelines.

    Raises PreconditionError for another cluster than the one that is stored, or a slot that is missing.
    """
    pgconn = connection.pgconn
    facts = read_facts(connection)
    ensure_cluster(repository, facts)
    _refuse_other_segments(repository, facts)
    failpoint("stream.identified")
    # The slot comes before the look at the timeline: what follows is reserved.
    slot = _ready_slot(connection, options)
    identity = identify_system(pgconn)
    archive = WalArchive(repository, facts.system_identifier, facts.wal_segment_size)
    history = keep_histories(connection, archive, identity.timeline)
    failpoint("stream.histories")
    reserved = Position(slot.timeline or identity.timeline, slot.restart or identity.position)
    role = listed(show(pgconn, "synchronous_standby_names"), options.application_name)
    return WalSource(facts, identity, history, reserved, role), archive


def keep_histories(
    connection: psycopg.Connection[Any], archive: WalArchive, timeline: int
) -> TimelineHistory:
    """Store the server's history of its timeline, and of those before it where they are not stored yet.

    Raises ConflictError if the repository has another one.
    """
    if timeline == 1:
        return TimelineHistory(1)
    content = timeline_history(connection.pgconn, timeline)
    archive.create_history(timeline, content)
    history = TimelineHistory.parse(timeline, content)
    known = set(archive.inventory(timeline).histories)
    for switch in history.switches:
        if switch.timeline == 1 or switch.timeline in known or archive.read_history(switch.timeline):
            continue
        try:
            archive.create_history(switch.timeline, timeline_history(connection.pgconn, switch.timeline))
        except EngineError as error:
            # A server that was restored or rebuilt has only the histories that it needed itself.
            if error.context.get("sqlstate") != _UNDEFINED_FILE:
                raise
    return history


def _refuse_other_segments(repository: Repository, facts: ServerFacts) -> None:
    known = repository.read_json(Kind.CLUSTER, repository.layout.cluster).get("wal_segment_size")
    if known != facts.wal_segment_size:
        raise PreconditionError(
            "the cluster's WAL segment size has changed",
            hint="after pg_resetwal --wal-segsize, give the cluster a new name with --cluster and take a full backup",
            stored=known,
            found=facts.wal_segment_size,
        )


def _ready_slot(connection: psycopg.Connection[Any], options: StreamOptions) -> Slot:
    pgconn = connection.pgconn
    slot = read_slot(pgconn, options.slot)
    if slot is not None and slot.restart is not None:
        return slot
    if not options.create_slot:
        raise PreconditionError(
            "the server has no such replication slot"
            if slot is None
            else "the replication slot keeps no WAL: the server has given it up, or it was never used",
            hint="add --create-slot, which makes it with WAL reserved at once"
            + ("" if slot is None else " in place of the old one"),
            slot=options.slot,
        )
    if slot is not None:
        drop_slot(pgconn, options.slot)
    failpoint("stream.slotless")
    return create_slot(pgconn, options.slot)
