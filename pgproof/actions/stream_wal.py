"""The WAL streamer: connect, see what is missing, stream it, and again, for ever.

Every connection begins with a look at the repository and at the server, so that a crash, a lost connection, a
promotion and a gap are all the same case: what is stored says what comes next.
"""

from __future__ import annotations

import logging
from contextlib import closing

from pgproof.actions.opening import open_repository
from pgproof.actions.stream_watches import ListWatch, StandbySlots
from pgproof.actions.wal_push import wal_level
from pgproof.actions.wal_source import WalSource, look_at_source
from pgproof.errors import ConflictError, EngineError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.synchronous import Listed
from pgproof.model.wal_legs import Gap, Leg, Position, next_leg
from pgproof.model.wal_names import StoredRange
from pgproof.model.wal_stream import StreamOptions, StreamReport
from pgproof.postgres.connection import connect_replication
from pgproof.postgres.standby_slots import other_servers
from pgproof.postgres.wal_feed import WalFeed
from pgproof.postgres.wal_slots import check_slot_name, drop_slot
from pgproof.repository.leases import Lease, hold_lease
from pgproof.repository.repository import Repository
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_held import Cadence
from pgproof.repository.wal_intake import WalIntake
from pgproof.repository.wal_inventory import Inventory
from pgproof.repository.wal_parts import Replaced, known_prefix, left_over

_log = logging.getLogger(__name__)

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LAST_FLUSH_SECONDS = 5.0
_REMOVED, _SLOT_BUSY, _SLOT_INVALID = "58P01", "55006", "55000"


def stream_wal(
    postgres: PostgresConfig, config: BackupConfig, options: StreamOptions, job: Job
) -> StreamReport:
    """Stream WAL into the repository until the job is asked to stop.

    Lost connections and stores that do not answer are waited for. Raises PreconditionError where something must be
    changed, ConflictError where another streamer is at work or other WAL is stored already: then nothing more is
    acknowledged.
    """
    check_slot_name(options.slot)
    repository = open_repository(config)
    with hold_lease(repository, "wal") as lease:
        failpoint("stream.leased")
        return _Streamer(postgres, config, options, repository, lease, job).run()


