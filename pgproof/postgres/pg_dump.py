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


def piped_dump_command(
    programs: Programs,
    conninfo: str,
    *,
    snapshot: str,
    sections: Sequence[str] = (),
    via_root: bool = False,
    subscriptions: bool = True,
) -> list[str | Path]:
    """A dump to standard output as an exported snapshot sees the database; the same each time it is run."""
    return [
        programs.path("pg_dump"),
        f"--dbname={conninfo}",
        "--format=custom",
        "--compress=0",
        f"--snapshot={snapshot}",
        "--no-password",
        "--quote-all-identifiers",
        f"--lock-wait-timeout={_LOCK_TIMEOUT}",
        *(f"--section={section}" for section in sections),
        *(["--load-via-partition-root"] if via_root else []),
        *([] if subscriptions else ["--no-subscriptions"]),
    ]


def piped_restore_command(
    programs: Programs,
    conninfo: str,
    *,
    options: RestoreOptions,
    jobs: int = 1,
    archive: Path | None = None,
    list_file: Path | None = None,
    single_transaction: bool = False,
) -> list[str | Path]:
    """A restore of a dump of that form from standard input, or from a file, that ends at the first error."""
    return [
        programs.path("pg_restore"),
        f"--dbname={conninfo}",
        "--format=custom",
        "--exit-on-error",
        "--no-password",
        *(["--single-transaction"] if single_transaction else [f"--jobs={jobs}"]),
        *options.arguments(),
        *([f"--use-list={list_file}"] if list_file else []),
        *([archive] if archive else []),
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

    def arguments(self) -> list[str]:
        left_out = {
            "--no-owner": self.owners,
            "--no-privileges": self.privileges,
            "--no-tablespaces": self.tablespaces,
            "--no-publications": self.publications,
            "--no-subscriptions": self.subscriptions,
        }
        unwanted = [name for name, wanted in left_out.items() if not wanted]
        return [*unwanted, *(f"--section={section}" for section in self.sections)]


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
    return [
        programs.path("pg_restore"),
        f"--dbname={conninfo}",
        "--format=directory",
        f"--jobs={jobs}",
        "--exit-on-error",
        "--no-password",
        *options.arguments(),
        *([f"--use-list={list_file}"] if list_file else []),
        directory,
    ]


def list_command(programs: Programs, directory: Path) -> list[str | Path]:
    """The table of contents of a dump in words; needs its toc.dat only."""
    return [programs.path("pg_restore"), "--list", "--format=directory", directory]


def script_command(programs: Programs, directory: Path, *options: str) -> list[str | Path]:
    """The SQL of a dump to standard output, of what the options choose; without rows it needs toc.dat only."""
    return [programs.path("pg_restore"), "--file=-", "--format=directory", *options, directory]
