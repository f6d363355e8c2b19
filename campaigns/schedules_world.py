"""A host with the whole service on it, under a clock that the campaign moves.

PostgreSQL, the streamer, `pgproof schedule`, its Prefect server and every run live by that clock, and so do the dates of the
repository's files: it lies on a file system of our own, which dates them by the same one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig
from pgproof.model.report import BackupInfo
from pgproof.model.wal_stream import APPLICATION_NAME
from tests.prefect.stack import ROOT
from tests.support import machine
from tests.support.forgetful_fs import ForgetfulDisk
from tests.support.moved_clock import MovedClock
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster
from tests.support.receiver import Receiver, receiver

_PGPROOF = Path(sys.executable).parent / "pgproof"
_UP = "The service is up"
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class World:
    """`settings` are environment variables for everything of pgproof, `schedule` options of the service."""

    def __init__(
        self,
        clock: MovedClock,
        settings: dict[str, str],
        schedule: Sequence[str] = (),
        *,
        one_clock: bool = True,
    ) -> None:
        self.clock = clock
        self._settings = settings
        self._schedule = schedule
        # Else the service alone lives by the clock, and PostgreSQL, the store and we by the real one.
        self._one_clock = one_clock
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.hook: Receiver = stack.enter_context(receiver())
            others = self.clock.environment if self._one_clock else {}
            self.cluster = stack.enter_context(
                Cluster(
                    18,
                    # It measures silence by the wall clock: a streamer would be thrown out each time it is moved.
                    settings={"wal_sender_timeout": 0},
                    environment=others,
                )
            )
            disk = ForgetfulDisk(clock=self.clock.time if self._one_clock else time.time)
            self.repository = stack.enter_context(disk).path / "backups"
            self.state = machine.new_dir("state")
            self._logs = machine.new_dir("log")
            (self._port,) = machine.free_ports(1)
            self._others = self._environment(others)
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _environment(self, extra: dict[str, str]) -> dict[str, str]:
        postgres = self.cluster.tcp_config()
        return machine.environment(
            PGHOST=str(postgres.host),
            PGPORT=str(postgres.port),
            PGUSER=STREAM_USER,
            PGPASSWORD=STREAM_PASSWORD,
            PGDATABASE="postgres",
            BACKUP_DIR=str(self.repository),
            # A key is derived slowly on purpose, and here some thousand times.
            BACKUP_ENCRYPTION="false",
            BACKUP_NOTIFY_URL=self.hook.apprise,
            BACKUP_STATE_DIR=str(self.state / "alarms"),
            PREFECT_RUNNER_POLL_FREQUENCY="1",
            PREFECT_FLOWS=json.dumps({"heartbeat_frequency": None}),
            **self._settings,
            **extra,
            HOME=str(self.state),
        )

    # processes

    def start_service(self) -> None:
        home = self.state / "main" / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        # A server forgets windows that ended a minute ago; here two thirds of an hour may go by in an instant.
        (home / "profiles.toml").write_text(
            'active = "week"\n[profiles.week]\nPREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER = "PT50M"\n'
        )
        command = [str(_PGPROOF), "schedule", "--state-dir", str(self.state), "--ui-port", str(self._port)]
        ups = self.log("service").count(_UP)
        self.service = self._spawn("service", [*command, *self._schedule], self.clock.environment)
        machine.wait_until(lambda: self.log("service").count(_UP) > ups, "the service", timeout=300)

    def stop_service(self) -> None:
        if self.service.poll() is None:
            self.service.send_signal(signal.SIGTERM)
            self.service.wait(timeout=90)

    def start_streamer(self) -> None:
        self.streamer = self._spawn("streamer", [str(_PGPROOF), "wal", "stream", "--create-slot"])
        self._wait_for_the_streamer()

    def start_the_server_again(self) -> None:
        self.cluster.start()
        self._wait_for_the_streamer()

    def _wait_for_the_streamer(self) -> None:
        """The clock goes half an hour ahead within seconds: WAL that nobody has stored by then is behind the objective."""
        asked = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{APPLICATION_NAME}'"
        machine.wait_until(lambda: self.cluster.psql(asked) != "0", "the streamer to be connected")

    def stop_streamer(self) -> None:
        self.streamer.send_signal(signal.SIGTERM)
        self.streamer.wait(timeout=60)

    def _spawn(
        self, name: str, command: Sequence[str], extra: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        environment = self._others if extra is None else self._environment(extra)
        started = ["setpriv", "--pdeathsig=TERM", "--", *command]
        return machine.spawn(started, self._logs / name, environment)

    def log(self, name: str) -> str:
        path = self._logs / name
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of somebody on this host, or on another one where there are two clocks."""
        return subprocess.run(
            [str(_PGPROOF), *arguments],
            env=self._others,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            timeout=600,
        )

    def must(self, *arguments: str) -> str:
        done = self.command(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def script(self, path: str, *arguments: str) -> None:
        """A script of the checkout, for the service's own Prefect server."""
        done = subprocess.run(
            [sys.executable, str(ROOT / path), *arguments],
            env={**self._others, **self._prefect_access, "PGPROOF_WEBHOOK_URL": self.hook.url},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{path}: {done.stdout}{done.stderr}"

    @property
    def _prefect_access(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.state / "prefect-client"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self._port}/api",
            "PREFECT_API_AUTH_STRING": self._password,
        }

    def processes(self, words: str) -> list[int]:
        """What the service has started with these words in its command."""
        mark = f"PGPROOF_SERVICE={self.service.pid}-".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                marked = any(each.startswith(mark) for each in environ.read_bytes().split(b"\0"))
                command = (environ.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended meanwhile
                continue
            if marked and words in command and machine.is_alive(int(environ.parent.name)):
                found.append(int(environ.parent.name))
        return found

    def _end(self) -> None:
        for name in ("service", "streamer"):
            process = getattr(self, name, None)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=90)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    # the Prefect server

    @property
    def _password(self) -> str:
        return (self.state / "main" / "password").read_text().strip()

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """The API's answer; it is asked again while the server starts or its database is busy."""
        signed = base64.b64encode(self._password.encode()).decode()
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = httpx.request(
                    method,
                    f"http://127.0.0.1:{self._port}/api{path}",
                    json=(body or {}) if method in ("POST", "PATCH") else None,
                    headers={"Authorization": f"Basic {signed}"},
                    timeout=60,
                )
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    answer.raise_for_status()
                    return answer.json() if answer.content else None
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def deployment(self, name: str) -> str:
        """The id of one of ours, such as `backup/hourly-incremental`."""
        return str(self.ask(f"/deployments/name/{name}", method="GET")["id"])

    def run_now(self, name: str) -> None:
        """A run that somebody asks for, up to its end. Raises AssertionError if it does not complete."""
        run = self.ask(f"/deployments/{self.deployment(name)}/create_flow_run", {})

        def state() -> dict[str, Any]:
            time.sleep(0.3)
            answer: dict[str, Any] = self.ask(f"/flow_runs/{run['id']}", method="GET")["state"]
            return answer

        machine.wait_until(lambda: state()["type"] in ENDED, f"the run of {name}", timeout=300)
        assert state()["type"] == "COMPLETED", state()

    def runs(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """The scheduled runs that were due in this time, whatever has become of them."""
        expected = {"after_": since.isoformat(), "before_": until.isoformat()}
        found = self.ask("/flow_runs/filter", {"flow_runs": {"expected_start_time": expected}, "limit": 200})
        return [run for run in found if run["auto_scheduled"]]

    # the repository

    def manager(self) -> BackupManager:
        config = BackupConfig(backup_dir=str(self.repository), encryption=False)
        return BackupManager(self.cluster.config(), config)

    def backups(self) -> list[BackupInfo]:
        return asyncio.run(self.manager().list_backups())
