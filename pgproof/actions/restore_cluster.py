"""Restore a whole cluster into a directory, and run its recovery to the end of the backup."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path

from pgproof.actions.materialise import (
    Essentials,
    find_file,
    read_essentials,
    write_control_file,
    write_files,
)
from pgproof.actions.opening import open_for_reading
from pgproof.actions.scratch_place import locations_created_by_wal
from pgproof.errors import DataError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.control_file import parse_control_file
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.report import RestoreReport
from pgproof.model.restore_plan import RestorePlan, plan_restore, unknown_locations
from pgproof.model.source_files import AUTO_CONF, CONTROL_FILE
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.new_tablespaces import tablespaces_in_wal
from pgproof.postgres.osuser import OsUser, service_user
from pgproof.postgres.programs import Programs, find_programs
from pgproof.postgres.restore_target import refuse_occupied, refuse_too_small, refuse_unreachable
from pgproof.postgres.scratch import Handover, Recovery, scratch_server
from pgproof.postgres.scratch_files import allow_start, forbid_start
from pgproof.repository.catalog import find_backup
from pgproof.repository.content import Content
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)

_RECOVERY_SECONDS = 24 * 3600.0
# All WAL that was promised lies in pg_wal already, so whatever is asked for beyond it is truly absent.
NOTHING_MORE = "exit 1"
_CONFIG_FOLDER = b"config-from-backup"
# The names come from the source, and are told in a configuration file.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_MAX_NAME = 100
_NO_RECOVER = """
# Added by a restore. All WAL of the backup lies in pg_wal; remove these lines once the server has started.
restore_command = 'exit 1'
recovery_target_timeline = '{timeline}'
"""


def plan_cluster_restore(
    config: BackupConfig,
    backup_id: str,
    data_dir: str | Path,
    *,
    tablespaces: Mapping[str, str],
    recover: bool,
    owner: str | None,
) -> RestorePlan:
    """What `restore_cluster` would do, after the same checks; writes nothing."""
    repository = open_for_reading(config)
    return _prepare(repository, config, backup_id, data_dir, tablespaces, recover, owner, Job())[1]


def restore_cluster(
    config: BackupConfig,
    backup_id: str,
    data_dir: str | Path,
    *,
    tablespaces: Mapping[str, str],
    recover: bool,
    owner: str | None,
    job: Job,
) -> RestoreReport:
    """Restore into `data_dir`, which must be missing or empty.

    With `recover` a private server replays the backup's WAL and shuts down cleanly; without it the WAL lies
    in pg_wal and the server's first start replays it. Killed at any point, it leaves what PostgreSQL refuses
    to start, or a whole cluster. Raises PreconditionError before the first byte where something is in the way,
    DataError for damage in the repository.
    """
    begun = time.monotonic()
    job.report("opening repository")
    repository = open_for_reading(config)
    failpoint("restore.opened")
    manifest, plan, user, programs, essentials = _prepare(
        repository, config, backup_id, data_dir, tablespaces, recover, owner, job
    )
    failpoint("restore.planned")
    directory = write_files(repository, manifest, plan, essentials, user, job)
    _write_external_config(directory, manifest, plan, essentials)
    end_lsn = None
    notes = list(plan.notes)
    moved = dict(plan.moved)
    if programs is not None:
        forbid_start(plan.data_dir, user)
        failpoint("restore.forbidden")
        directory.sync()
        write_control_file(directory, essentials)
        end_lsn, new_tablespaces = _recover(manifest, plan, essentials, programs, user, notes, job)
        failpoint("restore.recovered")
        moved |= {location: str(place) for location, place in new_tablespaces.items()}
        _tidy(directory)
        failpoint("restore.tidied")
        directory.sync()
        # The last step: from here on it is a whole cluster that starts with its own settings.
        allow_start(plan.data_dir)
        failpoint("restore.allowed")
    else:
        _leave_recovery_to_server(repository, directory, manifest)
        failpoint("restore.left")
        notes += _warn_of_new_tablespaces(config, plan, manifest, user, job)
        directory.sync()
        write_control_file(directory, essentials)
    seconds = time.monotonic() - begun
    _log.info(
        "cluster restored id=%s data_dir=%s size=%d recovered=%s end=%s seconds=%.1f",
        manifest.backup_id,
        plan.data_dir,
        manifest.size_bytes,
        recover,
        end_lsn,
        seconds,
    )
    return RestoreReport(
        backup_id=manifest.backup_id,
        data_dir=str(plan.data_dir),
        size_bytes=manifest.size_bytes,
        files=manifest.files,
        seconds=seconds,
        recovered=recover,
        end_lsn=end_lsn,
        tablespaces=moved,
        notes=tuple(notes),
    )


def _prepare(
    repository: Repository,
    config: BackupConfig,
    backup_id: str,
    data_dir: str | Path,
    tablespaces: Mapping[str, str],
    recover: bool,
    owner: str | None,
    job: Job,
) -> tuple[Manifest, RestorePlan, OsUser | None, Programs | None, Essentials]:
    """Everything that can be refused is refused here, before the first byte."""
    manifest = find_backup(repository, backup_id)
    failpoint("restore.found")
    user = service_user(owner)
    programs = find_programs(manifest.major_version, config.bin_dir) if recover else None
    in_wal: list[str] = []
    if programs is not None and unknown_locations(manifest, tablespaces):
        in_wal = locations_created_by_wal(repository, config, manifest, programs, user, job)
    plan = plan_restore(
        manifest,
        Path(data_dir).absolute(),
        tablespaces,
        recover=recover,
        owner=user.name if user else None,
        in_wal=in_wal,
    )
    places = [plan.data_dir, *plan.tablespaces.values(), *plan.new_tablespaces.values()]
    refuse_occupied(places)
    if recover:
        refuse_unreachable(places, user)
    refuse_too_small(plan.needed)
    failpoint("restore.possible")
    essentials = read_essentials(repository, manifest)
    return manifest, plan, user, programs, essentials


def _recover(
    manifest: Manifest,
    plan: RestorePlan,
    essentials: Essentials,
    programs: Programs,
    user: OsUser | None,
    notes: list[str],
    job: Job,
) -> tuple[Lsn, dict[str, Path]]:
    """Return where recovery ended, and the places of the tablespaces that it created."""
    job.report("recovering")
    places = {location: Path(place) for location, place in plan.moved.items()}
    with scratch_server(
        programs,
        plan.data_dir,
        user=user,
        control=essentials.parsed,
        tablespaces=list(plan.tablespaces.values()),
        recovery=Recovery(NOTHING_MORE, manifest.timeline),
        settings={"fsync": "on"},
        handover=Handover(plan.new_tablespaces_dir, places),
        job=job,
        timeout=_RECOVERY_SECONDS,
    ) as server:
        end = server.end_of_recovery_lsn
    refuse_early_end(end, manifest)
    with on_disk(plan.data_dir):
        control = parse_control_file((plan.data_dir / CONTROL_FILE.decode()).read_bytes())
    if control.state != "shut down":
        raise DataError("the recovered cluster was not shut down cleanly", state=control.state)
    if manifest.server_version != programs.version:
        notes.append(
            f"recovered with PostgreSQL {programs.version}; the source ran {manifest.server_version}"
        )
    notes += [
        f"the WAL created a tablespace at {location}; it is in {place}"
        for location, place in server.new_tablespaces.items()
    ]
    if server.new_tablespaces:
        DataDirectory(plan.data_dir, dict(enumerate(server.new_tablespaces.values())), user).sync()
    return end, server.new_tablespaces


def refuse_early_end(end: Lsn, manifest: Manifest) -> None:
    """Raises DataError if recovery ended before the backup was consistent: then rows are missing."""
    if end < manifest.stop_lsn:
        raise DataError(
            "recovery ended before the end of the backup",
            hint="restore another backup, and verify this one",
            ended=end,
            promised=manifest.stop_lsn,
        )


def _tidy(directory: DataDirectory) -> None:
    for name in (b"recovery.signal", b"backup_label.old", b"tablespace_map.old", b"postmaster.opts"):
        directory.remove(name)


def _leave_recovery_to_server(repository: Repository, directory: DataDirectory, manifest: Manifest) -> None:
    found = find_file(repository, manifest, AUTO_CONF)
    auto_conf = Content(repository).read(*found, manifest.block_size) if found else b""
    addition = _NO_RECOVER.format(timeline=manifest.timeline).encode()
    directory.write_file(AUTO_CONF, auto_conf.rstrip(b"\n") + b"\n" + addition)
    directory.write_file(b"recovery.signal", b"")


def _warn_of_new_tablespaces(
    config: BackupConfig, plan: RestorePlan, manifest: Manifest, user: OsUser | None, job: Job
) -> list[str]:
    """What a server must not find out at its first start, which nothing of ours surrounds."""
    try:
        programs = find_programs(manifest.major_version, config.bin_dir)
        found = tablespaces_in_wal(programs, plan.data_dir / "pg_wal", manifest.timeline, user, job)
    except PreconditionError as error:
        return [f"the WAL was not searched for new tablespaces: {error.message}"]
    return [
        f"the WAL creates a tablespace at {location}: the first start writes to that very directory, "
        "so make it, empty, and see that no other server on this machine uses it; or restore with recovery"
        for location in found
        if Path(location) not in plan.tablespaces.values()
    ]


def _write_external_config(
    directory: DataDirectory, manifest: Manifest, plan: RestorePlan, essentials: Essentials
) -> None:
    """Files that the source kept elsewhere, beside a minimal configuration that starts.

    They are not put into effect: a `data_directory` line in them would start the server on the source's data.
    """
    if manifest.external_config:
        directory.make_plain_directory(_CONFIG_FOLDER)
    origins: dict[str, str] = {}
    for config in manifest.external_config:
        if config.content is None:
            continue
        plain = _NOT_IN_NAMES.sub("_", Path(config.path).name)[:_MAX_NAME].strip(".") or "file"
        names = (f"{plain}.{number}" if number > 1 else plain for number in itertools.count(1))
        name = next(name for name in names if name not in origins)
        origins[name] = config.path
        directory.write_file(_CONFIG_FOLDER + b"/" + name.encode(), config.content)
    # Without the right to see where its configuration lay, the backup has none.
    missing = not (plan.data_dir / "postgresql.conf").exists()
    if not missing and not any(c.setting == "config_file" for c in manifest.external_config):
        return
    control = essentials.parsed
    minima = "".join(f"{name} = {value}\n" for name, value in {**control.minima, **control.wal_sizes}.items())
    head = (
        "# The source kept its configuration outside the data directory. Its files, as they were, are in\n"
        "# config-from-backup/: copy from them what you need, without data_directory, hba_file and ident_file.\n"
    ) + "".join(f"# {name}: {path!r}\n" for name, path in origins.items())
    directory.write_file(b"postgresql.conf", (head + minima).encode())
    directory.write_file(b"pg_hba.conf", b"# See config-from-backup/.\nlocal all all peer\n")
    directory.write_file(b"pg_ident.conf", b"")