class _Streamer:
    def __init__(
        self,
        postgres: PostgresConfig,
        config: BackupConfig,
        options: StreamOptions,
        repository: Repository,
        lease: Lease,
        job: Job,
    ) -> None:
        self._postgres = postgres
        self._level = wal_level(config)
        self._options = options
        self._repository = repository
        self._lease = lease
        self._job = job
        self._lost: set[Position] = set()
        self._gaps: list[Gap] = []
        self._role: Listed | None = None
        self._connections = 0
        self._stored_bytes = 0
        self._durable = Position(0, Lsn(0))

    def run(self) -> StreamReport:
        pause = _SHORTEST_PAUSE
        while not self._job.stop.is_set():
            before = self._durable
            try:
                self._connect_and_stream()
                pause = _SHORTEST_PAUSE
            except TransientError as error:
                self._lease.check()
                if self._durable != before:
                    pause = _SHORTEST_PAUSE
                _log.warning("WAL is not streamed, next try in %.1f s: %s", pause, error)
                self._job.stop.wait(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
        return StreamReport(
            self._durable.timeline,
            self._durable.lsn,
            self._stored_bytes,
            self._connections,
            tuple(self._gaps),
        )

    def _connect_and_stream(self) -> None:
        self._job.report("connecting")
        name = self._options.application_name
        with closing(connect_replication(self._postgres, name=name)) as connection:
            self._connections += 1
            failpoint("stream.connected")
            source, archive = look_at_source(connection, self._repository, self._options)
            inventory = archive.inventory()
            old = _settle(archive, inventory, self._level)
            failpoint("stream.settled")
            leg, gap = next_leg(
                inventory.stored(),
                source.history,
                archive.segment_size,
                source.reserved,
                self._lost,
            )
            self._note_gap(gap)
            _refuse_server_behind(source, leg)
            at_once = self._at_once(source.listed)
            if not source.facts.full_page_writes:
                _log.warning(
                    "full_page_writes is off: pages that are torn in a crash or a restore cannot be mended"
                )
            feed = WalFeed(connection)
            segment = WalSegment.containing(leg.timeline, leg.start, archive.segment_size)
            options = self._options
            cadence = Cadence(options.part_seconds, options.part_bytes, at_once, options.keep_seconds)
            parts, written = _parts_of(inventory, segment), source.identity.position
            with WalIntake(archive, segment, parts, self._level, cadence, feed.moved, old, written) as intake:
                _log.info(
                    "streaming WAL timeline=%d from=%s synchronous=%s server=%s",
                    leg.timeline,
                    leg.start,
                    at_once,
                    source.facts.version,
                )

                def stored() -> Position | None:
                    return None if intake.durable is None else Position(leg.timeline, intake.durable)

                standbys = other_servers(self._postgres, connection)
                try:
                    with StandbySlots(standbys, options, source.facts.system_identifier, stored):
                        self._stream(feed, leg, segment, intake)
                except EngineError as error:
                    self._learn(error, leg, source)
                    raise
                finally:
                    self._stored_bytes += intake.stored_bytes
                    if intake.durable is not None:
                        self._durable = Position(leg.timeline, intake.durable)

    def _stream(self, feed: WalFeed, leg: Leg, segment: WalSegment, intake: WalIntake) -> None:
        with ListWatch(self._postgres, self._options.application_name, self._role) as watch:

            def goes_on() -> bool:
                self._lease.check()
                self._report(feed, intake)
                if self._job.stop.is_set():
                    intake.flush(_LAST_FLUSH_SECONDS)
                    return False
                if leg.end is not None and intake.position >= leg.end:
                    return not intake.flush(1.0)
                return not watch.changed

            ended = feed.run(self._options.slot, leg.timeline, segment.start, intake, goes_on)
        if ended is None:
            return
        failpoint("stream.timeline.ended")
        while not intake.flush(1.0):
            self._lease.check()
            if self._job.stop.is_set():
                return
        _log.warning(
            "timeline %d ended at %s; timeline %d follows", leg.timeline, ended.switch, ended.next_timeline
        )

    def _learn(self, error: EngineError, leg: Leg, source: WalSource) -> None:
        """What a refused stream says about what to do next."""
        state = error.context.get("sqlstate")
        if state == _REMOVED:
            start = source.reserved.lsn.segment_start(source.facts.wal_segment_size)
            if leg.begin.timeline != source.reserved.timeline or leg.start < start:
                self._lost.add(leg.begin)
        elif state == _SLOT_BUSY:
            raise TransientError(
                "the replication slot is in use",
                hint="another program streams from it: stop that, or give this streamer a slot of its own with --slot",
                slot=self._options.slot,
            ) from error
        elif state == _SLOT_INVALID and self._options.create_slot and "slot" in str(error):
            # The server has given it up although it names a position (idle_replication_slot_timeout).
            with closing(connect_replication(self._postgres)) as connection:
                drop_slot(connection.pgconn, self._options.slot)
            raise TransientError("the server has given the slot up", hint="a new one is made") from error

    def _note_gap(self, gap: Gap | None) -> None:
        if gap is not None and gap not in self._gaps:
            self._gaps.append(gap)
            _log.error(
                "GAP in the WAL %s: the server has removed what was not stored yet. No restore passes it; "
                "take a full backup now",
                gap,
            )

    def _at_once(self, role: Listed) -> bool:
        first, self._role = self._role is None, role
        if role is Listed.STAR and not self._options.synchronous:
            hint = (
                f"write names in place of *, with {self._options.application_name} among them if commits are to wait "
                "for the repository; or say so here with --synchronous"
            )
            if first:
                raise PreconditionError(
                    "synchronous_standby_names is *, so that the server's commits would wait for the repository",
                    hint=hint,
                )
            _log.warning(
                "commits wait for the repository, because synchronous_standby_names is now *: %s", hint
            )
        return self._options.synchronous or role is not Listed.NO

    def _report(self, feed: WalFeed, intake: WalIntake) -> None:
        durable, end = intake.durable, feed.server_end
        if durable is not None:
            lag = max(0, end - durable) if end is not None else 0
            self._job.report("storing WAL" if lag else "up to date", durable.value, durable.value + lag)


def _refuse_server_behind(source: WalSource, leg: Leg) -> None:
    position = source.identity.position
    if source.identity.timeline != leg.timeline or leg.end is not None or leg.start <= position:
        return
    if source.facts.in_recovery:
        raise TransientError(
            "this standby has less WAL than the repository", hint="wait for it, or stream from the primary"
        )
    raise ConflictError(
        "the server has less WAL than is stored of its timeline",
        hint="it was set back without a new timeline (a snapshot, a copy): give it its own --cluster name",
        stored_to=leg.start,
        server_at=position,
        timeline=leg.timeline,
    )


def _parts_of(inventory: Inventory, segment: WalSegment) -> list[StoredRange]:
    ranges = [stored.range for stored in inventory.pieces]
    return [each for each in ranges if each.segment == segment and not each.whole]


def _settle(archive: WalArchive, inventory: Inventory, level: int | None) -> list[Replaced]:
    """Finish what a streamer that died had begun: store segments whole whose parts are complete, and return the
    parts that were replaced."""
    known: dict[WalSegment, list[StoredRange]] = {}
    for stored in inventory.pieces:
        known.setdefault(stored.range.segment, []).append(stored.range)
    old = []
    for segment, ranges in known.items():
        if not any(each.whole for each in ranges) and max(each.end for each in ranges) == segment.size:
            data = known_prefix(archive.repository, ranges)
            if len(data) == segment.size:
                archive.create(StoredRange(segment, 0, segment.size), data, level)
                ranges.append(StoredRange(segment, 0, segment.size))
        old += left_over(segment, ranges)
    return old
