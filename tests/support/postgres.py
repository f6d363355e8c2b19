"""Real, private PostgreSQL servers for tests.

    with Cluster(major=18, settings={"archive_mode": True}) as cluster:
        cluster.psql("CREATE TABLE t AS SELECT 1")

A cluster listens on a Unix socket in its own directory (everyone trusted) and on a free TCP port of
127.0.0.1 (SCRAM). It runs as the service user and dies with the test run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg

from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from tests.support import machine
from tests.support.templates import (
    STREAM_PASSWORD,
    STREAM_USER,
    SUPERUSER,
    SUPERUSER_PASSWORD,
    find_bin,
    new_data_dir,
)

__all__ = [
    "STREAM_PASSWORD",
    "STREAM_USER",
    "SUPERUSER",
    "SUPERUSER_PASSWORD",
    "Cluster",
    "ClusterFactory",
    "find_bin",
]

StopMode = Literal["smart", "fast", "immediate"]
Setting = str | int | float | bool

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# fsync off is for speed: nothing here pulls the machine's plug, and killed processes lose no page cache.
_DEFAULTS: dict[str, Setting] = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_wal_senders": 10,
    "wal_level": "replica",
    "fsync": False,
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
}

_HBA = (
    "local all         all              trust",
    "local replication all              trust",
    "host  all         all 127.0.0.1/32 scram-sha-256",
    "host  replication all 127.0.0.1/32 scram-sha-256",
)


class Cluster:
    """A PostgreSQL server of our own; entering it starts it, leaving it removes it.

    `initdb_args` go to initdb (data checksums are on unless they say `--no-data-checksums`),
    `settings` to postgresql.conf, and `hba` lines stand before our own in pg_hba.conf.
    With `outside_config` the configuration files lie in `config_dir`, as on Debian. `environment` is what the server finds
    in its own beside the usual.
    """

    def __init__(
        self,
        major: int = 18,
        *,
        initdb_args: Sequence[str] = (),
        settings: Mapping[str, Setting] | None = None,
        hba: Sequence[str] = (),
        outside_config: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._prepare(major, data_dir=None)
        self._environment = environment or {}
        new_data_dir(major, tuple(initdb_args), self.data_dir)
        if outside_config:
            self.config_dir = self.root / "etc"
            self.config_dir.mkdir()
            for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
                (self.data_dir / name).rename(self.config_dir / name)
            self._options["config_file"] = str(self.config_dir / "postgresql.conf")
        self._write_config({**_DEFAULTS, **self._place(), **(settings or {})}, hba)

    @classmethod
    def adopt(cls, data_dir: Path, major: int = 18, *, settings: Mapping[str, Setting] | None = None) -> Self:
        """A server on a data directory that exists, such as a restored one; leaving it keeps the files.

        Its own configuration applies, except where it listens, that it lets one in while it recovers, and
        `settings`, which win over it.
        A directory without postgresql.conf (its configuration lay outside) gets one beside it.
        The service user becomes its owner.
        """
        cluster = cls.__new__(cls)
        cluster._prepare(major, data_dir=data_dir)
        cluster._options["hot_standby"] = True
        machine.give_to_service(data_dir)
        for link in (data_dir / "pg_tblspc").iterdir():
            machine.give_to_service(link.resolve())
        if (data_dir / "postgresql.conf").exists():
            cluster._options |= {"listen_addresses": "127.0.0.1", "fsync": False}
            cluster._options |= {**cluster._place(), **(settings or {})}
        else:
            cluster.config_dir = cluster.root / "etc"
            cluster.config_dir.mkdir()
            cluster._options["config_file"] = str(cluster.config_dir / "postgresql.conf")
            cluster._write_config({**_DEFAULTS, **cluster._place(), **(settings or {})}, ())
        return cluster

    def _prepare(self, major: int, data_dir: Path | None) -> None:
        self.major = major
        self.bin = find_bin(major)
        self.root = machine.new_dir(f"pg{major}", owned_by_service=True)
        self.data_dir = data_dir or self.root / "data"
        self.config_dir = self.data_dir
        self.socket_dir = self.root / "s"
        self.socket_dir.mkdir()
        machine.give_to_service(self.socket_dir)
        self.log = self.root / "log"
        (self.port,) = machine.free_ports(1)
        self._options: dict[str, Setting] = {}
        self._environment: Mapping[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def _place(self) -> dict[str, Setting]:
        return {"port": self.port, "unix_socket_directories": str(self.socket_dir)}

    def _write_config(self, settings: dict[str, Setting], hba: Sequence[str]) -> None:
        if self.config_dir != self.data_dir:
            settings = {"data_directory": str(self.data_dir), **settings}
            settings |= {
                f"{kind}_file": str(self.config_dir / f"pg_{kind}.conf") for kind in ("hba", "ident")
            }
            (self.config_dir / "pg_ident.conf").touch()
        with (self.config_dir / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
        (self.config_dir / "pg_hba.conf").write_text("\n".join([*hba, *_HBA, ""]))
        machine.give_to_service(self.config_dir)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def start(self, *, timeout: float = 120) -> None:
        """Start the server and wait until it accepts connections, a standby once it is consistent.

        Raises RuntimeError with the end of its log when it does not.
        """
        assert not self.running, "the server is running"
        command = [str(self.bin / "postgres"), "-D", str(self.data_dir)]
        for name, value in self._options.items():
            command += ["-c", f"{name}={_plain(value)}"]
        # Only what is started as the service user may see it: LD_PRELOAD would act in what changes the user as well.
        command = ["env", *(f"{name}={value}" for name, value in self._environment.items()), *command]
        process = machine.spawn(
            machine.as_service_user(command, die_with_us="QUIT"), self.log, machine.environment()
        )
        self._process = process

        def decided() -> bool:
            return process.poll() is not None or self._status() in ("ready", "standby")

        machine.wait_until(decided, f"PostgreSQL to start in {self.data_dir}", timeout)
        if process.poll() is not None:
            self._process = None
            raise RuntimeError(f"PostgreSQL {self.major} did not start:\n{self.log_tail()}")

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server as `pg_ctl stop -m` would, and wait for its end."""
        assert self._process is not None, "the server is not running"
        self._process.send_signal(_SIGNALS[mode])
        self._process.wait(timeout=120)
        self._process = None

    def kill9(self) -> None:
        """Kill every process of the server at one moment, as a crash of the machine would end them."""
        assert self._process is not None, "the server is not running"
        postmaster = self._process.pid
        os.kill(postmaster, signal.SIGSTOP)  # so that it starts no child meanwhile
        family = [*machine.children(postmaster), postmaster]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        machine.wait_until(lambda: not any(map(machine.is_alive, family)), "killed server processes to end")

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server if it runs and remove its directory."""
        try:
            if self.running:
                self.stop("immediate")
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def connect(self, dbname: str = "postgres", **parameters: Any) -> psycopg.Connection[Any]:
        """Connect as the superuser, in autocommit mode unless told otherwise."""
        where = {"host": str(self.socket_dir), "port": self.port, "user": SUPERUSER, "dbname": dbname}
        return psycopg.connect(**{"autocommit": True, **where, **parameters})

    def psql(self, sql: str, dbname: str = "postgres") -> str:
        """Run SQL or psql's own commands; return the unaligned rows. Raises RuntimeError for an error."""
        command = [str(self.bin / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        return machine.run(command, stdin=sql, **self.libpq_environment(dbname)).strip()

    def run(self, program: str, *arguments: str, dbname: str = "postgres") -> str:
        """Run one of PostgreSQL's programs against this server and return its output."""
        return machine.run([str(self.bin / program), *arguments], **self.libpq_environment(dbname))

    def libpq_environment(self, dbname: str = "postgres") -> dict[str, str]:
        """The variables that lead a libpq program here as the superuser."""
        return {
            "PGHOST": str(self.socket_dir),
            "PGPORT": str(self.port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": dbname,
        }

    def config(self, **overrides: Any) -> PostgresConfig:
        """The superuser's way in over the socket; `overrides` are fields of PostgresConfig."""
        ours = {"host": str(self.socket_dir), "port": self.port, "user": SUPERUSER, "database": "postgres"}
        return PostgresConfig(**{**ours, **overrides})

    def tcp_config(self, **overrides: Any) -> PostgresConfig:
        """The replication role's way in over TCP, with its password."""
        ours = {"host": "127.0.0.1", "user": STREAM_USER, "password": STREAM_PASSWORD}
        return self.config(**{**ours, **overrides})

    def insert_lsn(self) -> Lsn:
        """Where the next WAL record will be written."""
        return Lsn.parse(self.psql("SELECT pg_current_wal_insert_lsn()"))

    def log_tail(self, lines: int = 40) -> str:
        """The end of the server's log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _status(self) -> str:
        """The state that the postmaster wrote into postmaster.pid, or nothing while it is another's."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return ""
        # The eighth line is the state (pg_ctl waits for it); a file left by a crash has another id.
        ours = len(lines) >= 8 and self._process is not None and lines[0].strip() == str(self._process.pid)
        return lines[7].strip() if ours else ""


class ClusterFactory:
    """Starts clusters for one test, which may damage them, and removes them after it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def __call__(self, major: int = 18, **options: Any) -> Cluster:
        """Start a new cluster; `options` are those of `Cluster`."""
        return self._stack.enter_context(Cluster(major, **options))

    def adopt(self, data_dir: Path, major: int = 18, **options: Any) -> Cluster:
        """Start a server on an existing data directory; see `Cluster.adopt`."""
        return self._stack.enter_context(Cluster.adopt(data_dir, major, **options))


def _plain(value: Setting) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _quoted(value: Setting) -> str:
    return "'" + _plain(value).replace("\\", "\\\\").replace("'", "''") + "'"
