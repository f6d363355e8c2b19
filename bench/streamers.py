"""Who streams WAL off a server: we, and pg_receivewal, which neither compresses nor encrypts here."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Place, discard, size_of
from bench.measure import Command
from bench.ours import NAME, home
from bench.peers import new_directory
from pgproof.model.wal_stream import APPLICATION_NAME
from tests.support import machine
from tests.support.postgres import Cluster, Setting

RECEIVER = "pg_receivewal"
MAJOR = 18
# What a server with real commits has; the tests' servers do not sync.
SETTINGS: dict[str, Setting] = {
    "fsync": True,
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "autovacuum": False,
}


@dataclass(frozen=True)
class Streamer:
    """`application` is its name for the server."""

    name: str
    place: Place
    application: str


STREAMERS = (
    Streamer(NAME, "directory", APPLICATION_NAME),
    Streamer(RECEIVER, "directory", RECEIVER),
    Streamer(NAME, "S3", APPLICATION_NAME),
)


@dataclass(frozen=True)
class Running:
    """A streamer at work: process ids of it and of its S3 server, and the bytes it has stored until now."""

    pid: int
    store: int | None
    stored: Callable[[], int]


@contextmanager
def running(streamer: Streamer, source: Cluster, work: Path) -> Iterator[Running]:
    """Start it and wait until it streams. An error within is told with its log."""
    if streamer.name == RECEIVER:
        folder, slot = new_directory(work / "received"), f"--slot={RECEIVER}"
        source.psql(f"SELECT pg_create_physical_replication_slot('{RECEIVER}', true)")
        command = [str(source.bin / RECEIVER), f"--directory={folder}", slot, "--synchronous", "--no-loop"]
        environment = machine.environment(**source.libpq_environment())
        try:
            with _started(Command(command, environment, as_service=True), streamer, source, work) as pid:
                yield Running(pid, None, lambda: size_of(folder)[0])
        finally:
            discard(folder)
        return
    with home(source, streamer.place, work) as ours:
        command_ = ours.command("wal", "stream", "--create-slot")
        with _started(command_, streamer, source, work) as pid:
            yield Running(pid, ours.store, lambda: ours.stored()[0])


@contextmanager
def _started(command: Command, streamer: Streamer, source: Cluster, work: Path) -> Iterator[int]:
    log = work / "streamer.log"
    log.unlink(missing_ok=True)
    switch = (
        machine.as_service_user([], die_with_us="KILL")
        if command.as_service
        else ["setpriv", "--pdeathsig=KILL", "--"]
    )
    process = machine.spawn([*switch, *command.argv], log, command.env)
    try:
        machine.wait_until(
            lambda: process.poll() is not None or bool(position(source, streamer)), "the streamer to stream"
        )
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode}")
    except Exception as error:
        raise RuntimeError(f"{streamer.name} {streamer.place}: {error}\n{log.read_text()[-3000:]}") from error
    finally:
        _end(process)
        machine.wait_until(
            lambda: not source.psql("SELECT 1 FROM pg_replication_slots WHERE active"),
            "the slot to be let go",
        )
        source.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def position(source: Cluster, streamer: Streamer) -> str:
    """What it has acknowledged as flushed; nothing while it does not stream."""
    return source.psql(
        f"SELECT flush_lsn FROM pg_stat_replication WHERE application_name = '{streamer.application}' "
        "AND state = 'streaming'"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
