"""A server on restored files that can never touch production, for as long as a `with` block lasts.

The server has its own configuration, sees only the directories it was given (see `sandbox`), listens on a
socket in a private directory, and dies with the thread that started it. What it leaves behind is the data
directory, shut down.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError
from pgproof.model.control_file import ControlFile
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.postgres.osuser import OsUser, can_reach, give_to
from pgproof.postgres.programs import Finished, Programs, environment, execute, explain, failed_server
from pgproof.postgres.programs import last_lines as last_lines_of
from pgproof.postgres.programs import run as run_program
from pgproof.postgres.sandbox import Sandbox, find_sandbox, refuse_links_outside, server_settings

_POLL = 0.05
_STOP_SECONDS = 120.0
_LOG_LIMIT = 1 << 20
_MAX_TABLESPACES = 20
# PostgreSQL's socket path is limited to 107 bytes; our directory's and the socket's name take 31.
_TEMPORARY_DIR_LIMIT = 76
_PARKED = "postgresql.auto.conf.parked"
_MISSING_TABLESPACE = re.compile(r'FATAL:  directory "(/.*)" does not exist\n.*(?:\n.*)?Tablespace/CREATE')
_REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
_CREATES_TABLESPACE = "pgproof: the WAL creates a tablespace"
# Where there is no sandbox, each segment is looked at before the server may replay it, together with the
# one before it, because a record may begin there.
_GUARD = """\
case "$1" in *[!0-9A-F]*) exit 0 ;; esac
cd {dir} || exit 255
cp "$OLDPWD/$2" "$1" || exit 255
last=$(cat last 2>/dev/null)
found=$({waldump} --rmgr=Tablespace "$1"; {waldump} --rmgr=Tablespace "${{last:-$1}}" "$1")
case "$found" in *CREATE*) echo "{message}" >&2; exit 255 ;; esac
[ -z "$last" ] || [ "$last" = "$1" ] || rm -f "$last"
echo "$1" >last
"""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the server gets its WAL and where it stops; it then promotes itself.

    `restore_command` is PostgreSQL's (with %f and %p); it runs inside the sandbox, as the server's user, so
    whatever it reads must be named in `reads`. `target` holds `recovery_target_…` settings, at most one
    of them a position; without any, recovery goes to the end of the WAL on `target_timeline`.
    """

    restore_command: str
    target_timeline: int
    target: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[Path, ...] = ()

    def settings(self) -> dict[str, str]:
        foreign = sorted(name for name in self.target if not name.startswith("recovery_target"))
        if foreign:
            raise PreconditionError(
                "not a recovery target", hint="name recovery_target_… settings only", settings=foreign
            )
        return {
            **self.target,
            "restore_command": self.restore_command,
            "recovery_target_timeline": str(self.target_timeline),
            "recovery_target_action": "promote",
        }


