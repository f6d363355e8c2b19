"""The commands of pg_dump, pg_dumpall and pg_restore, as values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pgproof.postgres.programs import Programs

_LOCK_TIMEOUT = "10min"


def dump_command(
    programs: Programs,
    conninfo: str,
    directory: Path,
    *,
    jobs: int,
    tables: Sequence[str] = (),
    exclude_tables: Sequence[str] = (),
    via_root: bool = False,
) -> list[str | Path]:
    """A dump into an empty directory, from one snapshot. What compresses and encrypts it comes later."""
    return [
        programs.path("pg_dump"),
        f"--dbname={conninfo}",
        "--format=directory",
        "--compress=0",
        f"--jobs={jobs}",
        f"--file={directory}",
        "--no-sync",
        "--no-password",
        # Words may become keywords in a later version.
        "--quote-all-identifiers",
        f"--lock-wait-timeout={_LOCK_TIMEOUT}",
        *(f"--table={pattern}" for pattern in tables),
        *(f"--exclude-table={pattern}" for pattern in exclude_tables),
        *(["--load-via-partition-root"] if via_root else []),
    ]


def globals_command(programs: Programs, conninfo: str, *, passwords: bool) -> list[str | Path]:
    """Roles, tablespaces and the settings of roles, to standard output."""
    return [
        programs.path("pg_dumpall"),
        f"--dbname={conninfo}",
        "--globals-only",
        "--no-password",
        "--quote-all-identifiers",
        f"--lock-wait-timeout={_LOCK_TIMEOUT}",
        *([] if passwords else ["--no-role-passwords"]),
    ]
