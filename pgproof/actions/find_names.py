"""Names for what suspicious transactions touched: from the running server, then from backups, as the user wishes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pgproof.actions.scratch_place import scratch_place
from pgproof.actions.scratch_restore import plan_scratch_restore, started, write_scratch_restore
from pgproof.errors import DataError, EngineError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.harm_scan import Suspect
from pgproof.model.job import Job
from pgproof.model.recovery_choice import Reach, choose_bases
from pgproof.model.relation_names import Names, NamesFrom, Numbers
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import find_programs
from pgproof.postgres.relation_names import learn_names, of_server
from pgproof.repository.repository import Repository

_BACKUPS = 3


def find_names(
    source: NamesFrom,
    suspects: Collection[Suspect],
    postgres: PostgresConfig,
    repository: Repository,
    config: BackupConfig,
    reaches: Sequence[Reach],
    system_identifier: str,
    job: Job,
) -> tuple[Names, list[str]]:
    """What is known, and notes about what could not be asked. What was asked for by name must answer, else an
    EngineError is raised; with AUTO it is a note."""
    names, notes = Names(), list[str]()
    if not suspects or source is NamesFrom.NONE:
        return names, notes
    if source is not NamesFrom.BACKUP:
        job.report("asking the server for names")
        try:
            notes += _ask_server(names, suspects, postgres, system_identifier)
        except EngineError as error:
            if source is NamesFrom.SERVER:
                raise
            notes.append(f"the running server was not asked for names: {error.message}")
    if source is not NamesFrom.SERVER:
        asked: set[str] = set()
        while lacking := _next_lacking(names, suspects, reaches, asked):
            if len(asked) == _BACKUPS:
                notes.append(f"no more than {_BACKUPS} backups were asked for names; look at a shorter time")
                break
            backup_id, some = lacking
            asked.add(backup_id)
            try:
                notes += _ask_backup(names, some, backup_id, repository, config, job)
            except EngineError as error:
                if source is NamesFrom.BACKUP:
                    raise
                notes.append(f"backup {backup_id} was not asked for names: {error.message}")
    return names, notes


def _ask_server(
    names: Names, suspects: Collection[Suspect], postgres: PostgresConfig, system_identifier: str
) -> list[str]:
    connect = of_server(postgres, system_identifier)
    if connect is None:
        raise PreconditionError(
            "the server that is configured is another cluster",
            hint="correct --host and --port, or take the names from a backup: --names backup",
            server=str(postgres),
        )
    # What it counts now, it counts after the harm.
    return learn_names(names, Numbers.of(suspects), connect, estimates=False)


def _next_lacking(
    names: Names, suspects: Collection[Suspect], reaches: Sequence[Reach], asked: set[str]
) -> tuple[str, list[Suspect]] | None:
    """The newest backup before the oldest transaction that lacks names, and all that lack some.

    A backup that was asked has no more to tell, so the one for the next transaction comes in its turn.
    """
    lacking = [suspect for suspect in suspects if names.lacks(suspect)]
    for suspect in lacking:
        for base in choose_bases(reaches, suspect.before)[:1]:
            if base.backup_id not in asked:
                return base.backup_id, lacking
    return None


def _ask_backup(
    names: Names,
    suspects: Collection[Suspect],
    backup_id: str,
    repository: Repository,
    config: BackupConfig,
    job: Job,
) -> list[str]:
    job.report("asking a backup for names")
    manifest = repository.read_manifest(backup_id)
    if manifest is None:
        raise DataError("the backup is gone", hint="run it again", backup=backup_id)
    user = service_user(config.scratch_user)
    programs = find_programs(manifest.major_version, config.bin_dir)
    with scratch_place(config, user) as place:
        scratch = plan_scratch_restore(repository, manifest, place, user)
        write_scratch_restore(repository, scratch, job)
        with started(scratch, programs, job) as server:
            return learn_names(names, Numbers.of(suspects), server.connect, estimates=True)