class ScratchServer:
    """A running server; made by `scratch_server`.

    `superuser` is a role that may do everything and log in. `end_of_recovery_lsn` is where replay really
    ended. `sandbox` says in words what isolates it. `new_tablespaces` maps the locations of tablespaces
    that were created by the replayed WAL to the directories that hold them in truth.
    """

    def __init__(
        self,
        programs: Programs,
        data_dir: Path,
        socket_dir: Path,
        log: int,
        sandbox: Sandbox,
        job: Job,
    ) -> None:
        self.data_dir = data_dir
        self.sandbox = sandbox.description
        self.superuser = "postgres"
        self.maintenance_db = "postgres"
        self.end_of_recovery_lsn = Lsn(0)
        self.new_tablespaces: dict[str, Path] = {}
        self._programs = programs
        self._socket_dir = socket_dir
        self._log = log
        self._user = sandbox.user
        self._job = job

    def conninfo(self, dbname: str) -> str:
        """libpq parameters that reach this server whatever the environment says."""
        return psycopg.conninfo.make_conninfo(
            host=str(self._socket_dir),
            hostaddr="",
            port=5432,
            user=self.superuser,
            dbname=dbname,
            sslmode="disable",
            gssencmode="disable",
            channel_binding="disable",
            target_session_attrs="any",
            connect_timeout=5,
            options=self._options(),
        )

    def connect(self, dbname: str | None = None) -> psycopg.Connection:
        """Connect as the superuser, in autocommit, to `postgres` (or `template1`) unless `dbname` is given.

        Raises PreconditionError where this machine lacks what the database needs, else DataError.
        """
        try:
            return self._open(dbname or self.maintenance_db)
        except psycopg.OperationalError as error:
            raise explain(str(error)) or DataError(
                "cannot connect to a restored database", hint=last_lines_of(str(error)), database=dbname or ""
            ) from error

    def databases(self) -> list[str]:
        """The names of all databases that allow connections."""
        # -2 marks a database whose DROP DATABASE was interrupted.
        query = "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname"
        with self.connect() as connection:
            return [str(row[0]) for row in connection.execute(query)]

    def execute(self, program: str, *arguments: str | Path, timeout: float | None) -> Finished:
        """Run one of PostgreSQL's client programs against this server; its exit status is an answer."""
        return execute(
            [self._programs.path(program), *arguments],
            user=self._user,
            env=self._environment(),
            timeout=timeout,
            what=program,
            job=self._job,
        )

    def run(self, program: str, *arguments: str | Path, timeout: float | None) -> str:
        """Run one of PostgreSQL's client programs against this server; return what it printed."""
        return run_program(
            [self._programs.path(program), *arguments],
            user=self._user,
            env=self._environment(),
            timeout=timeout,
            what=program,
            job=self._job,
        )

    def log_tail(self, lines: int = 20) -> str:
        return last_lines_of(self._log_text(), lines)

    def _open(self, dbname: str) -> psycopg.Connection:
        # An empty require_auth overrides PGREQUIREAUTH; the server trusts whoever reaches its socket.
        return psycopg.connect(self.conninfo(dbname), autocommit=True, require_auth="")

    def _environment(self) -> dict[str, str]:
        return {
            "PGHOST": str(self._socket_dir),
            "PGPORT": "5432",
            "PGUSER": self.superuser,
            "PGDATABASE": self.maintenance_db,
            "PGSSLMODE": "disable",
            "PGOPTIONS": self._options(),
        }

    def _options(self) -> str:
        # Settings of roles and databases beat the server's command line; those of the session beat both.
        names = ["session_preload_libraries=", "local_preload_libraries=", "jit=off", "role=none"]
        names += ["statement_timeout=0", "lock_timeout=0", "idle_in_transaction_session_timeout=0"]
        names += ["idle_session_timeout=0", "default_transaction_read_only=off"]
        if self._programs.major >= 17:
            names += ["event_triggers=off", "transaction_timeout=0"]
        return " ".join(f"-c {name}" for name in names)

    def _log_text(self) -> str:
        size = os.fstat(self._log).st_size
        return os.pread(self._log, _LOG_LIMIT, max(0, size - _LOG_LIMIT)).decode(errors="replace")

    def _try_to_open(self) -> bool:
        """Connect and learn who the superuser is; False while the server does not answer yet."""
        for dbname in ("postgres", "template1"):
            try:
                with self._open(dbname) as connection:
                    row = connection.execute(
                        "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid <> 10, oid"
                    ).fetchone()
                    if row is None or connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
                        return False
                    self.superuser, self.maintenance_db = str(row[0]), dbname
                    return True
            except psycopg.OperationalError as error:
                text = str(error)
                if "FATAL:  database" in text and "system" not in text:
                    continue  # that database does not exist or takes no connections: try the next one
                if "FATAL:  role" in text:
                    raise _UnknownSuperuser from error
                if "FATAL:" in text and "the database system is" not in text and "clients" not in text:
                    raise explain(text) or failed_server(text) from error
                return False
        raise PreconditionError(
            "neither the database postgres nor template1 takes connections",
            hint="this cluster cannot be checked by connecting to it",
        )

    def _learn_end_of_recovery(self, control: ControlFile) -> Lsn:
        with self.connect() as connection:
            row = connection.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
            assert row is not None
            timeline = int(row[0][:8], 16)
            if timeline != control.timeline:
                # The last line of a timeline's history says where it left its parent.
                row = connection.execute(
                    "SELECT pg_read_file(%s)", [f"pg_wal/{timeline:08X}.history"]
                ).fetchone()
                assert row is not None
                last = [line for line in str(row[0]).splitlines() if line.strip()][-1]
                return Lsn.parse(last.split()[1])
        redone = _REDO_DONE.findall(self._log_text())
        return Lsn.parse(redone[-1]) if redone else control.checkpoint_lsn


class _UnknownSuperuser(Exception):
    """There is no role `postgres` that may log in."""


