"""Restore a whole cluster into a directory, and run its recovery to the end of the backup."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from pgproof.actions.materialise import Essentials, read_essentials, write_control_file, write_files
from pgproof.actions.opening import open_repository
from pgproof.errors import DataError
from pgproof.model.config import BackupConfig
from pgproof.model.control_file import parse_control_file
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.report import RestoreReport
from pgproof.model.restore_plan import RestorePlan, plan_restore
from pgproof.model.source_files import AUTO_CONF, CONTROL_FILE
from pgproof.postgres.data_directory import DataDirectory, refuse_occupied, refuse_too_small
from pgproof.postgres.osuser import OsUser, service_user
from pgproof.postgres.programs import Programs, find_programs
from pgproof.postgres.scratch import Recovery, scratch_server
from pgproof.repository.catalog import find_backup
from pgproof.repository.content import Content
from pgproof.repository.repository import Repository

_RECOVERY_SECONDS = 24 * 3600.0
# All WAL that was promised lies in pg_wal already, so whatever is asked for beyond it is truly absent.
NOTHING_MORE = "exit 1"
_CONFIG_FOLDER = b"config-from-backup"
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
    repository = open_repository(config)
    return _prepare(repository, config, backup_id, data_dir, tablespaces, recover, owner)[1]


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
    repository = open_repository(config)
    manifest, plan, user, programs, essentials = _prepare(
        repository, config, backup_id, data_dir, tablespaces, recover, owner
    )
    directory = write_files(repository, manifest, plan, essentials, user, job)
    _write_external_config(directory, manifest, essentials)
    end_lsn = None
    notes = list(plan.notes)
    if programs is not None:
        _write_signal(directory)
        directory.sync()
        write_control_file(directory, essentials)
        end_lsn = _recover(manifest, plan, essentials, programs, user, notes, job)
        _tidy(directory)
        directory.sync()
    else:
        _leave_recovery_to_server(repository, directory, manifest)
        directory.sync()
        write_control_file(directory, essentials)
    return RestoreReport(
        backup_id=manifest.backup_id,
        data_dir=str(plan.data_dir),
        size_bytes=manifest.size_bytes,
        files=manifest.files,
        seconds=time.monotonic() - begun,
        recovered=recover,
        end_lsn=end_lsn,
        tablespaces=plan.moved,
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
) -> tuple[Manifest, RestorePlan, OsUser | None, Programs | None, Essentials]:
    """Everything that can be refused is refused here, before the first byte."""
    manifest = find_backup(repository, backup_id)
    user = service_user(owner)
    plan = plan_restore(
        manifest, Path(data_dir).absolute(), tablespaces, recover=recover, owner=user.name if user else None
    )
    programs = find_programs(manifest.major_version, config.bin_dir) if recover else None
    refuse_occupied([plan.data_dir, *plan.tablespaces.values()])
    refuse_too_small(plan.needed)
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
) -> Lsn:
    job.report("recovering")
    with scratch_server(
        programs,
        plan.data_dir,
        user=user,
        control=essentials.parsed,
        tablespaces=list(plan.tablespaces.values()),
        recovery=Recovery(NOTHING_MORE, manifest.timeline),
        settings={"fsync": "on"},
        keep_auto_conf=True,
        job=job,
        timeout=_RECOVERY_SECONDS,
    ) as server:
        end = server.end_of_recovery_lsn
    if end < manifest.stop_lsn:
        raise DataError(
            "recovery ended before the end of the backup",
            hint="restore another backup, and verify this one",
            ended=end,
            promised=manifest.stop_lsn,
        )
    control = parse_control_file((plan.data_dir / CONTROL_FILE.decode()).read_bytes())
    if control.state != "shut down":
        raise DataError("the recovered cluster was not shut down cleanly", state=control.state)
    if manifest.server_version != programs.version:
        notes.append(
            f"recovered with PostgreSQL {programs.version}; the source ran {manifest.server_version}"
        )
    return end


def _write_signal(directory: DataDirectory) -> None:
    """With this file and without a restore_command PostgreSQL refuses to start, should we die here."""
    directory.write_file(b"recovery.signal", b"")


def _tidy(directory: DataDirectory) -> None:
    for name in (b"recovery.signal", b"backup_label.old", b"tablespace_map.old", b"postmaster.opts"):
        directory.remove(name)


def _leave_recovery_to_server(repository: Repository, directory: DataDirectory, manifest: Manifest) -> None:
    content = Content(repository)
    auto_conf = b""
    for segment in repository.segments(manifest):
        for entry in segment.files:
            if entry.path == AUTO_CONF:
                auto_conf = content.read(segment, entry, manifest.block_size)
    addition = _NO_RECOVER.format(timeline=manifest.timeline).encode()
    directory.write_file(AUTO_CONF, auto_conf.rstrip(b"\n") + b"\n" + addition)
    _write_signal(directory)


def _write_external_config(directory: DataDirectory, manifest: Manifest, essentials: Essentials) -> None:
    """Files that the source kept elsewhere, beside a minimal configuration that starts.

    They are not put into effect: a `data_directory` line in them would start the server on the source's data.
    """
    if not any(c.setting == "config_file" for c in manifest.external_config):
        return
    directory.make_plain_directory(_CONFIG_FOLDER)
    taken: set[str] = set()
    for config in manifest.external_config:
        name = Path(config.path).name
        if config.content is None or name in taken:
            continue
        taken.add(name)
        directory.write_file(_CONFIG_FOLDER + b"/" + name.encode(), config.content)
    minima = "".join(f"{name} = {value}\n" for name, value in essentials.parsed.minima.items())
    head = (
        "# The source kept its configuration outside the data directory. Its files, as they were, are in\n"
        "# config-from-backup/: copy from them what you need, without data_directory, hba_file and ident_file.\n"
    )
    directory.write_file(b"postgresql.conf", (head + minima).encode())
    directory.write_file(b"pg_hba.conf", b"# See config-from-backup/.\nlocal all all peer\n")
    directory.write_file(b"pg_ident.conf", b"")
