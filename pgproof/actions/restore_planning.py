"""Everything that a restore can refuse, refused before the first byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pgproof.actions.materialise import Essentials, read_essentials
from pgproof.actions.recovery_choosing import ChosenRecovery, choose_recovery
from pgproof.actions.scratch_place import locations_created_by_wal
from pgproof.actions.wal_serving import interpreter_for
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.restore_plan import RestorePlan, plan_restore, unknown_locations
from pgproof.postgres.existing_cluster import ExistingCluster, survey
from pgproof.postgres.osuser import OsUser, service_user
from pgproof.postgres.programs import Programs, find_programs
from pgproof.postgres.restore_target import refuse_occupied, refuse_too_small, refuse_unreachable
from pgproof.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a restore needs; `programs` only where we run the recovery, `existing` only for a delta restore."""

    chosen: ChosenRecovery
    plan: RestorePlan
    user: OsUser | None
    programs: Programs | None
    essentials: Essentials
    existing: ExistingCluster | None

    @property
    def manifest(self) -> Manifest:
        return self.chosen.manifest


def prepare(
    repository: Repository,
    config: BackupConfig,
    backup_id: str | None,
    data_dir: str | Path,
    tablespaces: Mapping[str, str],
    *,
    recover: bool,
    owner: str | None,
    request: RecoveryRequest,
    job: Job,
) -> Prepared:
    user = service_user(owner)
    recover = recover and request.standby is None
    chosen = choose_recovery(repository, config, backup_id, request, recover=recover, user=user, job=job)
    manifest = chosen.manifest
    failpoint("restore.found")
    programs = find_programs(manifest.major_version, config.bin_dir) if recover else None
    in_wal: list[str] = []
    unknown = unknown_locations(manifest, tablespaces)
    if chosen.wal_end is not None:
        in_wal = sorted(unknown)  # only the whole WAL could tell; what is not created there is not used
    elif programs is not None and unknown:
        in_wal = locations_created_by_wal(repository, config, manifest, programs, user, job)
    plan = plan_restore(
        manifest,
        Path(data_dir).absolute(),
        tablespaces,
        recover=recover,
        owner=user.name if user else None,
        in_wal=in_wal,
    )
    plan = replace(
        plan,
        request=request,
        timeline=chosen.history.timeline,
        stop=chosen.stop,
        wal_end=chosen.wal_end,
        notes=(*plan.notes, *chosen.notes),
    )
    existing = None
    if request.delta:
        existing = survey(plan, manifest, repository.segments(manifest), job)
        plan = replace(plan, delta=existing.plan, needed=existing.still_needed(plan.needed))
    places = [plan.data_dir, *plan.tablespaces.values(), *plan.new_tablespaces.values()]
    refuse_occupied(place for place in places if existing is None or place not in existing.places)
    if recover:
        refuse_unreachable(places, user)
    elif needs_repository(chosen, request):
        interpreter_for(user)  # its restore_command is a program of ours
    refuse_too_small(plan.needed)
    failpoint("restore.possible")
    return Prepared(chosen, plan, user, programs, read_essentials(repository, manifest), existing)


def needs_repository(chosen: ChosenRecovery, request: RecoveryRequest) -> bool:
    """Whether a server that recovers by itself will ask for more than lies in its pg_wal."""
    return chosen.wal_end is not None or request.standby is not None
