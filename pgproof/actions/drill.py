"""A restore drill: what a real recovery would do, to a moment that is drawn, into a scratch place, with a clock on each step.

Whatever a real recovery would fail at is a report that is not ok. What may pass by itself is raised.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from pgproof.actions.check_files import read_checks
from pgproof.actions.compare_source import compare_with_source
from pgproof.actions.drill_moment import Goal, Window, choose_goal, look
from pgproof.actions.opening import open_repository
from pgproof.actions.recovery_choosing import ChosenRecovery, choose_recovery
from pgproof.actions.restore_planning import Prepared
from pgproof.actions.scratch_checks import after_shutdown, while_running
from pgproof.actions.scratch_place import scratch_place
from pgproof.actions.scratch_recovery import (
    plan_scratch_recovery,
    started_recovery,
    write_scratch_recovery,
)
from pgproof.errors import DataError, EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.drill import DrillReport, DrillRequest, DrillStep
from pgproof.model.job import Job
from pgproof.model.recovery_target import TargetKind
from pgproof.model.report import Check
from pgproof.model.rto import Measured, forecast_rto
from pgproof.postgres.osuser import service_user
from pgproof.postgres.scratch import ScratchServer
from pgproof.repository import drills
from pgproof.repository.repository import Repository
from pgproof.whoami import whoami

_log = logging.getLogger(__name__)

CHOOSE, RESTORE, REPLAY, START, CHECKS = "choose", "restore", "replay", "start", "checks"
_VERIFY = "`pgproof verify {0} --level frames` tells what is damaged; restore another backup meanwhile"


def run_drill(config: BackupConfig, database: str | None, request: DrillRequest, job: Job) -> DrillReport:
    """Carry out one drill and keep its report in the repository.

    `database` is asked the checks that name none. A drill that fails is a report that is not ok. Raises PreconditionError
    for a request that makes no sense, TransientError, ConflictError and Cancelled: then nothing is recorded.
    """
    asked = read_checks(request.checks_dir, database or "postgres") if request.checks_dir else ()
    seed = secrets.randbits(32) if request.seed is None else request.seed
    job.report("opening repository")
    repository = open_repository(config)
    config = replace(config, checks=(*config.checks, *asked))
    run = _Drill(repository, config, request, seed, job)
    run.drill()
    report = run.report()
    failpoint("drill.concluded")
    drills.store_drill(repository, report)
    _log.info(
        "drill ok=%s seed=%d backup=%s end=%s rto=%s seconds=%.1f",
        report.ok,
        report.seed,
        report.backup_id,
        report.end_lsn,
        None if report.rto_seconds is None else round(report.rto_seconds, 1),
        report.seconds,
    )
    return report


def list_drills(config: BackupConfig, limit: int | None = None) -> list[DrillReport]:
    """The newest `limit` drills of the configured repository, the newest first."""
    return drills.list_drills(open_repository(config), limit)


class _Drill:
    """Collects what each step takes and finds."""

    def __init__(
        self, repository: Repository, config: BackupConfig, request: DrillRequest, seed: int, job: Job
    ) -> None:
        self._repository = repository
        self._config = config
        self._request = request
        self._job = job
        self._at = datetime.now(UTC)
        self._begun = time.monotonic()
        job.report("choosing a moment")
        self._window: Window = look(repository, request.backup_id)
        self._goal: Goal = choose_goal(repository, self._window, request, seed)
        self._steps: list[DrillStep] = []
        self._checks: list[Check] = []
        self._report = DrillReport(
            cluster=config.cluster,
            at=self._at,
            by=whoami(),
            seed=seed,
            backup_id=self._goal.backup_id or "",
            target=str(self._goal.request.wanted),
            again="",
            seconds=0,
        )

    def report(self) -> DrillReport:
        return replace(
            self._report,
            seconds=time.monotonic() - self._begun,
            steps=tuple(self._steps),
            checks=tuple(self._checks),
        )

    def drill(self) -> None:
        try:
            self._recover()
        except DataError as error:
            self._failed(error, _VERIFY.format(self._report.backup_id or "ID"))
        except PreconditionError as error:
            if self._request.target is not None and not self._report.backup_id:
                raise  # the user named what cannot be reached
            self._failed(error, "")

    def _recover(self) -> None:
        repository, config, job = self._repository, self._config, self._job
        with self._step(CHOOSE):
            user = service_user(config.scratch_user)
            chosen = choose_recovery(
                repository,
                config,
                self._goal.backup_id,
                self._goal.request,
                recover=True,
                user=user,
                job=job,
            )
        manifest = chosen.manifest
        self._chosen(chosen)
        with ExitStack() as stack:
            with self._step(RESTORE, manifest.size_bytes):
                place = stack.enter_context(scratch_place(config, user))
                prepared = plan_scratch_recovery(repository, config, chosen, self._goal.request, place, user)
                failpoint("drill.place")
                write_scratch_recovery(repository, prepared, job)
            with ExitStack() as running:
                server = self._start(running, prepared)
                with self._step(CHECKS):
                    self._ask(server, chosen)
            with self._step(CHECKS):
                assert prepared.programs is not None
                data_dir = prepared.plan.data_dir
                self._checks += after_shutdown(prepared.programs, data_dir, manifest, user, job)
        self._judge()

    def _chosen(self, chosen: ChosenRecovery) -> None:
        backup_id, target = chosen.manifest.backup_id, self._goal.request.wanted
        option = "--to-time" if target.kind is TargetKind.TIME else "--to-lsn"
        value = target.value.isoformat() if isinstance(target.value, datetime) else target.value
        before = chosen.stop.before
        self._report = replace(
            self._report,
            backup_id=backup_id,
            again=f"pgproof drill --backup {backup_id} {option} {value}",
            last_commit_at=before.time if before is not None else None,
            size_bytes=chosen.manifest.size_bytes,
            notes=tuple(chosen.notes),
        )

    def _start(self, running: ExitStack, prepared: Prepared) -> ScratchServer:
        """Replay and start are one thing for us; the server's log tells them apart."""
        manifest, begun = prepared.manifest, time.monotonic()
        try:
            server = running.enter_context(started_recovery(self._config, prepared, self._job))
        except EngineError as error:
            self._steps.append(DrillStep(REPLAY, False, time.monotonic() - begun))
            error.context.setdefault("step", REPLAY)
            raise
        spent = time.monotonic() - begun
        replay = min(spent, server.replay_seconds)
        replayed = server.end_of_recovery_lsn - manifest.start_lsn
        self._steps += [DrillStep(REPLAY, True, replay, replayed), DrillStep(START, True, spent - replay)]
        seconds = {step.name: step.seconds for step in self._steps}
        measured = Measured(
            seconds[CHOOSE], manifest.size_bytes, seconds[RESTORE], replayed, replay, spent - replay
        )
        newest, wal_bytes = self._window.newest_wal_bytes(self._repository)
        self._report = replace(
            self._report,
            end_lsn=server.end_of_recovery_lsn,
            sandbox=server.sandbox,
            rto_seconds=measured.seconds,
            forecast=forecast_rto(measured, newest.size_bytes, wal_bytes),
        )
        failpoint("drill.started")
        return server

    def _ask(self, server: ScratchServer, chosen: ChosenRecovery) -> None:
        source = self._goal.source
        if source is not None and chosen.stop.at is not None:
            self._checks.append(compare_with_source(server, source, self._job))
        checks, seconds = self._config.checks, self._request.check_seconds
        self._checks += while_running(server, checks, True, self._job, seconds)

    def _judge(self) -> None:
        wrong = [check for check in self._checks if check.ok is False]
        if wrong:
            self._steps = [replace(step, ok=step.ok and step.name != CHECKS) for step in self._steps]
            detail = "; ".join(f"{check.name}: {check.detail}" for check in wrong[:3])
            hint = next((check.hint for check in wrong if check.hint), "")
            self._report = replace(
                self._report,
                failed_step=CHECKS,
                failure=detail,
                hint=hint or f"the server can be looked at after a restore: {self._report.again}",
            )

    def _failed(self, error: EngineError, hint: str) -> None:
        failed = next((step.name for step in self._steps if not step.ok), self._steps[-1].name)
        facts = {key: value for key, value in error.context.items() if key != "step"}
        text = error.message + (f" ({', '.join(f'{k}={v}' for k, v in facts.items())})" if facts else "")
        self._report = replace(
            self._report, failed_step=failed, failure=text, hint=" ".join(filter(None, (error.hint, hint)))
        )

    @contextmanager
    def _step(self, name: str, nbytes: int = 0) -> Iterator[None]:
        """A step that is entered twice is one step."""
        begun = time.monotonic()
        earlier = next((step for step in self._steps if step.name == name), DrillStep(name, True, 0.0))
        self._steps = [step for step in self._steps if step.name != name]
        ok = False
        try:
            yield
            ok = True
        except EngineError as error:
            error.context.setdefault("step", name)
            raise
        finally:
            seconds = earlier.seconds + time.monotonic() - begun
            self._steps.append(DrillStep(name, ok and earlier.ok, seconds, nbytes))
