"""Verify a backup: its objects, its frames, by starting it, and by asking it everything.

Only a backup that was really restored and started is proven.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgproof.actions.compare_source import choose_for_source, compare_with_source, request_for
from pgproof.actions.opening import open_repository
from pgproof.actions.scratch_checks import after_shutdown, while_running
from pgproof.actions.scratch_place import scratch_place
from pgproof.actions.scratch_recovery import (
    plan_scratch_recovery,
    started_recovery,
    write_scratch_recovery,
)
from pgproof.actions.scratch_restore import plan_scratch_restore, started, write_scratch_restore
from pgproof.actions.verify_dumps import RESTORE_OF, restored_dumps
from pgproof.errors import DataError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, VerifyLevel
from pgproof.model.damage import damaged_packs
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import LOGICAL, Manifest
from pgproof.model.report import Check, VerificationReport
from pgproof.model.source_fingerprint import SourceFingerprint
from pgproof.postgres.osuser import OsUser, service_user
from pgproof.postgres.programs import Programs, find_programs
from pgproof.postgres.scratch import ScratchServer
from pgproof.repository.catalog import find_backup, find_fingerprint, refutation, store_verification
from pgproof.repository.dump_reader import DumpReader
from pgproof.repository.integrity import check_frames, check_objects, check_rewritten
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)

_SHOWN = 100


def verify_backup(
    config: BackupConfig, backup_id: str, level: VerifyLevel, job: Job, *, against: str = ""
) -> VerificationReport:
    """Verify up to `level`, store the report beside the backup and return it.

    `against` names fingerprints of the source by their LSN, or "latest": then the backup is recovered to exactly that
    point and compared with them, which needs the level `full`.

    Damage is a report that is not ok. Raises PreconditionError where this machine cannot verify (programs,
    room, a feature they lack), DataError if the manifest itself cannot be read.
    """
    job.report("opening repository")
    repository = open_repository(config)
    manifest = find_backup(repository, backup_id)
    failpoint("verify.found")
    source = _source(repository, manifest, level, against) if against else None
    run = _Verification(config, repository, manifest, source, job)
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


def refuse_comparison(level: VerifyLevel) -> None:
    if level is not VerifyLevel.FULL:
        raise PreconditionError(
            "only a full verification compares with the source", hint="add --level full", level=str(level)
        )


def _source(
    repository: Repository, manifest: Manifest, level: VerifyLevel, against: str
) -> SourceFingerprint:
    refuse_comparison(level)
    if manifest.method == LOGICAL:
        raise PreconditionError(
            "only a physical backup can be recovered to a point and compared with its source there",
            hint="name a physical backup",
            backup=manifest.backup_id,
        )
    return find_fingerprint(repository, against, manifest.system_identifier)


@dataclass(frozen=True, slots=True)
class _Scratch:
    """A server that is to be: how it is written and started, where, and how far it has to come."""

    write: Callable[[], None]
    start: Callable[[], AbstractContextManager[ScratchServer]]
    data_dir: Path
    promised: Lsn


class _Verification:
    """Collects what each step finds."""

    def __init__(
        self,
        config: BackupConfig,
        repository: Repository,
        manifest: Manifest,
        source: SourceFingerprint | None,
        job: Job,
    ) -> None:
        self._source = source
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
        if self.ok:
            self._rewritten()

    def _rewritten(self) -> None:
        damage = check_rewritten(self._repository, self._manifest, self._job)
        if damage:
            text = f"{len(damage)} damaged, the packs before them still serve: {damage[0]}"
            hint = "nothing is lost: the first `pgproof cleanup` two days after they were rewritten writes them anew"
            self._checks.append(Check("rewritten packs", None, text, hint))

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
        scratch = self._plan(place, programs, user)
        with self._timed("restored", f"{manifest.size_bytes / 1e6:,.1f} MB in {manifest.files:,} files"):
            scratch.write()
        failpoint("verify.restored")
        self._bytes_read += manifest.stored_bytes
        begun = time.monotonic()
        with scratch.start() as server:
            self._sandbox = server.sandbox
            end = server.end_of_recovery_lsn
            self._checks.append(
                Check(
                    "started and recovered",
                    True,
                    f"PostgreSQL {programs.version}, recovered to {end}, promised {scratch.promised}",
                    "",
                    time.monotonic() - begun,
                )
            )
            self._proven = True
            failpoint("verify.proven")
            if self._source is not None:
                self._checks.append(compare_with_source(server, self._source, self._job))
            self._checks.extend(while_running(server, self._config.checks, everything, self._job))
        failpoint("verify.asked")
        if everything:
            self._checks.extend(after_shutdown(programs, scratch.data_dir, manifest, user, self._job))

    def _plan(self, place: Path, programs: Programs, user: OsUser | None) -> _Scratch:
        repository, config, manifest, job = self._repository, self._config, self._manifest, self._job
        if self._source is None:
            scratch = plan_scratch_restore(repository, manifest, place, user)
            return _Scratch(
                lambda: write_scratch_restore(repository, scratch, job),
                lambda: started(scratch, programs, job),
                scratch.plan.data_dir,
                manifest.stop_lsn,
            )
        chosen = choose_for_source(repository, config, manifest, self._source, user, job)
        request = request_for(self._source)
        prepared = plan_scratch_recovery(repository, config, chosen, request, place, user)
        return _Scratch(
            lambda: write_scratch_recovery(repository, prepared, job),
            lambda: started_recovery(config, prepared, job),
            prepared.plan.data_dir,
            self._source.lsn,
        )

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
