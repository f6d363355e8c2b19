"""The WAL of a backup: streamed into the repository from before its start until its stop position is stored.

The segment before its start is of no use to the backup itself. On a quiet server it joins the WAL of the backup before to
this one's, so that a recovery can begin there if this backup is damaged.
"""

from __future__ import annotations

import time

from pgproof.actions.standby import StandbySource
from pgproof.errors import TransientError
from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, segments_between
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.wal_stream import SystemIdentity, WalStream
from pgproof.repository.leases import Lease
from pgproof.repository.repository import Repository
from pgproof.repository.wal_writer import WalWriter

_PATIENCE_SECONDS = 120.0


def wal_writer(
    repository: Repository,
    facts: ServerFacts,
    level: int | None,
    identity: SystemIdentity,
    start: Lsn,
    segment_size: int,
) -> WalWriter:
    """Raises TransientError if the stream comes from another cluster than the files do."""
    if identity.system_identifier != facts.system_identifier:
        raise TransientError("two connections reached two different clusters", hint="connect to one server")
    return WalWriter(repository, identity.timeline, start, segment_size, level)


def wait_for_wal(
    stream: WalStream,
    wal: WalWriter,
    timeline: int,
    stop: Lsn,
    segment_size: int,
    lease: Lease,
    job: Job,
    standby: StandbySource | None = None,
) -> int:
    """Until the segment with the stop position is stored; return the WAL bytes stored by us.

    A primary ends that segment itself, a `standby` cannot.
    """
    failpoint("backup.waiting")
    job.report("waiting for WAL")
    wanted = segments_between(timeline, stop, stop, segment_size)[-1].end
    patience, durable = time.monotonic() + _PATIENCE_SECONDS, wal.durable
    while wal.durable < wanted:
        stream.check()
        lease.check()
        if standby is not None:
            standby.finish_segment()
        if wal.durable != durable:
            patience, durable = time.monotonic() + _PATIENCE_SECONDS, wal.durable
        if time.monotonic() > patience:
            raise TransientError(
                "the WAL of the backup does not arrive",
                hint=standby.hint
                if standby is not None
                else "run it again; if it stays, look for a server that does not finish its WAL segment",
                stored_to=durable,
                needed=wanted,
            )
        job.checkpoint()
        job.stop.wait(0.02)
    return wal.stored_bytes
