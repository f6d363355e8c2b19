"""A running scratch server, as its clients see it."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg

from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.control_file import ControlFile
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.server_log import end_of_redo, explain, failed_server, last_lines, redo_seconds
from pgproof.postgres.disk_errors import TEMPORARY, on_disk
from pgproof.postgres.programs import Finished, Programs, execute, run
from pgproof.postgres.sandbox import Sandbox

_LOG_LIMIT = 1 << 20


class ScratchServer:
    """A running server; made by `scratch_server`.

    `superuser` is a role that may do everything and log in. `end_of_recovery_lsn` is where replay really
    ended, `replay_seconds` how long it took. `sandbox` says in words what isolates it. `new_tablespaces` maps the
    locations of tablespaces that were created by the replayed WAL to the directories that hold them in truth;
    `raised_limits` are settings that had to be higher than on the source when it was backed up.
    """

    def __init__(
        self,
        programs: Programs,
        data_dir: Path,
        socket_dir: Path,
        log: int,
        sandbox: Sandbox,
        superuser: str,
        job: Job,
    ) -> None:
        self.data_dir = data_dir
        self.sandbox = sandbox.description
        self.superuser = superuser
        self.maintenance_db = "postgres"
        # A database of our own, which is no part of what was restored.
        self.aside: str | None = None
        self.end_of_recovery_lsn = Lsn(0)
        self.replay_seconds = 0.0
        self.new_tablespaces: dict[str, Path] = {}
        self.raised_limits: dict[str, str] = {}
        self._programs = programs
        self._socket_dir = socket_dir
        self._log = log
        self._user = sandbox.user
        self._job = job

    def conninfo(self, dbname: str) -> str:
        """libpq parameters that reach this server whatever the environment says."""
        return psycopg.conninfo.make_conninfo("", **{**self.config().parameters(), "dbname": dbname})

    def config(self) -> PostgresConfig:
        """The superuser's way in, whatever the environment says."""
        return PostgresConfig(
            host=str(self._socket_dir),
            port=5432,
            user=self.superuser,
            database=self.maintenance_db,
            options={
                "hostaddr": "",
                "sslmode": "disable",
                "gssencmode": "disable",
                "channel_binding": "disable",
                "target_session_attrs": "any",
                "require_auth": "",
                "connect_timeout": "5",
                "options": self._options(),
            },
        )

    def connect(self, dbname: str | None = None) -> psycopg.Connection:
        """Connect as the superuser, in autocommit, to `postgres` (or `template1`) unless `dbname` is given.

        Raises PreconditionError where this machine lacks what the database needs, else DataError.
        """
        try:
            return self._open(dbname or self.maintenance_db)
        except psycopg.OperationalError as error:
            raise explain(str(error)) or DataError(
                "cannot connect to a restored database", hint=last_lines(str(error)), database=dbname or ""
            ) from error

    def databases(self) -> list[str]:
        """The names of all databases that allow connections, but the one of our own and `nameless` ones."""
        return [name for name in map(_text, self._names()) if name not in (None, self.aside)]

    def nameless(self) -> int:
        """How many databases have names that are not UTF-8: those of a cluster have no encoding."""
        return sum(_text(name) is None for name in self._names())

    def _names(self) -> list[bytes]:
        # -2 marks a database whose DROP DATABASE was interrupted.
        query = "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname"
        with self.connect() as connection:
            connection.execute("SET client_encoding TO 'SQL_ASCII'")
            return [row[0] for row in connection.execute(query)]

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
        return run(
            [self._programs.path(program), *arguments],
            user=self._user,
            env=self._environment(),
            timeout=timeout,
            what=program,
            job=self._job,
        )

    def log_tail(self, lines: int = 20) -> str:
        return last_lines(self._log_text(), lines)

    def _open(self, dbname: str) -> psycopg.Connection:
        # Its empty require_auth overrides PGREQUIREAUTH; the server trusts whoever reaches its socket.
        # By default it is the database's encoding, and the text of a SQL_ASCII one comes as bytes.
        return psycopg.connect(self.conninfo(dbname), autocommit=True, client_encoding="UTF8")

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

    def log(self) -> bytes:
        """The end of what the server said."""
        with on_disk(self._socket_dir, TEMPORARY):
            size = os.fstat(self._log).st_size
            return os.pread(self._log, _LOG_LIMIT, max(0, size - _LOG_LIMIT))

    def _log_text(self) -> str:
        return self.log().decode(errors="replace")

    def try_to_open(self) -> bool:
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
                    raise UnknownSuperuser from error
                if "FATAL:" in text and "the database system is" not in text and "clients" not in text:
                    raise explain(text) or failed_server(text) from error
                return False
        raise PreconditionError(
            "neither the database postgres nor template1 takes connections",
            hint="this cluster cannot be checked by connecting to it",
        )

    def learn_end_of_recovery(self, control: ControlFile) -> Lsn:
        self.replay_seconds = redo_seconds(self._log_text())
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
        return end_of_redo(self._log_text()) or control.checkpoint_lsn


class UnknownSuperuser(Exception):
    """There is no role `postgres` that may log in."""


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
