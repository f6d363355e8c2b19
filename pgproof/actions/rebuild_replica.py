"""Make a replica one again, on the machine where its files are: what a survey has planned is done, step by step.

The order keeps three promises at every moment. Nothing is written before the directory is proven not to be the primary's
own. While its files are neither the old state nor a whole new one, no server starts on them: during a rewind they are not
where a server would look, during a restore they have no pg_control. And whatever was reached, the same call goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.actions.rebuild_following import wait_until_followed
from pgproof.actions.rebuild_survey import Survey, survey_rebuild
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.wal_serving import leave_wal_source, wal_source
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.delta_plan import MARKER
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.node import record_end
from pgproof.model.rebuild_evidence import Stage
from pgproof.model.rebuild_loss import Tail, tail_of
from pgproof.model.rebuild_plan import RebuildPlan, Way
from pgproof.model.rebuild_report import RebuildReport, RebuildRequest
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.replica_conf import following
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.wal_commands import FOLDER
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.rebuild_place import AUTO_CONF, alone_in, mark, put_file
from pgproof.postgres.rebuild_primary import is_directory_of, provide_slot
from pgproof.postgres.replica_directory import read_control
from pgproof.postgres.rewinding import end_well, rewind
from pgproof.postgres.scratch_files import exclusive, sync_directory
from pgproof.postgres.temporary import temporary_directory

_log = logging.getLogger(__name__)


def plan_replica_rebuild(
    postgres: PostgresConfig,
    replication: ReplicationConfig,
    config: BackupConfig | None,
    request: RebuildRequest,
    job: Job,
) -> RebuildPlan:
    """What `rebuild_replica` would do, after the same checks; writes nothing."""
    return survey_rebuild(postgres, replication, config, request, job).plan


def rebuild_replica(
    postgres: PostgresConfig,
    replication: ReplicationConfig,
    config: BackupConfig | None,
    request: RebuildRequest,
    job: Job,
    *,
    planned: Callable[[RebuildPlan], None] = lambda _plan: None,
) -> RebuildReport:
    """Make `request.node` a replica of the present primary, and return when the primary has seen it streaming and caught up.

    Broken off or failed at any step, it goes on from there when it is called again. `planned` is told the plan before
    anything is done, and once more when a running server was stopped, whose files tell only then how far it was. Raises
    PreconditionError before the first change where something is in the way.
    """
    begun = time.monotonic()
    with alone_in(request.data_dir.resolve().parent):
        with _Clock(job).step("survey") as clock:
            survey = survey_rebuild(postgres, replication, config, request, job)
        planned(survey.plan)
        if survey.plan.changes and survey.directory.running:
            with clock.step("stop"):
                # A rewind needs WAL back to before the branch, and without a repository nobody else has it. With one an
                # orderly end is better: what is not archived yet comes into it.
                keep_wal = survey.plan.way is Way.REWIND and survey.repository is None
                survey.server.stop(job, keep_wal=keep_wal)
            # Its files tell how far it was only now.
            survey = survey_rebuild(postgres, replication, config, request, job, stopped=True)
            planned(survey.plan)
        work = _Rebuild(survey, job, clock)
        work.run()
    report = RebuildReport(
        node=request.node,
        primary=survey.primary.name,
        data_dir=str(request.data_dir),
        way=work.way,
        timeline=survey.primary.state.timeline,
        slot=survey.standby.slot,
        slot_made=work.slot_made,
        backup_id=survey.plan.backup_id if work.way is Way.RESTORE else None,
        caught_up=work.caught_up,
        tail=work.tail,
        steps=tuple(clock.steps),
        seconds=time.monotonic() - begun,
        notes=(*survey.plan.notes, *work.notes),
    )
    _log.info(
        "replica rebuilt node=%s way=%s primary=%s timeline=%d slot=%s seconds=%.1f",
        report.node,
        report.way,
        report.primary,
        report.timeline,
        report.slot,
        report.seconds,
    )
    return report


@dataclass
class _Clock:
    """Times the steps, and tells the job of each as it begins."""

    job: Job
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[_Clock]:
        self.job.checkpoint()
        self.job.report(name)
        begun = time.monotonic()
        yield self
        self.steps.append((name, time.monotonic() - begun))


class _Rebuild:
    def __init__(self, survey: Survey, job: Job, clock: _Clock) -> None:
        self.survey = survey
        self.job = job
        self.clock = clock
        self.way = survey.plan.way
        self.tail: Tail | None = survey.plan.tail
        self.slot_made = False
        self.caught_up: Lsn | None = None
        self.notes: list[str] = []

    def run(self) -> None:
        if self.way is Way.NOTHING:
            return
        server, place = self.survey.server, self.survey.place
        if is_directory_of(self.survey.primary_config, place.data_dir):
            raise PreconditionError(
                "this is the data directory of the primary itself; nothing was changed",
                hint="look at --data-dir again",
                path=place.data_dir,
            )
        with self.clock.step("slot"):
            # Before the copying: from now on the primary keeps what the replica will ask for.
            self.slot_made = provide_slot(self.survey.primary_config, self.survey.standby.slot)
        failpoint("rebuild.slot")
        if self.way is Way.REWIND and not self._rewound():
            self.way = Way.RESTORE
        if self.way is Way.RESTORE:
            self._restore()
        with self.clock.step("configure"):
            self._configure()
        with self.clock.step("start"):
            server.start(self.job)
        with self.clock.step("catch up"):
            self.caught_up = wait_until_followed(self.survey, self.job)
        place.remove()

    # by pg_rewind

    def _rewound(self) -> bool:
        """False if it failed and a restore shall follow. Raises PreconditionError if none can."""
        survey, place = self.survey, self.survey.place
        place.make()
        place.move_aside()
        # One that was broken off may have written: what this one says of itself does not tell.
        begun_before = survey.directory.stage is Stage.REWINDING
        changed = begun_before
        with self.clock.step("crash recovery"):
            failure = end_well(place.aside, survey.programs, survey.user, self.job)
        if not failure:
            self._measure_tail()
            place.park_own()
            with self.clock.step("rewind"):
                failure, wrote = self._rewind()
                changed = begun_before or wrote
        if not failure:
            # A standby from the moment on when it is back where a server looks.
            put_file(place.aside / "standby.signal", b"", survey.user)
            place.reach(Stage.READY)
            place.move_back()
            return True
        if survey.plan.backup_id is None:
            if not changed:
                # As good or bad as it was before; should somebody start it, then it writes nothing.
                put_file(place.aside / "standby.signal", b"", survey.user)
                place.move_back()
                place.put_back_own()
                place.remove()
            raise PreconditionError(
                "the rewind failed, and there is no backup to restore instead",
                hint="take a backup of the primary with `pgproof create`, then run this again"
                + ("" if changed else "; the files are as they were"),
                path=place.aside if changed else place.data_dir,
                reason=failure,
            )
        self.notes.append(f"the rewind failed, so a backup was restored: {failure}")
        return False

    def _rewind(self) -> tuple[str, bool]:
        survey, target = self.survey, self.survey.place.aside
        # A folder of ours there would stop pg_rewind at its end: the source has none, and it is not empty.
        with on_disk(target):
            shutil.rmtree(target / FOLDER, ignore_errors=True)
        with temporary_directory("rewind", survey.place.root, survey.user) as work:
            (work / "pg_wal").mkdir(mode=0o755)
            with contextlib.ExitStack() as stack:
                restore_command = ""
                if survey.repository is not None:
                    source = stack.enter_context(wal_source(survey.repository, work, survey.user))
                    restore_command = source.restore_command
                survey.place.reach(Stage.REWINDING)
                done = rewind(
                    target,
                    survey.primary_config,
                    survey.programs,
                    survey.user,
                    self.job,
                    work=work,
                    restore_command=restore_command,
                )
        if not done.failure and not done.rewound:
            self.notes.append("it had written nothing of its own, so nothing had to be rewound")
        return done.failure, done.changed

    def _measure_tail(self) -> None:
        """Now that it ended well it is known where."""
        control = read_control(self.survey.place.aside)
        end = max(control.checkpoint_lsn, control.min_recovery_point)
        end = record_end(end, control.wal_segment_size)
        stored = self.survey.stored
        found = tail_of(self.survey.directory, self.survey.primary.history, end, stored, exact=True)
        # What crash recovery itself has written is nobody's commit, and in no archive.
        if found is not None and (self.tail is None or not self.tail.exact):
            self.tail = found

    # from the repository

    def _restore(self) -> None:
        survey, place = self.survey, self.survey.place
        assert survey.repository is not None and survey.plan.backup_id is not None
        if place.stage is not Stage.RESTORING:
            place.make()
            place.park_own()
            if place.aside.is_dir():
                place.make_unusable(survey.primary.state.system_identifier)
            place.reach(Stage.RESTORING)
        delta = _has_something(place.data_dir)
        if delta and not (place.data_dir / "global" / "pg_control").exists():
            mark(place.data_dir, survey.primary.state.system_identifier, survey.user)
        request = RecoveryRequest(timeline=survey.plan.timeline, standby=survey.standby, delta=delta)
        with self.clock.step("restore"):
            restored = restore_cluster(
                survey.repository,
                survey.plan.backup_id,
                place.data_dir,
                tablespaces={},
                recover=False,
                owner=survey.user.name if survey.user else None,
                request=request,
                job=self.job,
            )
        self.notes += restored.notes
        place.reach(Stage.READY)

    # a standby, ready to be started

    def _configure(self) -> None:
        survey, place = self.survey, self.survey.place
        place.move_back()
        place.put_back_own()
        data_dir = place.data_dir
        with on_disk(data_dir), exclusive(data_dir):
            restore_command = None
            shutil.rmtree(data_dir / FOLDER, ignore_errors=True)
            if survey.repository is not None and survey.fetches:
                restore_command = leave_wal_source(survey.repository, data_dir, survey.user)
            self._leave_history(data_dir)
            auto_conf = data_dir / AUTO_CONF
            before = auto_conf.read_bytes() if auto_conf.is_file() else b""
            put_file(
                auto_conf, following(before, survey.standby, restore_command, survey.pinned), survey.user
            )
            put_file(data_dir / "standby.signal", b"", survey.user)
            for name in ("recovery.signal", os.fsdecode(MARKER)):
                (data_dir / name).unlink(missing_ok=True)
            sync_directory(data_dir)
            self._tell_slots(data_dir)
        failpoint("rebuild.configured")

    def _tell_slots(self, data_dir: Path) -> None:
        """A rewind and a restore leave none; what a primary had for its replicas would keep WAL for nobody."""
        slots = sorted(entry.name for entry in (data_dir / "pg_replslot").iterdir())
        if slots and self.survey.directory.control is not None and not self.survey.directory.was_standby:
            self.notes.append(
                f"it has replication slots of its time as a primary ({', '.join(slots)}): drop those that nobody uses, "
                "or they keep WAL until its disk is full"
            )

    def _leave_history(self, data_dir: Path) -> None:
        """With it the replica knows the primary's way from the start, and replays nothing beyond where it left a timeline."""
        history = self.survey.primary.history
        if not history.switches:
            return
        name = f"{history.timeline:08X}.history"
        put_file(data_dir / "pg_wal" / name, self.survey.history, self.survey.user)
        before = self.survey.directory
        if self.way is not Way.START or before.stage is Stage.READY or not before.was_standby:
            return
        # What was received of a timeline that the primary has left, and is not replayed yet, may go on beyond that; up to
        # there the primary's own files hold the same.
        size = self.survey.primary.state.segment_size
        for path in (data_dir / "pg_wal").iterdir():
            with contextlib.suppress(ValueError):  # history files and folders
                segment = WalSegment.parse(path.name, size)
                if any(
                    each.timeline == segment.timeline and segment.end > each.at for each in history.switches
                ):
                    path.unlink()


def _has_something(data_dir: Path) -> bool:
    return data_dir.is_dir() and any(entry.name != "lost+found" for entry in data_dir.iterdir())