@contextlib.contextmanager
def scratch_server(
    programs: Programs,
    data_dir: Path,
    *,
    user: OsUser | None,
    control: ControlFile,
    tablespaces: Sequence[Path] = (),
    recovery: Recovery | None = None,
    settings: Mapping[str, str] = {},
    sandboxed: bool = True,
    preload: Sequence[str] = (),
    keep_auto_conf: bool = False,
    new_tablespaces_dir: Path | None = None,
    job: Job,
    timeout: float,
) -> Iterator[ScratchServer]:
    """Start a server on `data_dir`, which `user` owns, and yield it once it takes connections.

    `control` is the pg_control of these files; `tablespaces` are the directories outside `data_dir` that it
    may use. `recovery` replays WAL first. `settings` may not loosen the isolation; `fsync` is off unless
    given. postgresql.auto.conf is out of the way meanwhile; `keep_auto_conf` puts it back, for a cluster that
    is handed over. Tablespaces that the WAL creates are kept in `new_tablespaces_dir`, or else discarded with
    the server, or refused if the cluster is handed over.

    Raises PreconditionError where this machine cannot check these files or recovery target, TransientError
    when WAL could not be fetched or `timeout` seconds have passed, DataError when the server gives up on the
    files, ConflictError when a server uses them, Cancelled when `job` is stopped.
    """
    data_dir = data_dir.resolve()
    tablespaces = [path.resolve() for path in tablespaces]
    _check_access(programs, user, data_dir)
    sandbox = find_sandbox(programs, user, wanted=sandboxed)
    refuse_links_outside(data_dir, [data_dir, *tablespaces])
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        stack.enter_context(_exclusive(data_dir))
        private = stack.enter_context(_private_dir(user))
        log = stack.enter_context((private / "log").open("xb+", buffering=0)).fileno()
        stack.enter_context(_own_configuration(data_dir, private, user, keep_auto_conf=keep_auto_conf))
        server = ScratchServer(programs, data_dir, private, log, sandbox, job)
        recovery_settings = recovery.settings() if recovery else {}
        if not sandbox.isolated:
            recovery_settings |= _guard(programs, user, data_dir, private, recovery)
        chosen = server_settings(
            programs,
            control,
            private_dir=private,
            preload=preload,
            settings=settings,
            recovery=recovery_settings,
        )
        if recovery:
            signal_file = data_dir / "recovery.signal"
            signal_file.touch(mode=0o600)
            give_to(user, signal_file)
            stack.callback(signal_file.unlink, missing_ok=True)
        places = _NewTablespaces(data_dir, user, new_tablespaces_dir, may_discard=not keep_auto_conf)
        stack.callback(places.discard)
        launcher = _Launcher(
            sandbox=sandbox,
            arguments=[f"--{name}={value}" for name, value in sorted(chosen.items())],
            data_dir=data_dir,
            writable=[data_dir, private, *tablespaces],
            readable=recovery.reads if recovery else (),
            mounted=places.made,
            log=log,
        )
        process = _start(launcher, server, places, job, deadline, timeout)
        try:
            server.end_of_recovery_lsn = server._learn_end_of_recovery(control)
            server.new_tablespaces = dict(places.made)
            yield server
        except BaseException:
            process.stop(10)
            raise
        if not process.stop(_STOP_SECONDS):
            raise TransientError(
                "the server did not shut down in time", hint="try again", seconds=_STOP_SECONDS
            )


@dataclass(frozen=True, slots=True)
class _Launcher:
    """Everything one start of the server needs; the same for each start."""

    sandbox: Sandbox
    arguments: list[str]
    data_dir: Path
    writable: Sequence[Path]
    readable: Sequence[Path]
    mounted: Mapping[str, Path]
    log: int

    def command(self, *first: str, last: Sequence[str] = (), status_fd: int | None = None) -> list[str]:
        program = self.sandbox.programs.path("postgres")
        return self.sandbox.command(
            [program, *first, "-D", self.data_dir, *self.arguments, *last],
            writable=self.writable,
            readable=self.readable,
            mounted=self.mounted,
            status_fd=status_fd,
        )

    def start(self) -> _Postmaster:
        reader, writer = os.pipe()
        with os.fdopen(reader, encoding="utf-8") as status:
            try:
                process = subprocess.Popen(
                    self.command(status_fd=writer),
                    stdin=subprocess.DEVNULL,
                    stdout=self.log,
                    stderr=self.log,
                    env=environment(),
                    cwd="/",
                    pass_fds=[writer] if self.sandbox.isolated else [],
                )
            finally:
                os.close(writer)
            line = status.readline()  # ends at once without a sandbox, or if bwrap fails
        pid = json.loads(line)["child-pid"] if line else process.pid
        return _Postmaster(process, pid)


