"""Run the recovery of a restored cluster to its end, on a private server, and prove where it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgproof.actions.restore_planning import Prepared
from pgproof.actions.wal_serving import NOTHING_MORE, wal_source
from pgproof.errors import DataError, EngineError
from pgproof.model.config import BackupConfig
from pgproof.model.control_file import parse_control_file
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.source_files import CONTROL_FILE
from pgproof.model.wal_coverage import Promise
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.programs import Programs
from pgproof.postgres.recovery_tuning import recovery_tuning
from pgproof.postgres.scratch import Handover, Recovery, scratch_server

_RECOVERY_SECONDS = 24 * 3600.0


def run_recovery(
    config: BackupConfig, prepared: Prepared, programs: Programs, notes: list[str], job: Job
) -> tuple[Lsn, dict[str, Path]]:
    """Return where recovery ended, and the places of the tablespaces that it created.

    Raises DataError if it did not end where the plan said.
    """
    plan, manifest = prepared.plan, prepared.manifest
    places = {location: Path(place) for location, place in plan.moved.items()}
    with wal_for(config, prepared) as restore_command:
        chosen = prepared.chosen
        with scratch_server(
            programs,
            plan.data_dir,
            user=prepared.user,
            control=prepared.essentials.parsed,
            tablespaces=list(plan.tablespaces.values()),
            recovery=Recovery(restore_command, chosen.history.timeline, chosen.stop.target_settings()),
            settings=recovery_tuning(),
            handover=Handover(plan.new_tablespaces_dir, places),
            job=job,
            replaying=(manifest.start_lsn, chosen.stop.at or plan.wal_end or manifest.stop_lsn),
            timeout=_RECOVERY_SECONDS,
        ) as server:
            end = server.end_of_recovery_lsn
    refuse_early_end(end, manifest)
    prepared.chosen.stop.refuse_wrong_end(end)
    with on_disk(plan.data_dir):
        control = parse_control_file((plan.data_dir / CONTROL_FILE.decode()).read_bytes())
    if control.state != "shut down":
        raise DataError("the recovered cluster was not shut down cleanly", state=control.state)
    if manifest.server_version != programs.version:
        notes.append(
            f"recovered with PostgreSQL {programs.version}; the source ran {manifest.server_version}"
        )
    if server.raised_limits:
        raised = ", ".join(f"{name} = {value}" for name, value in server.raised_limits.items())
        notes.append(
            f"the source raised its limits after the backup, and recovery needed that: set {raised} before the first "
            "start, because the configuration is the backup's"
        )
    notes += [
        f"the WAL created a tablespace at {location}; it is in {place}"
        for location, place in server.new_tablespaces.items()
    ]
    if server.new_tablespaces:
        made = dict(enumerate(server.new_tablespaces.values()))
        DataDirectory(plan.data_dir, made, prepared.user).sync()
    return end, server.new_tablespaces


@contextmanager
def wal_for(config: BackupConfig, prepared: Prepared) -> Iterator[str]:
    """The restore_command: what the backup brought lies in pg_wal; more comes from the repository."""
    chosen = prepared.chosen
    if chosen.wal_end is None:
        yield NOTHING_MORE
        return
    promise = Promise(chosen.history, chosen.wal_end)
    with wal_source(config, prepared.plan.data_dir, prepared.user, promise=promise) as source:
        try:
            yield source.restore_command
        except EngineError as error:
            # The server only knows that a command failed; we know why.
            if source.failure is not None:
                raise source.failure from error
            raise


def refuse_early_end(end: Lsn, manifest: Manifest) -> None:
    """Raises DataError if recovery ended before the backup was consistent: then rows are missing."""
    if end < manifest.stop_lsn:
        raise DataError(
            "recovery ended before the end of the backup",
            hint="restore another backup, and verify this one",
            ended=end,
            promised=manifest.stop_lsn,
        )
