"""One table of a logical backup in a new scratch server, for as long as somebody asks it something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgproof.actions.logical_restore import dump_directory, restore_dump_into
from pgproof.actions.scratch_place import scratch_place
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.control_file import parse_control_file
from pgproof.model.dump_list import commands_of, list_for_table, list_of_the_rest
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.table_names import TableName
from pgproof.model.table_rescue import LeftOut
from pgproof.postgres.disk_errors import TEMPORARY, on_disk
from pgproof.postgres.fresh_cluster import clear_names, make_cluster, make_database
from pgproof.postgres.osuser import service_user
from pgproof.postgres.pg_dump import RestoreOptions, list_command, script_command
from pgproof.postgres.programs import find_programs, run
from pgproof.postgres.restore_target import refuse_too_small
from pgproof.postgres.scratch import ScratchServer, scratch_server
from pgproof.repository.dump_reader import DumpReader
from pgproof.repository.repository import Repository

_START_SECONDS = 600.0
_LIST_SECONDS = 600.0
# An empty cluster and its WAL.
_EMPTY = 256 << 20


@contextmanager
def dumped_table(
    repository: Repository,
    config: BackupConfig,
    manifest: Manifest,
    database: str,
    table: TableName,
    job: Job,
) -> Iterator[tuple[ScratchServer, list[LeftOut]]]:
    """A server with that database and all that the table needs, and its rows; most other tables are empty there.

    With it comes what the table has in the dump and not there: what refers to rows of other tables, or to roles.
    """
    dumped = next((each for each in manifest.databases if each.name == database), None)
    if dumped is None:
        raise PreconditionError(
            "the backup has no such database",
            hint=f"connect to one of these with --dbname: {', '.join(d.name for d in manifest.databases)}",
            database=database,
        )
    user = service_user(config.scratch_user)
    programs = find_programs(manifest.major_version, config.bin_dir)
    reader = DumpReader(repository, manifest, job)
    with scratch_place(config, user) as place:
        refuse_too_small({place: dumped.size_bytes + _EMPTY})
        with dump_directory(reader, dumped, place, job) as (directory, _large):

            def ask(command: list[str | Path]) -> str:
                return run(command, user=None, timeout=_LIST_SECONDS, what="pg_restore", job=job)

            listing = ask(list_command(programs, directory))
            rest = directory / "list"
            with on_disk(rest, TEMPORARY):
                rest.write_text(list_of_the_rest(listing, table))
            left_out = commands_of(
                ask(script_command(programs, directory, "--no-owner", f"--use-list={rest}"))
            )
        superuser = make_cluster(programs, place / "data", user, job)
        control = parse_control_file((place / "data" / "global" / "pg_control").read_bytes())
        failpoint("scratch.written")
        with scratch_server(
            programs,
            place / "data",
            user=user,
            control=control,
            superuser=superuser,
            job=job,
            timeout=_START_SECONDS,
        ) as server:
            clear_names(server)
            make_database(server, dumped)
            restore_dump_into(
                reader,
                dumped,
                server.config(),
                dumped.name,
                jobs=config.dump_jobs,
                place=place,
                bin_dir=config.bin_dir,
                options=RestoreOptions(
                    owners=False,
                    privileges=False,
                    tablespaces=False,
                    publications=False,
                    subscriptions=False,
                    use_list=list_for_table(listing, table),
                ),
                job=job,
            )
            yield server, left_out
