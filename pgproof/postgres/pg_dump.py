"""The commands of pg_dump, pg_dumpall and pg_restore, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What of a dump is left out, and with `use_list` (as `pg_restore --list` prints it) what is restored and when."""

    owners: bool = True
    privileges: bool = True
    tablespaces: bool = True
    publications: bool = True
    subscriptions: bool = True
    sections: tuple[str, ...] = ()
    use_list: str | None = None


def restore_command(
    programs: Programs,
    conninfo: str,
    directory: Path,
    *,
    jobs: int,
    options: RestoreOptions,
    list_file: Path | None = None,
) -> list[str | Path]:
    """A restore of a dump's directory that ends at the first error."""
    left_out = {
        "--no-owner": options.owners,
        "--no-privileges": options.privileges,
        "--no-tablespaces": options.tablespaces,
        "--no-publications": options.publications,
        "--no-subscriptions": options.subscriptions,
    }
    return [
        programs.path("pg_restore"),
        f"--dbname={conninfo}",
        "--format=directory",
        f"--jobs={jobs}",
        "--exit-on-error",
        "--no-password",
        *(name for name, wanted in left_out.items() if not wanted),
        *(f"--section={section}" for section in options.sections),
        *([f"--use-list={list_file}"] if list_file else []),
        directory,
    ]


def list_command(programs: Programs, directory: Path) -> list[str | Path]:
    """The table of contents of a dump in words; needs its toc.dat only."""
    return [programs.path("pg_restore"), "--list", "--format=directory", directory]
