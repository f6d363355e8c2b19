"""Room for scratch restores, and what is read there before a real one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgproof.actions.materialise import write_wal
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.new_tablespaces import tablespaces_in_wal
from pgproof.postgres.osuser import OsUser, can_reach
from pgproof.postgres.programs import Programs
from pgproof.postgres.restore_target import refuse_too_small
from pgproof.postgres.temporary import temporary_directory
from pgproof.repository.repository import Repository


@contextmanager
def scratch_place(config: BackupConfig, user: OsUser | None) -> Iterator[Path]:
    """A directory for a scratch restore that the server's user can reach; gone afterwards."""
    parent = Path(config.scratch_dir or tempfile.gettempdir())
    if not parent.is_dir():
        raise PreconditionError(
            "the scratch directory is missing",
            hint="create it or change scratch_dir",
            directory=parent,
        )
    with temporary_directory("scratch", parent, user) as place:
        if not can_reach(user, place):
            raise PreconditionError(
                "the scratch directory cannot be reached by the user who runs PostgreSQL",
                hint="set scratch_dir to a directory whose parents everybody may search, such as /var/tmp",
                directory=place,
                user=user.name if user else None,
            )
        yield place


def locations_created_by_wal(
    repository: Repository,
    config: BackupConfig,
    manifest: Manifest,
    programs: Programs,
    user: OsUser | None,
    job: Job,
) -> list[str]:
    """Where the WAL of a backup creates tablespaces. It is read into a scratch place for that."""
    with scratch_place(config, user) as place:
        refuse_too_small({place: len(manifest.wal_segments) * manifest.wal_segment_size})
        directory = DataDirectory(place / "data", {}, user)
        directory.make_roots(0o700)
        directory.make_plain_directory(b"pg_wal")
        for segment in manifest.wal_segments:
            write_wal(repository, directory, segment, job)
        return tablespaces_in_wal(programs, place / "data" / "pg_wal", manifest.timeline, user, job)
