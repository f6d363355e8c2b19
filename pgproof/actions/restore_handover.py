"""What a restored cluster gets beside its files: configuration, and what its server needs for its first start."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from pgproof.actions.materialise import Essentials, find_file
from pgproof.actions.recovery_choosing import ChosenRecovery
from pgproof.actions.restore_planning import Prepared, needs_repository
from pgproof.actions.wal_serving import NOTHING_MORE, leave_wal_source
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.recovery_settings import (
    recovery_settings,
    standby_settings,
    with_settings,
    without_recovery,
)
from pgproof.model.restore_plan import RestorePlan
from pgproof.model.source_files import AUTO_CONF
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.new_tablespaces import tablespaces_in_wal
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import find_programs
from pgproof.repository.content import Content
from pgproof.repository.repository import Repository

_CONFIG_FOLDER = b"config-from-backup"
# The names come from the source, and are told in a configuration file.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_MAX_NAME = 100
_RECOVERY_NOTE = "Added by a restore: remove these lines once the server has been promoted."
_STANDBY_NOTE = "Added by a restore: how this standby gets its WAL."


def clear_old_recovery(repository: Repository, directory: DataDirectory, manifest: Manifest) -> None:
    """Take the settings of an earlier recovery, which the source may have kept, out of its automatic ones."""
    inherited = _auto_conf(repository, manifest)
    cleared = without_recovery(inherited)
    if cleared != inherited:
        directory.write_file(AUTO_CONF, cleared)


def leave_recovery_to_server(
    repository: Repository, config: BackupConfig, directory: DataDirectory, prepared: Prepared
) -> None:
    """Exactly one signal file, and settings beside which nothing inherited counts."""
    standby, chosen = prepared.plan.request.standby, prepared.chosen
    restore_command = NOTHING_MORE
    if needs_repository(chosen, prepared.plan.request):
        restore_command = leave_wal_source(config, prepared.plan.data_dir, prepared.user)
    history = _history(chosen)
    if history:
        directory.write_file(b"pg_wal/%08X.history" % chosen.history.timeline, history)
    inherited = _auto_conf(repository, prepared.manifest)
    if standby is not None:
        settings, note = (
            standby_settings(restore_command, standby, prepared.plan.request.timeline),
            _STANDBY_NOTE,
        )
    else:
        settings = recovery_settings(restore_command, chosen.history.timeline, chosen.stop)
        note = _RECOVERY_NOTE
    directory.write_file(AUTO_CONF, with_settings(inherited, settings, note))
    for name in (b"recovery.signal", b"standby.signal"):
        directory.remove(name)
    directory.write_file(b"standby.signal" if standby is not None else b"recovery.signal", b"")


def _history(chosen: ChosenRecovery) -> bytes | None:
    """The history file of the target timeline, if the backup did not bring it."""
    if chosen.history.timeline in (chosen.manifest.timeline, 1):
        return None
    return chosen.archive.read_history(chosen.history.timeline)


def _auto_conf(repository: Repository, manifest: Manifest) -> bytes:
    found = find_file(repository, manifest, AUTO_CONF)
    return Content(repository).read(*found, manifest.block_size) if found else b""


def tidy(directory: DataDirectory) -> None:
    """Remove what a finished recovery leaves behind."""
    for name in (b"recovery.signal", b"backup_label.old", b"tablespace_map.old", b"postmaster.opts"):
        directory.remove(name)


def warn_of_new_tablespaces(
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


def write_external_config(
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
