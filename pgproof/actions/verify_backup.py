"""Verify a backup: its objects, its frames, by starting it, and by asking it everything.

Only a backup that was really restored and started is proven.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pgproof.actions.opening import open_repository
from pgproof.actions.scratch_checks import after_shutdown, while_running
from pgproof.actions.scratch_place import scratch_place
from pgproof.actions.scratch_restore import plan_scratch_restore, started, write_scratch_restore
from pgproof.actions.verify_dumps import RESTORE_OF, restored_dumps
from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, VerifyLevel
from pgproof.model.damage import damaged_packs
from pgproof.model.job import Job
from pgproof.model.manifest import LOGICAL, Manifest
from pgproof.model.report import Check, VerificationReport
from pgproof.postgres.osuser import OsUser, service_user
from pgproof.postgres.programs import Programs, find_programs
from pgproof.repository.catalog import find_backup, refutation, store_verification
from pgproof.repository.dump_reader import DumpReader
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)

_SHOWN = 100


def verify_backup(config: BackupConfig, backup_id: str, level: VerifyLevel, job: Job) -> VerificationReport:
    """Verify up to `level`, store the report beside the backup and return it.

    Damage is a report that is not ok. Raises PreconditionError where this machine cannot verify (programs,
    room, a feature they lack), DataError if the manifest itself cannot be read.
    """
    job.report("opening repository")
    repository = open_repository(config)
    manifest = find_backup(repository, backup_id)
    failpoint("verify.found")
    run = _Verification(config, repository, manifest, job)
    programs = user = None
    if level.includes(VerifyLevel.START):
        user = service_user(config.scratch_user)
        programs = find_programs(manifest.major_version, config.bin_dir)
    run.objects()
    failpoint("verify.objects")
    # Reading tells which files a missing object hits; starting what is damaged would prove nothing.
    if level.includes(VerifyLevel.FRAMES):
        run.frames()
        failpoint("verify.frames")
    if programs is not None and run.ok:
        run.start(programs, user, everything=level is VerifyLevel.FULL)
    failpoint("verify.concluded")
    report = run.report(level)
    store_verification(repository, report)
    failpoint("verify.stored")
    _log.info(
        "backup verified id=%s level=%s ok=%s proven=%s damage=%d seconds=%.1f",
        report.backup_id,
        report.level,
        report.ok,
        report.proven,
        len(report.damage),
        report.seconds,
    )
    return report


class _Verification:
    """Collects what each step finds."""

    def __init__(self, config: BackupConfig, repository: Repository, manifest: Manifest, job: Job) -> None:
        self._config = config
        self._repository = repository
        self._manifest = manifest
        self._job = job
        self._started_at = datetime.now(UTC)
        self._begun = time.monotonic()
        self._checks: list[Check] = []
        self._damage: list[str] = []
        self._bytes_read = 0
        self._proven = False
        self._sandbox = ""

    @property
    def ok(self) -> bool:
        return not self._damage and all(check.ok is not False for check in self._checks)

    def report(self, level: VerifyLevel) -> VerificationReport:
        return VerificationReport(
            backup_id=self._manifest.backup_id,
            level=level,
            ok=self.ok,
            proven=self._proven and self.ok,
            started_at=self._started_at,
            seconds=time.monotonic() - self._begun,
            bytes_read=self._bytes_read,
            checks=tuple(self._checks),
            damage=tuple(self._damage[:_SHOWN]),
            damaged_packs=tuple(
                f"packs/{owner}/{number:08d}" for owner, number in sorted(damaged_packs(self._damage))
            ),
            sandbox=self._sandbox,
        )

    def objects(self) -> None:
        self._job.report("looking for objects")
        wrong = refutation(self._repository, self._manifest.backup_id)
        if wrong:
            self._damage.append(wrong)
            hint = "use a later backup, which has what this one lacks, or an earlier one"
            self._checks.append(Check("not refuted by an audit", False, wrong, hint))
        self._step("objects present", lambda: check_objects(self._repository, self._manifest, self._job))

    def frames(self) -> None:
        def read() -> tuple[str, list[str]]:
            nbytes, damage = check_frames(self._repository, self._manifest, self._job)
            self._bytes_read += nbytes
            return f"{nbytes / 1e6:,.1f} MB read, opened and compared", damage

        self._step("frames whole", read)

    def start(self, programs: Programs, user: OsUser | None, *, everything: bool) -> None:
        with scratch_place(self._config, user) as place:
            failpoint("verify.place")
            try:
                if self._manifest.method == LOGICAL:
                    self._restore_in(place, programs, user, everything)
                else:
                    self._start_in(place, programs, user, everything)
            except DataError as error:
                self._failed(error)

    def _start_in(self, place: Path, programs: Programs, user: OsUser | None, everything: bool) -> None:
        manifest = self._manifest
        scratch = plan_scratch_restore(self._repository, manifest, place, user)
        with self._timed("restored", f"{manifest.size_bytes / 1e6:,.1f} MB in {manifest.files:,} files"):
            write_scratch_restore(self._repository, scratch, self._job)
        failpoint("verify.restored")
        self._bytes_read += manifest.stored_bytes
        begun = time.monotonic()
        with started(scratch, programs, self._job) as server:
            self._sandbox = server.sandbox
            end = server.end_of_recovery_lsn
            self._checks.append(
                Check(
                    "started and recovered",
                    True,
                    f"PostgreSQL {programs.version}, recovered to {end}, promised {manifest.stop_lsn}",
                    "",
                    time.monotonic() - begun,
                )
            )
            self._proven = True
            failpoint("verify.proven")
            self._checks.extend(while_running(server, self._config.checks, everything, self._job))
        failpoint("verify.asked")
        if everything:
            self._checks.extend(after_shutdown(programs, scratch.plan.data_dir, manifest, user, self._job))

    def _restore_in(self, place: Path, programs: Programs, user: OsUser | None, everything: bool) -> None:
        reader = DumpReader(self._repository, self._manifest, self._job)
        with restored_dumps(reader, self._config, place, programs, user, self._checks, self._job) as server:
            self._sandbox = server.sandbox
            self._bytes_read += self._manifest.stored_bytes
            # What was dumped in part may need what was left out.
            self._proven = all(
                check.ok is True for check in self._checks if check.name.startswith(RESTORE_OF)
            )
            failpoint("verify.proven")
            self._checks.extend(while_running(server, self._config.checks, everything, self._job))

    def _step(self, name: str, work: Callable[[], tuple[str, list[str]]]) -> None:
        begun = time.monotonic()
        detail, damage = work()
        self._damage.extend(damage)
        text = f"{len(damage)} damaged or missing" if damage else detail
        self._checks.append(Check(name, not damage, text, "", time.monotonic() - begun))

    @contextmanager
    def _timed(self, name: str, detail: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._checks.append(Check(name, True, detail, "", time.monotonic() - begun))

    def _failed(self, error: DataError) -> None:
        self._damage.append(str(error).partition("\n")[0])
        self._checks.append(Check("restored, started and recovered", False, error.message, error.hint))
