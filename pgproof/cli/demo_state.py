"""What a demo has started and where, in a file, so that `demo --stop` finds and removes all of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pgproof.errors import TransientError

_PREFIX = "pgproof-demo-"


@dataclass(frozen=True, slots=True)
class DemoState:
    """A work directory, PostgreSQL's program directory and the Prefect server's process and port."""

    work: str
    bin_dir: str
    prefect_port: int
    prefect_pid: int | None = None

    def with_server(self, pid: int) -> DemoState:
        return replace(self, prefect_pid=pid)

    @property
    def cluster(self) -> Path:
        """PostgreSQL's directory: data, socket and log; it belongs to the server's user."""
        return Path(self.work) / "postgres"

    @property
    def data(self) -> Path:
        return self.cluster / "data"

    @property
    def repository(self) -> Path:
        return Path(self.work) / "repository"

    @property
    def prefect_home(self) -> Path:
        return Path(self.work) / "prefect"

    @property
    def env_file(self) -> Path:
        return Path(self.work) / "demo.env"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def api_url(self) -> str:
        return f"{self.ui_url}/api"


def new_work_dir() -> Path:
    """Make a work directory with a short path (socket paths are limited to 107 bytes)."""
    work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    work.chmod(0o711)  # the server's user must be able to pass through
    return work


def state_file() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "pgproof" / "demo.json"


def load_state() -> DemoState | None:
    """The demo that runs or was left behind, if there is one."""
    try:
        text = state_file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return DemoState(**json.loads(text))


def save_state(state: DemoState) -> None:
    path = state_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(state)), encoding="utf-8")


def remove_demo(state: DemoState) -> None:
    """Stop the servers and delete the work directory. May be repeated.

    Raises TransientError if a server does not stop; nothing is deleted under it then.
    """
    _stop_prefect(state)
    _stop_postgres(state)
    work = Path(state.work)
    if work.name.startswith(_PREFIX):
        shutil.rmtree(work, ignore_errors=not work.exists())  # gone already is as good
    state_file().unlink(missing_ok=True)


def _stop_postgres(state: DemoState) -> None:
    from pgproof.postgres.osuser import service_user
    from pgproof.postgres.programs import execute

    if not (state.data / "postmaster.pid").exists():
        return
    done = execute(
        [f"{state.bin_dir}/pg_ctl", "stop", "-w", "-m", "immediate", "-D", state.data],
        user=service_user(None),
        timeout=60,
        what="stopping the demo's PostgreSQL",
    )
    # A postmaster.pid that a crash left makes pg_ctl fail as well; then there is no server to stop.
    if done.status and "PID" not in done.stderr and "No such process" not in done.stderr:
        raise TransientError(
            "the demo's PostgreSQL does not stop",
            hint="run: pgproof demo --stop",
            reason=done.stderr.strip(),
        )


def _stop_prefect(state: DemoState) -> None:
    pid = state.prefect_pid
    if pid is None or not _is_demo_process(pid, state):
        return
    os.kill(pid, signal.SIGTERM)
    if not _gone(pid, state, within=1.0):
        # A server that is still starting does not listen, and its database is deleted anyway.
        os.kill(pid, signal.SIGKILL)
        if not _gone(pid, state, within=20.0):
            raise TransientError(
                "the demo's Prefect server does not stop", hint="run: pgproof demo --stop", pid=pid
            )


def _gone(pid: int, state: DemoState, within: float) -> bool:
    deadline = time.monotonic() + within
    while _is_demo_process(pid, state):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_demo_process(pid: int, state: DemoState) -> bool:
    """Whether `pid` is still the process we started: the number may have been given to another one."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"PREFECT_HOME={state.prefect_home}".encode() in environment.split(b"\0")
