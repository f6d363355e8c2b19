"""Make a replica one again, on the machine where its files are: what a survey has planned is done, step by step.

The order keeps three promises at every moment. Nothing is written before the directory is proven not to be the primary's
own. While its files are neither the old state nor a whole new one, no server starts on them: during a rewind they are not
where a server would look, during a restore they have no pg_control. And whatever was reached, the same call goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pgproof.actions.rebuild_by_restore import rebuild_by_restore
from pgproof.actions.rebuild_by_rewind import rebuild_by_rewind
from pgproof.actions.rebuild_clock import Clock
from pgproof.actions.rebuild_configuring import configure_standby
from pgproof.actions.rebuild_following import wait_until_followed
from pgproof.actions.rebuild_survey import Survey, survey_rebuild
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.rebuild_loss import Tail
from pgproof.model.rebuild_plan import RebuildPlan, Way
from pgproof.model.rebuild_report import RebuildReport, RebuildRequest
from pgproof.model.replication_config import ReplicationConfig
from pgproof.postgres.rebuild_place import alone_in
from pgproof.postgres.rebuild_primary import provide_slot
from pgproof.postgres.rebuild_witness import refuse_directory_of_primary
from pgproof.postgres.replica_directory import refuse_started

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
        with Clock(job).step("survey") as clock:
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


class _Rebuild:
    def __init__(self, survey: Survey, job: Job, clock: Clock) -> None:
        self.survey = survey
        self.job = job
        self.clock = clock
        self.way = survey.plan.way
        self.tail: Tail | None = survey.plan.tail
        self.slot_made = False
        self.caught_up: Lsn | None = None
        self.notes: tuple[str, ...] = ()

    def run(self) -> None:
        if self.way is Way.NOTHING:
            return
        survey, place = self.survey, self.survey.place
        refuse_directory_of_primary(survey.primary_config, place.data_dir)
        if place.data_dir.is_dir():
            refuse_started(place.data_dir)
        with self.clock.step("slot"):
            # Before the copying: from now on the primary keeps what the replica will ask for.
            self.slot_made = provide_slot(survey.primary_config, survey.standby.slot)
        failpoint("rebuild.slot")
        if self.way is Way.REWIND:
            outcome = rebuild_by_rewind(survey, self.job, self.clock)
            self.tail = outcome.tail
            self.notes += outcome.notes
            if not outcome.done:
                self.way = Way.RESTORE
        if self.way is Way.RESTORE:
            self.notes += rebuild_by_restore(survey, self.job, self.clock)
        with self.clock.step("configure"):
            self.notes += configure_standby(survey, self.way)
        with self.clock.step("start"):
            survey.server.start(self.job)
        with self.clock.step("catch up"):
            self.caught_up = wait_until_followed(survey, self.job)
        place.remove()
