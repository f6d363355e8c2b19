"""A backup restored into a scratch place and started there, for as long as somebody asks it something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgproof.actions.materialise import Essentials, read_essentials, write_control_file, write_files
from pgproof.actions.restore_recovery import refuse_early_end
from pgproof.actions.wal_serving import NOTHING_MORE
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.restore_plan import RestorePlan, location_text, plan_restore
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import Programs
from pgproof.postgres.restore_target import refuse_too_small
from pgproof.postgres.scratch import Recovery, ScratchServer, scratch_server
from pgproof.repository.repository import Repository

_START_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ScratchRestore:
    manifest: Manifest
    plan: RestorePlan
    essentials: Essentials
    user: OsUser | None


def plan_scratch_restore(
    repository: Repository, manifest: Manifest, place: Path, user: OsUser | None
) -> ScratchRestore:
    """Raises PreconditionError if `place` has not the room."""
    mapping = {location_text(t): str(place / "tablespaces" / str(t.oid)) for t in manifest.tablespaces}
    owner = user.name if user else None
    plan = plan_restore(manifest, place / "data", mapping, recover=True, owner=owner)
    refuse_too_small(plan.needed)
    return ScratchRestore(manifest, plan, read_essentials(repository, manifest), user)


def write_scratch_restore(repository: Repository, scratch: ScratchRestore, job: Job) -> None:
    (scratch.plan.data_dir.parent / "tablespaces").mkdir(mode=0o711)
    directory = write_files(repository, scratch.manifest, scratch.plan, scratch.essentials, scratch.user, job)
    write_control_file(directory, scratch.essentials)


@contextmanager
def started(scratch: ScratchRestore, programs: Programs, job: Job) -> Iterator[ScratchServer]:
    """The server, recovered to the end of the backup. Raises DataError if it did not get there."""
    job.report("starting the scratch server")
    with scratch_server(
        programs,
        scratch.plan.data_dir,
        user=scratch.user,
        control=scratch.essentials.parsed,
        tablespaces=list(scratch.plan.tablespaces.values()),
        recovery=Recovery(NOTHING_MORE, scratch.manifest.timeline),
        job=job,
        timeout=_START_SECONDS,
    ) as server:
        refuse_early_end(server.end_of_recovery_lsn, scratch.manifest)
        yield server
