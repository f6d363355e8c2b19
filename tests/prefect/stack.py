"""A real Prefect installation: a server, a process worker, and the `prefect` command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support import machine

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Stack:
    """The server's API and the environment in which commands find it."""

    api_url: str
    env: Mapping[str, str]
    home: Path

    def run(
        self, *command: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python module or script of the checkout. Raises AssertionError if it fails and `check` is set."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}{self.worker_log()}"
        return done

    def prefect(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "prefect", "--no-prompt", *command, check=check)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask the API. Raises httpx.HTTPStatusError when it refuses."""
        return self._ask("POST", path, body)

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def delete(self, path: str) -> None:
        self._ask("DELETE", path, None)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        answers: list[httpx.Response] = []

        def answered() -> bool:
            # 503 is the server's word for a SQLite database that is busy at the moment.
            answers.append(httpx.request(method, f"{self.api_url}{path}", json=body, timeout=60))
            return answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

        machine.wait_until(answered, f"the Prefect API to answer {method} {path}")
        answers[-1].raise_for_status()
        return answers[-1].json() if answers[-1].content else None

    def start(self, deployment: str, **parameters: object) -> str:
        """Ask for a run of a deployment, as the UI does, and return its id: a command would take seconds."""
        found = self.get(f"/deployments/name/{deployment}")
        run = self.post(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def answer(self, run_id: str, **answer: object) -> str:
        """Answer a run that waits for it, as the UI's form does; what became of the answer (ACCEPT, REJECT)."""
        answers: list[dict[str, Any]] = []

        def taken() -> bool:
            # A run is suspended first and says what may be answered then (prefect.flow_runs.suspend_flow_run).
            answers.append(self.post(f"/flow_runs/{run_id}/resume", {"run_input": answer}))
            return answers[-1]["details"].get("reason") != "Run input schema not found."

        machine.wait_until(taken, "the run to take an answer")
        return str(answers[-1]["status"])

    def wait_for(self, run_id: str, *states: str, timeout: float = 300) -> str:
        """Wait until a run is in one of these states; which one that is."""
        machine.wait_until(
            lambda: self.state_of(run_id) in states, f"the run to be {states}", timeout=timeout
        )
        return self.state_of(run_id)

    def state_of(self, run_id: str) -> str:
        return str(self.get(f"/flow_runs/{run_id}")["state"]["name"])

    def artifact(self, key: str) -> str:
        """The newest report of this key."""
        return str(self.get(f"/artifacts/{key}/latest")["data"])

    def logs_of(self, run_id: str) -> str:
        """The run's log as the UI shows it, each line with the name of its logger."""
        found = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200})
        return "\n".join(f"{line['name']}: {line['message']}" for line in found)

    def newest_run(self, deployment: str) -> dict[str, Any]:
        """The run of this deployment that started last."""
        flow, _, name = deployment.partition("/")
        found = self.post(
            "/flow_runs/filter",
            {
                "flows": {"name": {"any_": [flow]}},
                "deployments": {"name": {"any_": [name]}},
                "flow_runs": {"start_time": {"is_null_": False}},
                "sort": "START_TIME_DESC",
                "limit": 1,
            },
        )
        assert found, f"{deployment} has not run"
        run: dict[str, Any] = found[0]
        return run

    def worker_log(self) -> str:
        log = self.home / "worker.log"
        return log.read_text(errors="replace") if log.exists() else ""


@contextmanager
def prefect_stack() -> Iterator[Stack]:
    """Start a server with an empty database; nothing of it is left afterwards."""
    home = machine.new_dir("prefect")
    (port,) = machine.free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "PG"))}
    env = {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        # `server start --port` leaves the UI at the default port; this setting moves both.
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
        "PREFECT_FLOWS": json.dumps({"heartbeat_frequency": None}),
    }
    stack = Stack(url, env, home)
    with _process(stack, "server", "server", "start"):
        machine.wait_until(lambda: _healthy(url), "the Prefect server", timeout=120)
        yield stack


@contextmanager
def worker(stack: Stack) -> Iterator[None]:
    """A worker of our pool. The flows' blocks configure it, so its environment names no server."""
    with _process(stack, "worker", "worker", "start", "--pool", "pgproof", "--type", "process"):
        yield


@contextmanager
def serving(stack: Stack, at_once: int) -> Iterator[None]:
    """The deployments of prefect.yaml served by one process, without work pool and worker."""
    command = (str(ROOT / "deployments" / "serve.py"), "--at-once", str(at_once))
    log = stack.home / "worker.log"
    with _running(stack, [sys.executable, *command], log):
        machine.wait_until(lambda: "are served" in stack.worker_log(), "the deployments", timeout=120)
        yield


def processes_of(run_id: str) -> list[int]:
    """Every live process that a run has started, itself included: they inherit its environment."""
    mark = f"PREFECT__FLOW_RUN_ID={run_id}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            inherited = mark in environ.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if inherited and machine.is_alive(int(environ.parent.name)):
            found.append(int(environ.parent.name))
    return found


@contextmanager
def _process(stack: Stack, name: str, *command: str) -> Iterator[None]:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt", *command]
    with _running(stack, prefect, stack.home / f"{name}.log"):
        yield


@contextmanager
def _running(stack: Stack, command: list[str], log: Path) -> Iterator[None]:
    # A worker forwards SIGTERM to itself as SIGINT: where that is ignored, it would not stop.
    started = ["setpriv", "--pdeathsig=KILL", "--", "env", "--default-signal=INT", *command]
    process = machine.spawn(started, log, {**stack.env, "PREFECT_RUNNER_POLL_FREQUENCY": "1"})
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.TransportError:
        return False