class _Postmaster:
    """The server's first process, and the program of ours that waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int) -> None:
        self._process = process
        self._pidfd: int | None
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = None

    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self, patience: float) -> bool:
        """Stop it: a fast shutdown, then an immediate one, then by force. True if the first sufficed."""
        clean = True
        try:
            for number, seconds in (
                (signal.SIGINT, patience),
                (signal.SIGQUIT, 10.0),
                (signal.SIGKILL, 10.0),
            ):
                self._send(number)
                try:
                    self._process.wait(seconds)
                    return clean
                except subprocess.TimeoutExpired:
                    clean = False
        finally:
            self._process.kill()
            self._process.wait()
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
        return False

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile: that is what we want
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)


def _start(
    launcher: _Launcher,
    server: ScratchServer,
    places: _NewTablespaces,
    job: Job,
    deadline: float,
    timeout: float,
) -> _Postmaster:
    """Start until connections are taken: again for each tablespace to be created, and to learn a role."""
    job.report("starting the server")
    while True:
        process = launcher.start()
        try:
            _wait_until_open(process, server, job, deadline, timeout)
            return process
        except _Ended:
            process.stop(1)
            text = server._log_text()
            missing = _MISSING_TABLESPACE.findall(text)
            if not launcher.sandbox.isolated or not missing or not places.add(missing[-1]):
                raise _reason(text) from None
        except _UnknownSuperuser:
            process.stop(_STOP_SECONDS)
            refused, server.superuser = server.superuser, _ask_for_superuser(launcher)
            if server.superuser == refused:
                raise failed_server(server.log_tail()) from None
        except BaseException:
            process.stop(1)
            raise


class _Ended(Exception):
    """The server's process is gone."""


def _wait_until_open(
    process: _Postmaster, server: ScratchServer, job: Job, deadline: float, timeout: float
) -> None:
    while True:
        job.checkpoint()
        if process.ended():
            raise _Ended
        if server._try_to_open():
            return
        if time.monotonic() > deadline:
            raise TransientError(
                "the server did not open in time",
                hint=f"allow more time; the server said last:\n{server.log_tail(5)}",
                seconds=timeout,
            )
        time.sleep(_POLL)


def _reason(text: str) -> EngineError:
    if _CREATES_TABLESPACE in text:
        return _unsafe()
    return failed_server(text)


def _unsafe() -> PreconditionError:
    return PreconditionError(
        "cannot be checked safely here: the WAL creates a tablespace, whose directory may be in use",
        hint="install bubblewrap, so that the server gets a file system of its own",
    )


def _ask_for_superuser(launcher: _Launcher) -> str:
    """Find a superuser who may log in, in PostgreSQL's single-user mode."""
    query = "SELECT rolname FROM pg_authid WHERE rolsuper AND rolcanlogin ORDER BY oid <> 10, oid LIMIT 1\n"
    for dbname in ("template1", "postgres"):
        done = execute(
            launcher.command("--single", last=[dbname]),
            user=None,
            timeout=300,
            what="looking for a superuser",
            stdin=query,
        )
        found = re.search(r'1: rolname = "(.*)"\t', done.stdout)
        if found:
            return found[1]
    raise PreconditionError(
        "the cluster has no superuser who may log in",
        hint="let one log in on the source (ALTER ROLE … LOGIN), then take another backup",
    )


class _NewTablespaces:
    """Directories for tablespaces that are created by replay, at paths that exist only in the sandbox.

    They live on disk and not in the sandbox's memory, because the server is started anew for each of them.
    """

    def __init__(
        self, data_dir: Path, user: OsUser | None, keep_in: Path | None, *, may_discard: bool
    ) -> None:
        self.made: dict[str, Path] = {}
        self._data_dir = data_dir
        self._user = user
        self._keep_in = keep_in
        self._may_discard = may_discard
        self._root: Path | None = None

    def add(self, location: str) -> bool:
        """Make a directory for `location`; False if there is one already, or there are too many."""
        if location in self.made or len(self.made) >= _MAX_TABLESPACES:
            return False
        if self._keep_in is None and not self._may_discard:
            raise PreconditionError(
                "the WAL creates a tablespace that has no directory in this restore",
                hint="map the tablespace's location to a directory, or choose a target before it was created",
                location=location,
            )
        if self._root is None:
            if self._keep_in is not None:
                self._keep_in.mkdir(mode=0o700, exist_ok=True)
                self._root = self._keep_in.resolve()
            else:
                prefix = f".{self._data_dir.name}-tablespaces-"
                self._root = Path(tempfile.mkdtemp(prefix=prefix, dir=self._data_dir.parent))
            give_to(self._user, self._root)
        directory = self._root / str(len(self.made) + 1)
        directory.mkdir(mode=0o700)
        give_to(self._user, directory)
        self.made[location] = directory
        return True

    def discard(self) -> None:
        if self._root is not None and self._keep_in is None:
            shutil.rmtree(self._root)


