"""The servers of the demo: a private PostgreSQL with a shop in it, and a Prefect server.

Both keep everything in the demo's work directory.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pgproof.cli.demo_state import DemoState
from pgproof.errors import PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.postgres.osuser import can_reach, give_to, service_user
from pgproof.postgres.programs import Programs, find_programs, run

DATABASE = "shop"
_MAJORS = (18, 17, 16, 15)
_PROGRAMS = ("postgres", "initdb", "pg_ctl", "createdb", "psql")
_TIMEOUT = 300.0
_NOT_INHERITED = ("PREFECT_", "PG", "BACKUP_", "AWS_")
# Loading skips the WAL (wal_level=minimal, tables made in the same transaction) and every fsync.
_LOADING = {
    "fsync": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "4GB",
}
_RUNNING = {"wal_level": "replica", "max_wal_senders": "5", "shared_buffers": "128MB"}


def find_postgres() -> Programs:
    """The newest PostgreSQL here that can run a server.

    Raises PreconditionError for the newest version if there is none at all.
    """
    user = service_user(None)
    first: PreconditionError | None = None
    for major in _MAJORS:
        try:
            programs = find_programs(major)
            paths = [programs.path(name) for name in _PROGRAMS]
        except PreconditionError as error:
            first = first or error
            continue
        if can_reach(user, paths[0]):
            return programs
        first = first or PreconditionError(
            f"the user {user.name if user else 'who runs this'} cannot execute PostgreSQL's programs",
            hint="let that user search every directory above them, or install PostgreSQL",
            bin_dir=programs.bin_dir,
        )
    assert first is not None
    raise first


def start_postgres(state: DemoState, job: Job) -> None:
    """Make the cluster, load the sample data and start the server the way a real one runs."""
    state.cluster.mkdir(mode=0o700)
    give_to(service_user(None), state.cluster)
    _initdb(state, job)
    _start(state, _LOADING, job)
    place = ["-h", str(state.cluster), "-U", "postgres"]
    data = str(Path(__file__).parent / "demo_data.sql")
    _program(state, ["createdb", *place, DATABASE], job)
    # As ourselves: this reads a file of the checkout, which the server's user need not reach.
    command = [f"{state.bin_dir}/psql", "-X", "-q", *place, "-d", DATABASE, "-f", data]
    run(command, user=None, timeout=_TIMEOUT, what="loading the demo's data", job=job)
    _program(state, ["pg_ctl", "stop", "-w", "-m", "fast", "-D", str(state.data)], job)
    _start(state, _RUNNING, job)


def _initdb(state: DemoState, job: Job) -> None:
    options = ["--data-checksums", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
    quick = ["--no-sync", "--no-instructions"]
    _program(state, ["initdb", *options, *quick, "-D", str(state.data)], job)


def _start(state: DemoState, settings: Mapping[str, str], job: Job) -> None:
    given = {"listen_addresses": "''", "unix_socket_directories": str(state.cluster), **settings}
    options = " ".join(f"-c {name}={value}" for name, value in given.items())
    log = str(state.cluster / "log")
    _program(state, ["pg_ctl", "start", "-w", "-D", str(state.data), "-l", log, "-o", options], job)


def _program(state: DemoState, command: list[str], job: Job) -> None:
    """Run one of PostgreSQL's programs as the server's user."""
    name, *arguments = command
    run(
        [f"{state.bin_dir}/{name}", *arguments],
        user=service_user(None),
        timeout=_TIMEOUT,
        what=f"{name} of the demo",
        job=job,
    )


async def start_prefect(state: DemoState) -> asyncio.subprocess.Process:
    """Start a Prefect server with a new database in the work directory; it is not waited for."""
    state.prefect_home.mkdir(mode=0o700)
    with _prefect_log(state).open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "prefect", "--no-prompt", "server", "start"),
            env=prefect_environment(state),
            cwd=state.work,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # It may stay when the demo ends, and a Ctrl-C is for the demo to act upon.
            start_new_session=True,
        )


async def fail_when_it_ends(server: asyncio.subprocess.Process, state: DemoState) -> None:
    """Wait for the Prefect server's end, which comes only by mistake. Raises TransientError then."""
    status = await server.wait()
    raise TransientError(
        "the demo's Prefect server ended",
        hint="start the demo again; the output says what it stumbled over",
        status=status,
        output=_prefect_log(state).read_text(encoding="utf-8", errors="replace")[-800:].strip(),
    )


def prefect_environment(state: DemoState) -> dict[str, str]:
    """The environment of the demo's Prefect processes.

    Nothing of the user's own set-up is in it: neither another Prefect server nor a real repository
    may ever get the demo's data.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
    return {
        **inherited,
        "PREFECT_HOME": str(state.prefect_home),
        "PREFECT_API_URL": state.api_url,
        # The server's UI takes the API's port from these settings, not from --port.
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(state.prefect_port),
        "PREFECT_UI_URL": state.ui_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "pgproof",
        "DO_NOT_TRACK": "1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _prefect_log(state: DemoState) -> Path:
    return Path(state.work) / "prefect-server.log"
