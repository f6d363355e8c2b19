"""A physical backup, restored into a scratch place and recovered to a point, for as long as somebody asks it something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pgproof.actions.materialise import read_essentials, write_control_file, write_files
from pgproof.actions.recovery_choosing import ChosenRecovery, choose_recovery
from pgproof.actions.restore_planning import Prepared
from pgproof.actions.restore_recovery import refuse_early_end, wal_for
from pgproof.actions.scratch_place import scratch_place
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.restore_plan import RestorePlan, location_text, plan_restore
from pgproof.postgres.osuser import OsUser, service_user
from pgproof.postgres.programs import find_programs
from pgproof.postgres.recovery_tuning import recovery_tuning
from pgproof.postgres.restore_target import refuse_too_small
from pgproof.postgres.scratch import Recovery, ScratchServer, scratch_server
from pgproof.repository.repository import Repository

_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RecoveredScratch:
    """A running scratch server; `server.end_of_recovery_lsn` is where it stands."""

    manifest: Manifest
    plan: RestorePlan
    server: ScratchServer


@contextmanager
def recovered_scratch(
    repository: Repository,
    config: BackupConfig,
    backup_id: str | None,
    request: RecoveryRequest,
    job: Job,
) -> Iterator[RecoveredScratch]:
    """The server, recovered to the target of `request`; without `backup_id` the backup is picked that leads there.

    Raises PreconditionError before anything is written where the target cannot be reached or there is no room,
    DataError if recovery did not end where the plan said.
    """
    user = service_user(config.scratch_user)
    chosen = choose_recovery(repository, config, backup_id, request, recover=True, user=user, job=job)
    with scratch_place(config, user) as place:
        prepared = plan_scratch_recovery(repository, config, chosen, request, place, user)
        write_scratch_recovery(repository, prepared, job)
        with started_recovery(config, prepared, job) as server:
            yield RecoveredScratch(prepared.manifest, prepared.plan, server)


def plan_scratch_recovery(
    repository: Repository,
    config: BackupConfig,
    chosen: ChosenRecovery,
    request: RecoveryRequest,
    place: Path,
    user: OsUser | None,
) -> Prepared:
    """Raises PreconditionError if `place` has not the room."""
    manifest = chosen.manifest
    programs = find_programs(manifest.major_version, config.bin_dir)
    mapping = {location_text(t): str(place / "tablespaces" / str(t.oid)) for t in manifest.tablespaces}
    plan = plan_restore(manifest, place / "data", mapping, recover=True, owner=user.name if user else None)
    plan = replace(
        plan,
        request=request,
        timeline=chosen.history.timeline,
        stop=chosen.stop,
        wal_end=chosen.wal_end,
        notes=(*plan.notes, *chosen.notes),
    )
    refuse_too_small(plan.needed)
    return Prepared(chosen, plan, user, programs, read_essentials(repository, manifest), None)


def write_scratch_recovery(repository: Repository, prepared: Prepared, job: Job) -> None:
    (prepared.plan.data_dir.parent / "tablespaces").mkdir(mode=0o711)
    directory = write_files(
        repository, prepared.manifest, prepared.plan, prepared.essentials, prepared.user, job
    )
    write_control_file(directory, prepared.essentials)
    failpoint("scratch.written")


@contextmanager
def started_recovery(config: BackupConfig, prepared: Prepared, job: Job) -> Iterator[ScratchServer]:
    """The server on what was written. Raises DataError if recovery did not end where the plan said."""
    chosen, plan, manifest = prepared.chosen, prepared.plan, prepared.manifest
    assert prepared.programs is not None
    with (
        wal_for(config, prepared) as restore_command,
        scratch_server(
            prepared.programs,
            plan.data_dir,
            user=prepared.user,
            control=prepared.essentials.parsed,
            tablespaces=list(plan.tablespaces.values()),
            recovery=Recovery(restore_command, chosen.history.timeline, chosen.stop.target_settings()),
            settings=recovery_tuning(),
            job=job,
            replaying=(manifest.start_lsn, chosen.stop.at or plan.wal_end or manifest.stop_lsn),
            timeout=_SECONDS,
        ) as server,
    ):
        refuse_early_end(server.end_of_recovery_lsn, manifest)
        chosen.stop.refuse_wrong_end(server.end_of_recovery_lsn)
        yield server
