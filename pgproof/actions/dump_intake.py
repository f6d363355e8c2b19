"""What pg_dump and pg_dumpall write, brought into the repository while they write it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pgproof.errors import DataError, EngineError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.chunks import cuts
from pgproof.model.config import PostgresConfig
from pgproof.model.dump_files import GLOBALS, TOC, directory_of, dump_path
from pgproof.model.dump_log import dump_failure
from pgproof.model.job import Job
from pgproof.postgres.client_access import ClientAccess
from pgproof.postgres.dump_spool import DumpSpool
from pgproof.postgres.refusals import without_secrets
from pgproof.postgres.running import PIPE, Running
from pgproof.postgres.temporary import temporary_directory
from pgproof.repository.chunk_intake import ChunkIntake

_TABLE = re.compile(rb"[0-9]+\.dat\Z")
_LOOK_EVERY = 16 << 20
_LARGEST_GLOBALS = 256 << 20


def take_globals(
    intake: ChunkIntake, command: list[str | Path], access: ClientAccess, config: PostgresConfig, job: Job
) -> str:
    """Store what pg_dumpall prints; returns its warnings."""
    number = intake.begin(GLOBALS)
    held = bytearray()
    with Running(command, access.env, PIPE) as program:
        while piece := program.output.read(1 << 20):
            job.checkpoint()
            held += piece
            if len(held) > _LARGEST_GLOBALS:
                raise DataError("pg_dumpall does not come to an end", bytes=len(held))
        status = program.wait()
        said = program.said
    if status != 0:
        raise _failure("pg_dumpall", status, said, config)
    _put_all(intake, number, memoryview(held), final=True)
    return said


def take_dump(
    intake: ChunkIntake,
    oid: int,
    command: Callable[[Path], list[str | Path]],
    access: ClientAccess,
    config: PostgresConfig,
    place: Path,
    max_rate: int | None,
    progress: Callable[[int], None],
    job: Job,
) -> tuple[int, str]:
    """Store what pg_dump, as `command` runs it into a directory, writes of a database.

    `progress` is told how much was written, every 16 MB. Returns the number of tables whose rows there are, and
    what pg_dump said.
    """
    intake.directory(directory_of(oid))
    tables = next_look = 0
    toc = False
    with (
        temporary_directory("dump", place, None) as directory,
        Running(command(directory), access.env) as program,
        DumpSpool(directory, program.pause, program.resume, max_rate=max_rate) as spool,
    ):
        failpoint("dump.begun")

        def ended() -> bool:
            status = program.poll()
            if status:
                raise _failure("pg_dump", status, program.said, config)
            return status is not None

        while (piece := spool.next(ended, job)) is not None:
            file = piece.file
            if file.number < 0:
                file.number = intake.begin(dump_path(oid, file.name))
                toc = toc or file.name == TOC
                tables += _TABLE.match(file.name) is not None
            spool.done(piece, _put_all(intake, file.number, piece.data, final=piece.final))
            if spool.total >= next_look:
                next_look = spool.total + _LOOK_EVERY
                progress(spool.total)
        failpoint("dump.ended")
        said = program.said
    if not toc:
        raise TransientError("pg_dump ended without a table of contents", hint="run it again")
    return tables, said


def _put_all(intake: ChunkIntake, number: int, data: memoryview, *, final: bool) -> int:
    """Store what can be cut of `data`; returns how much that is, all if it is `final`."""
    at = 0
    for end in cuts(data, final=final):
        intake.put(number, data[at:end])
        at = end
    return at


def _failure(program: str, status: int, said: str, config: PostgresConfig) -> EngineError:
    text = without_secrets(said, config)
    if status < 0 and "error:" not in text:
        return TransientError(
            f"{program} was ended by a signal", hint="run it again; see the kernel's log", signal=-status
        )
    return dump_failure(program, status, text)
