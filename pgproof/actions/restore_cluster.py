"""Restore a whole cluster into a directory, and run its recovery to the target."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pgproof.actions.materialise import write_control_file, write_files
from pgproof.actions.opening import open_for_reading
from pgproof.actions.restore_handover import (
    clear_old_recovery,
    leave_recovery_to_server,
    tidy,
    warn_of_new_tablespaces,
    write_external_config,
)
from pgproof.actions.restore_planning import Prepared, prepare
from pgproof.actions.unlocking import Unlocking
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_request import EVERYTHING, RecoveryRequest
from pgproof.model.report import RestoreReport
from pgproof.model.restore_plan import RestorePlan
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.existing_cluster import clear_for_delta, finish_delta
from pgproof.postgres.programs import Programs
from pgproof.postgres.scratch_files import allow_start, forbid_start

_log = logging.getLogger(__name__)


def plan_cluster_restore(
    config: BackupConfig,
    backup_id: str | None,
    data_dir: str | Path,
    *,
    tablespaces: Mapping[str, str],
    recover: bool,
    owner: str | None,
    request: RecoveryRequest = EVERYTHING,
    job: Job | None = None,
) -> RestorePlan:
    """What `restore_cluster` would do, after the same checks; writes nothing."""
    repository = open_for_reading(config)
    return prepare(
        repository,
        config,
        backup_id,
        data_dir,
        tablespaces,
        recover=recover,
        owner=owner,
        request=request,
        job=job or Job(),
    ).plan


def restore_cluster(
    config: BackupConfig,
    backup_id: str | None,
    data_dir: str | Path,
    *,
    tablespaces: Mapping[str, str],
    recover: bool,
    owner: str | None,
    request: RecoveryRequest = EVERYTHING,
    job: Job,
    unlocking: Unlocking | None = None,
    planned: Callable[[RestorePlan], None] = lambda _plan: None,
) -> RestoreReport:
    """Restore into `data_dir`, which must be missing or empty, or with `delta` hold the same cluster.

    Without `backup_id` the backup that leads to the target is picked. With `recover` a private server replays
    the WAL to the target and shuts down cleanly; without it the server's first start does. Killed at any point,
    it leaves what PostgreSQL refuses to start, or a whole cluster. `planned` is told the plan before anything is
    done. Raises PreconditionError before the first byte where something is in the way, DataError for damage in the
    repository.
    """
    begun = time.monotonic()
    job.report("opening repository")
    repository = open_for_reading(config, unlocking)
    failpoint("restore.opened")
    prepared = prepare(
        repository,
        config,
        backup_id,
        data_dir,
        tablespaces,
        recover=recover,
        owner=owner,
        request=request,
        job=job,
    )
    failpoint("restore.planned")
    manifest, plan = prepared.manifest, prepared.plan
    planned(plan)
    if prepared.existing is not None:
        job.report("removing what is not in the backup")
        clear_for_delta(prepared.existing, manifest, plan.tablespaces)
    written: list[int] = []
    directory = write_files(
        repository, manifest, plan, prepared.essentials, prepared.user, job, written.append
    )
    write_external_config(directory, manifest, plan, prepared.essentials)
    notes = list(plan.notes)
    moved = dict(plan.moved)
    end_lsn = None
    if prepared.programs is not None:
        clear_old_recovery(repository, directory, manifest)
        end_lsn, made = _recover(config, directory, prepared, prepared.programs, notes, job)
        # A mapping for a tablespace that the WAL might have created is no place where one is.
        moved = {old: new for old, new in moved.items() if old not in plan.new_tablespaces}
        moved |= {location: str(place) for location, place in made.items()}
    else:
        leave_recovery_to_server(repository, config, directory, prepared)
        failpoint("restore.left")
        notes += warn_of_new_tablespaces(config, plan, manifest, prepared.user, job)
        directory.sync()
        write_control_file(directory, prepared.essentials)
    if prepared.existing is not None:
        finish_delta(plan.data_dir)
    seconds = time.monotonic() - begun
    _log.info(
        "cluster restored id=%s data_dir=%s target=%s size=%d recovered=%s end=%s seconds=%.1f",
        manifest.backup_id,
        plan.data_dir,
        plan.request.wanted,
        manifest.size_bytes,
        plan.recover,
        end_lsn,
        seconds,
    )
    before = prepared.chosen.stop.before
    return RestoreReport(
        backup_id=manifest.backup_id,
        data_dir=str(plan.data_dir),
        size_bytes=manifest.size_bytes,
        files=manifest.files,
        seconds=seconds,
        recovered=plan.recover,
        end_lsn=end_lsn,
        tablespaces=moved,
        notes=tuple(notes),
        target=str(plan.request.wanted),
        last_commit=before.to_json() if before else None,
        written_bytes=sum(written),
    )


def _recover(
    config: BackupConfig,
    directory: DataDirectory,
    prepared: Prepared,
    programs: Programs,
    notes: list[str],
    job: Job,
) -> tuple[Lsn, dict[str, Path]]:
    # Only who recovers waits for the driver to be imported, which takes a tenth of a second.
    from pgproof.actions.restore_recovery import run_recovery

    plan = prepared.plan
    forbid_start(plan.data_dir, prepared.user)
    failpoint("restore.forbidden")
    directory.sync()
    write_control_file(directory, prepared.essentials)
    end, made = run_recovery(config, prepared, programs, notes, job)
    failpoint("restore.recovered")
    tidy(directory)
    failpoint("restore.tidied")
    directory.sync()
    # The last step: from here on it is a whole cluster that starts with its own settings.
    allow_start(plan.data_dir)
    failpoint("restore.allowed")
    return end, made
