"""Wait until the primary has seen a replica streaming, and caught up to where the primary stood when it was started."""

from __future__ import annotations

import time
from contextlib import closing

from pgproof.actions.rebuild_survey import Survey
from pgproof.errors import DataError, EngineError, TransientError
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.node import record_end
from pgproof.postgres.connection import connect
from pgproof.postgres.cutting import cut_after
from pgproof.postgres.rebuild_primary import Streaming, current_position, who_streams
from pgproof.postgres.replica_directory import read_control

_LOOK_SECONDS = 0.5
_ANSWER_SECONDS = 30.0
_PHASE = "catching up"


def wait_until_followed(survey: Survey, job: Job) -> Lsn:
    """Return the position that it has caught up to.

    Raises TransientError when the time is over, its server has ended, or the primary does not answer; its files are good then,
    and it may still catch up.
    """
    wanted = record_end(current_position(survey.primary_config), survey.primary.state.segment_size)
    started = time.monotonic()
    first: Lsn | None = None
    with closing(connect(survey.primary_config)) as connection:
        while True:
            with cut_after(_ANSWER_SECONDS, connection):
                seen = who_streams(connection, survey.standby.slot)
            if _caught_up(seen, wanted, survey.delayed) and survey.server.running:
                return wanted
            reached = seen.replayed or _replayed_alone(survey)
            first = first or reached
            if first is not None and reached is not None:
                job.report(_PHASE, max(0, reached - first), max(0, wanted - first))
            job.checkpoint()
            survey.server.require_alive(started)
            if time.monotonic() - started > survey.request.timeout:
                raise _too_long(survey, seen, wanted)
            time.sleep(_LOOK_SECONDS)


def _caught_up(seen: Streaming, wanted: Lsn, delayed: bool) -> bool:
    if not seen.streams or seen.flushed is None or seen.flushed < wanted:
        return False
    return delayed or (seen.replayed is not None and seen.replayed >= wanted)


def _replayed_alone(survey: Survey) -> Lsn | None:
    """How far it is while it gets its WAL from the repository: its server notes that now and then."""
    try:
        return read_control(survey.request.data_dir).min_recovery_point
    except DataError:
        return None  # read while it was written


def _too_long(survey: Survey, seen: Streaming, wanted: Lsn) -> EngineError:
    what = "streams, and has not caught up yet" if seen.streams else "does not stream from the primary"
    return TransientError(
        f"the replica {what}",
        hint="see its log; if it is still replaying WAL, run this again later or with a longer --timeout",
        node=survey.request.node,
        replayed=seen.replayed or _replayed_alone(survey),
        wanted=wanted,
        seconds=survey.request.timeout,
    )
