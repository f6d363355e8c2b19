"""`pgproof schedule` as its systemd unit starts it: the whole service, from its start to its end, on real servers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import BackupRepository, PostgresServer
from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, BackupType
from pgproof.postgres.osuser import OsUser, can_reach
from tests.prefect.stack import ROOT
from tests.support import machine
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster

PASSPHRASE = "correct horse battery staple"
UNIT = ROOT / "deployments" / "systemd" / "pgproof-schedule.service"


def test_the_service_from_its_start_to_its_end() -> None:
    with Cluster(18) as cluster:
        service = Service(cluster)
        try:
            _story(service)
        finally:
            service.kill()


def _story(service: Service) -> None:
    machine.wait_until(lambda: "The service is up" in service.said(), "the service", timeout=180)
    again = subprocess.run(service.command, env=service.environment, capture_output=True, text=True, cwd="/")
    assert again.returncode == 6
    assert f"runs already on this machine (cluster=main, repository={service.repository}" in again.stderr
    assert f"pid={service.process.pid}" in again.stderr

    assert httpx.post(f"{service.api}/flows/filter", json={}).status_code == httpx.codes.UNAUTHORIZED
    listed = {each["name"]: each for each in service.ask("/deployments/filter")}
    assert listed["hourly-incremental"]["schedules"][0]["schedule"]["interval"] == 20

    # WAL is streamed by the service itself, backups come by schedule, and what they say has no secret in it.
    machine.wait_until(
        lambda: (
            {each.type for each in service.backups()}
            >= {
                BackupType.FULL,
                BackupType.INCREMENTAL,
            }
        ),
        "a full backup and an incremental one",
        timeout=120,
    )
    service.ask(f"/deployments/{listed['hourly-incremental']['id']}/pause_deployment")
    _a_fleet(service)
    kept = b"".join(path.read_bytes() for path in service.state.rglob("*") if path.is_file())
    assert b"pgproof:" in kept, "the server's own password is there"
    for secret in (PASSPHRASE, STREAM_PASSWORD):
        assert secret.encode() not in kept
        assert secret not in service.said()

    _killed_with_a_run(service)

    # A server that dies is started again, and told. The end comes while it is on its way, and while a run is at work.
    (server,) = (pid for pid in service.processes() if "server start" in _command_of(pid))
    os.kill(server, signal.SIGKILL)
    machine.wait_until(lambda: "the Prefect server ended with status -9" in service.said(), "the news")
    service.process.terminate()
    assert service.process.wait(timeout=60) == 130, service.said()
    assert service.processes() == []
    assert service.cluster.psql("SELECT count(*) FROM pg_stat_replication") == "0"
    assert service.cluster.psql("SELECT slot_name, active FROM pg_replication_slots") == "pgproof|f"
    leases = service.repository / "clusters" / "main" / "leases"
    assert [path for path in leases.rglob("*") if path.is_file()] == []


def _killed_with_a_run(service: Service) -> None:
    """As by a loss of power: the run that was at work keeps no later one of its deployment from running."""
    checks = service.state / "checks"
    checks.mkdir()
    (checks / "long.sql").write_text("SELECT pg_sleep(600) IS NOT NULL")
    machine.give_to_service(checks)
    drill = service.ask("/deployments/name/restore-drill/monthly", method="GET")

    def start(**parameters: object) -> str:
        run = service.ask(f"/deployments/{drill['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state(run_id: str) -> str:
        return str(service.ask(f"/flow_runs/{run_id}", method="GET")["state"]["name"])

    first = start(checks=str(checks))
    machine.wait_until(lambda: state(first) == "Running", "the first drill", timeout=120)
    service.lose_power()
    service.start()
    machine.wait_until(lambda: service.said().count("The service is up") == 2, "the service", timeout=180)
    second = start()
    machine.wait_until(lambda: state(second) not in _NOT_YET, "the next drill", timeout=240)
    assert state(second) == "Completed", service.said()


_NOT_YET = ("Scheduled", "Late", "Submitting", "Pending", "Running", "AwaitingConcurrencySlot")


def _a_fleet(service: Service) -> None:
    """Two clusters by the names of their blocks, and one that lacks a block: it fails alone."""
    postgres = service.cluster.tcp_config()
    access = {PREFECT_API_URL: service.api, PREFECT_API_AUTH_STRING: service.password}
    with temporary_settings(access):
        for name in ("fleet-a", "fleet-b", "fleet-gone"):
            PostgresServer.from_config(postgres).save(name, overwrite=True)
        for name in ("fleet-a", "fleet-b"):
            BackupRepository(
                directory=str(service.repository), passphrase=SecretStr(PASSPHRASE), cluster=name
            ).save(name, overwrite=True)
    found = service.ask("/deployments/name/fleet/hourly", method="GET")
    parameters = {
        "name": "test",
        "targets": ["fleet-*"],
        "spread_minutes": 0,
        "per_host": 2,
        "verify": "none",
    }
    run = service.ask(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})

    def state() -> dict[str, Any]:
        answer: dict[str, Any] = service.ask(f"/flow_runs/{run['id']}", method="GET")["state"]
        return answer

    machine.wait_until(
        lambda: state()["type"] in ("COMPLETED", "FAILED", "CRASHED"), "the fleet", timeout=240
    )
    assert state()["name"] == "FleetFailed", service.said()
    assert state()["message"].startswith("2 of 3 clusters backed up; failed:\nfleet-gone: Failed")
    rows = json.loads(service.ask("/artifacts/fleet-test/latest", method="GET")["data"])
    assert [row["cluster"] for row in rows] == ["fleet-gone", "fleet-a", "fleet-b"]
    for name in ("fleet-a", "fleet-b"):
        assert len(service.backups(name)) == 1


class Service:
    """The unit's ExecStart, run as the service user where that can reach our Python."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.repository = machine.new_dir("service") / "backups"
        self.state = machine.new_dir("state", owned_by_service=True)
        asyncio.run(self._manager("main").init_repository())
        (self._port,) = machine.free_ports(1)
        self.api = f"http://127.0.0.1:{self._port}/api"
        postgres = cluster.tcp_config()
        self.environment = {
            **machine.environment(
                PGHOST=str(postgres.host),
                PGPORT=str(postgres.port),
                PGUSER=STREAM_USER,
                PGPASSWORD=STREAM_PASSWORD,
                BACKUP_DIR=str(self.repository),
                BACKUP_PASSPHRASE=PASSPHRASE,
                STATE_DIRECTORY=str(self.state),
                PREFECT_RUNNER_POLL_FREQUENCY="1",
                PREFECT_FLOWS=json.dumps({"heartbeat_frequency": None}),
            ),
            "HOME": str(self.state),
        }
        (start,) = re.findall(r"^ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
        program, *arguments = shlex.split(start)
        assert program == "/opt/pgproof/.venv/bin/pgproof"
        self.command = [str(Path(sys.executable).parent / "pgproof"), *arguments]
        self.command += ["--ui-port", str(self._port), "--at-once", "3"]
        self.command += ["--full", "never", "--incremental", "20s"]
        user = machine.service_user()
        started = [*self.command]
        if user is not None and can_reach(
            OsUser(user.pw_name, user.pw_uid, user.pw_gid), Path(sys.executable)
        ):
            machine.give_to_service(self.repository)
            started = machine.as_service_user(self.command, die_with_us="TERM")
        self._started = started
        self._log = machine.new_dir("log") / "service.log"
        self.start()

    def start(self) -> None:
        self.process = machine.spawn(self._started, self._log, self.environment)

    @property
    def password(self) -> str:
        return (self.state / "main" / "password").read_text().strip()

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        signed = base64.b64encode(self.password.encode()).decode()
        deadline = time.monotonic() + 60
        while True:
            answer = httpx.request(
                method,
                f"{self.api}{path}",
                json=(body or {}) if method == "POST" else None,
                headers={"Authorization": f"Basic {signed}"},
                timeout=60,
            )
            # 503 is the server's word for a SQLite database that is busy at the moment.
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                answer.raise_for_status()
                return answer.json()

    def backups(self, cluster: str = "main") -> list[Any]:
        return asyncio.run(self._manager(cluster).list_backups())

    def processes(self) -> list[int]:
        """Everything that carries the service's mark."""
        mark = f"PGPROOF_SERVICE={self.process.pid}-".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                marked = any(each.startswith(mark) for each in environ.read_bytes().split(b"\0"))
            except OSError:  # it has ended meanwhile
                continue
            if marked and machine.is_alive(int(environ.parent.name)):
                found.append(int(environ.parent.name))
        return found

    def lose_power(self) -> None:
        """All of it ends at one moment."""
        os.kill(self.process.pid, signal.SIGSTOP)  # so that it starts nothing again meanwhile
        for pid in [*self.processes(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill()

    def kill(self) -> None:
        """For a test that failed: the children get their signal from the kernel."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            machine.wait_until(lambda: not self.processes(), "the children to end")

    def _manager(self, cluster: str) -> BackupManager:
        config = BackupConfig(backup_dir=str(self.repository), passphrase=PASSPHRASE, cluster=cluster)
        return BackupManager(self.cluster.config(), config)


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
