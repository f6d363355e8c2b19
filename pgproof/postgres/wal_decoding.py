"""Records of WAL files, as PostgreSQL's own `pg_waldump` reads them; streamed, in bounded memory."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Generator, Sequence
from pathlib import Path

from pgproof.errors import PreconditionError
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.server_log import explain, last_lines
from pgproof.model.wal_records import WalRecord, parse_record
from pgproof.postgres.disk_errors import temporary_file
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import Programs, as_user, environment

# How pg_waldump says that there is no more; everything else is a failure of the program.
_END_OF_WAL = re.compile(
    r"error in WAL record at|could not find a valid record after|could not (?:find|open) file|"
    r"could not read from file|could not find any WAL file|invalid record length|"
    r"invalid magic number|could not locate WAL file"
)
_ERROR_LIMIT = 64 << 10
_CHECK_EVERY = 2000


def decode_wal(
    programs: Programs,
    folder: Path,
    timeline: int,
    start: Lsn,
    *,
    rmgrs: Sequence[str] = (),
    user: OsUser | None,
    job: Job,
) -> Generator[WalRecord]:
    """The records that begin at or behind `start`, until a segment file is missing or the WAL ends.

    `folder` holds segment files of `timeline`, which `user` can read. Only records of `rmgrs` are brought, if
    any are named. Whoever has seen enough closes the iterator: then the program ends. Raises PreconditionError
    if it cannot be run.
    """
    command: list[str | Path] = [
        programs.path("pg_waldump"),
        f"--path={folder}",
        f"--timeline={timeline}",
        f"--start={start}",
        *(f"--rmgr={name}" for name in rmgrs),
    ]
    with temporary_file() as errors:
        process = subprocess.Popen(
            as_user(command, user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            cwd="/",
        )
        assert process.stdout is not None
        with contextlib.ExitStack() as stack:
            stack.callback(_end, process)
            for number, line in enumerate(process.stdout):
                if number % _CHECK_EVERY == 0:
                    job.checkpoint()
                record = parse_record(line.decode(errors="replace").rstrip("\n"))
                if record is not None and record.lsn >= start:
                    yield record
            status = process.wait()
            errors.seek(0)
            said = errors.read(_ERROR_LIMIT).decode(errors="replace")
        if status != 0 and not _END_OF_WAL.search(said):
            raise explain(said) or PreconditionError(
                "the WAL could not be read by pg_waldump",
                hint=last_lines(said) or "the program said nothing; run it by hand",
                status=status,
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