def _check_access(programs: Programs, user: OsUser | None, data_dir: Path) -> None:
    if not can_reach(user, programs.path("postgres")):
        raise PreconditionError(
            "the server's user cannot execute the programs",
            hint="let it search every directory above them (chmod o+x), or install PostgreSQL elsewhere",
            bin_dir=programs.bin_dir,
            user=user.name if user else "",
        )
    if not can_reach(user, data_dir):
        raise PreconditionError(
            "the server's user cannot reach the data directory",
            hint="let it own the directory and everything in it, and search every directory above it",
            data_dir=data_dir,
            user=user.name if user else "",
        )


@contextlib.contextmanager
def _exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: in its own namespaces a server cannot see that another one uses it."""
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(data_dir) from error
        if _server_runs_in(os.fstat(descriptor)):
            raise _in_use(data_dir)
        # It was copied along, or its server crashed, or had numbers of another namespace.
        (data_dir / "postmaster.pid").unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _server_runs_in(directory: os.stat_result) -> bool:
    """Look for a server by its working directory: that finds those in containers and namespaces, too."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or its owner is not the one who owns the directory
            same = os.path.samestat((process / "cwd").stat(), directory)
            if same and "postgres" in (process / "comm").read_text():
                return True
    return False


def _in_use(data_dir: Path) -> ConflictError:
    return ConflictError(
        "a server uses this data directory", hint="stop it first, or work on a copy", data_dir=data_dir
    )


@contextlib.contextmanager
def _private_dir(user: OsUser | None) -> Iterator[Path]:
    """A directory for socket, configuration and log that only the server's user and root can enter."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _TEMPORARY_DIR_LIMIT or not can_reach(user, parent):
        parent = Path("/tmp")
    with tempfile.TemporaryDirectory(prefix="pgproof-", dir=parent) as name:
        give_to(user, Path(name))
        yield Path(name)


@contextlib.contextmanager
def _own_configuration(
    data_dir: Path, private: Path, user: OsUser | None, *, keep_auto_conf: bool
) -> Iterator[None]:
    """Write our configuration, and take the cluster's automatic one and its signal files out of the way."""
    # Whoever reaches the socket is the server's user or root: see the mode of its directory.
    for name, text in (
        ("postgresql.conf", ""),
        ("pg_hba.conf", "local all all trust\n"),
        ("pg_ident.conf", ""),
    ):
        path = private / name
        path.write_text(text)
        give_to(user, path)
    for name in ("standby.signal", "recovery.signal"):
        (data_dir / name).unlink(missing_ok=True)
    auto_conf, parked = data_dir / "postgresql.auto.conf", data_dir / _PARKED
    if auto_conf.exists() and not parked.exists():  # a parked one was left by a run that was killed
        auto_conf.rename(parked)
    auto_conf.unlink(missing_ok=True)
    auto_conf.touch(mode=0o600)
    give_to(user, auto_conf)
    try:
        yield
    finally:
        if keep_auto_conf and parked.exists():
            parked.replace(auto_conf)
        else:
            parked.unlink(missing_ok=True)


def _guard(
    programs: Programs, user: OsUser | None, data_dir: Path, private: Path, recovery: Recovery | None
) -> dict[str, str]:
    """Without a sandbox, refuse WAL that creates a tablespace: what is here and what is fetched later."""
    waldump = programs.path("pg_waldump")
    wal = data_dir / "pg_wal"
    names = sorted(path.name for path in wal.iterdir() if re.fullmatch("[0-9A-F]{24}", path.name))
    for previous, name in zip([*names[:1], *names], names, strict=False):
        done = execute(
            [waldump, "--rmgr=Tablespace", "--path", wal, previous, name],
            user=user,
            timeout=300,
            what="looking for new tablespaces in the WAL",
        )
        if "CREATE" in done.stdout:
            raise _unsafe()
    if recovery is None:
        return {}
    seen = private / "seen"
    seen.mkdir(mode=0o700)
    give_to(user, seen)
    script = private / "guard.sh"
    places = {"dir": shlex.quote(str(seen)), "waldump": shlex.quote(str(waldump))}
    script.write_text(_GUARD.format(**places, message=_CREATES_TABLESPACE))
    give_to(user, script)
    guard = shlex.quote(str(script)).replace("%", "%%")
    return {"restore_command": f"({recovery.restore_command}) && sh {guard} %f %p"}
