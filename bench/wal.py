"""Milliseconds a WAL segment costs the server.

Real segments of a server, given to the commands as its archiver and its recovery would give them: through `sh`, one
after the other. Everyone encrypts and compresses as in the backups. Medians, because the first call of each opens its
repository, and the slowest tenth beside them.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Place
from bench.ours import Home, home
from bench.peers import NO_ARCHIVING, PgBackRest, wait_for_archiver
from pgproof.model.wal_commands import archive_command, restore_command_by_client
from tests.support import machine
from tests.support.postgres import Cluster, Setting
from tests.wal.places import client, program

PUSH, PUSH_AHEAD, FETCH = "push", "push, asynchronous", "fetch, looking ahead"
OURS, BACKREST = "pgproof", "pgBackRest"
# Milliseconds a segment, on a quiet machine.
TARGETS = {PUSH: 45.0, PUSH_AHEAD: 30.0, FETCH: 30.0}
# PostgreSQL replays what it fetched before it asks again.
_REPLAY_SECONDS = 0.05
_MB = 1 << 20


@dataclass(frozen=True)
class Measured:
    """One contender at one operation: milliseconds a segment."""

    name: str
    operation: str
    place: str
    median: float
    p90: float
    first: float
    segments: int

    def __str__(self) -> str:
        return f"{self.name} {self.operation}, {self.place}: {self.median:.0f} ms a segment"


def measurements(segments: int, place: Place, *, alone: bool = False) -> Iterator[Measured]:
    """Everyone in turn on the same segments; or we alone."""
    work = Path(tempfile.mkdtemp(prefix="pgproof-bench-", dir="/tmp"))
    work.chmod(0o755)
    settings: dict[str, Setting] = {
        "archive_mode": True,
        "archive_command": "",
        "wal_keep_size": "4GB",
        "max_wal_size": "8GB",
    }
    try:
        with Cluster(15, settings={**settings, "autovacuum": False}) as source:
            names = make_wal(source, segments)
            yield from ours(source, names, place, work)
            if not alone and shutil.which("pgbackrest"):
                yield from backrest(source, names, place, work)
    finally:
        shutil.rmtree(work)


def make_wal(source: Cluster, segments: int) -> list[str]:
    """Segments full of a table's inserts and updates; the names of the complete ones, marked as ready."""
    source.psql("CREATE TABLE t (id bigserial PRIMARY KEY, owner text, body text, at timestamptz)")
    ready = source.data_dir / "pg_wal" / "archive_status"
    while len(found := sorted(path.stem for path in ready.glob("0*.ready"))) < segments:
        source.psql(
            "INSERT INTO t (owner, body, at) SELECT 'owner ' || g % 1000, md5(g::text) || repeat(' text', 20), now() "
            "FROM generate_series(1, 40000) g; UPDATE t SET at = now() WHERE id % 7 = 0"
        )
    return found[:segments]


# ourselves


def ours(source: Cluster, names: list[str], place: Place, work: Path) -> Iterator[Measured]:
    with service_home(source, place, work) as repository:
        variables = repository.variables
        for operation, ahead, cluster in ((PUSH, "0", "main"), (PUSH_AHEAD, "3", "again")):
            # Under another name what is stored already is stored once more.
            machine.run(program(["create", "--cluster", cluster]), **variables)
            yield pushed(source, names, variables, operation, place, "--cluster", cluster, "--ahead", ahead)
        line = restore_command_by_client(client(), program(["wal", "worker"]))
        yield fetched(OURS, place, line, names, variables, source, work)


@contextmanager
def service_home(source: Cluster, place: Place, work: Path) -> Iterator[Home]:
    """A repository that the server's user can reach, as its archiver must."""
    with home(source, place, work) as repository:
        if place == "directory":
            machine.give_to_service(repository.folder)
        yield repository


def pushed(
    source: Cluster,
    names: list[str],
    variables: Mapping[str, str],
    operation: str,
    place: Place,
    *options: str,
) -> Measured:
    line = archive_command(client(), program(["wal", "worker", *options]))
    measured = timed(OURS, operation, place, source.data_dir, line, names, variables, "pg_wal/%f")
    _remove(source.data_dir / "pg_wal" / "pgproof")
    return measured


# pgBackRest


def backrest(source: Cluster, names: list[str], place: Place, work: Path) -> Iterator[Measured]:
    archive_by(source, NO_ARCHIVING)
    with PgBackRest("pgbackrest", place).prepared(source, work):
        config = work / "pgbackrest" / "pgbackrest.conf"
        base = ["pgbackrest", f"--config={config}", "--stanza=bench"]
        archive_by(source, "")
        try:
            yield from _backrest(source, names, place, work, base)
        finally:
            archive_by(source, NO_ARCHIVING)
            wait_for_archiver(source)


def _backrest(
    source: Cluster, names: list[str], place: Place, work: Path, base: list[str]
) -> Iterator[Measured]:
    status = source.data_dir / "pg_wal" / "archive_status"
    for name in names:
        (status / f"{name}.done").rename(status / f"{name}.ready")
    line = " ".join([*base, "--no-archive-async", "archive-push", "%p"])
    yield timed(BACKREST, PUSH, place, source.data_dir, line, names, {}, "pg_wal/%f")
    # What is stored already is not stored again; a deleted stanza leaves folders in SeaweedFS, which it then refuses.
    base = [*base, f"--repo1-path={'/second' if place == 'S3' else work / 'pgbackrest' / 'second'}"]
    machine.run([*base, "stanza-create"])
    line = " ".join([*base, "--archive-async", "archive-push", "%p"])
    yield timed(BACKREST, PUSH_AHEAD, place, source.data_dir, line, names, {}, "pg_wal/%f")
    line = " ".join([*base, "--archive-async", f"--pg1-path={work / 'fetching'}", "archive-get", "%f", "%p"])
    yield fetched(BACKREST, place, line, names, {}, source, work)


def archive_by(source: Cluster, command: str) -> None:
    source.psql(f"ALTER SYSTEM SET archive_command = '{command}'")
    source.psql("SELECT pg_reload_conf()")
    machine.wait_until(lambda: source.psql("SHOW archive_command") == command, "the archive_command")


# what is timed


def timed(
    name: str,
    operation: str,
    place: str,
    cwd: Path,
    line: str,
    names: list[str],
    variables: Mapping[str, str],
    path: str,
    after: Callable[[], None] = lambda: None,
    pause: float = 0.0,
) -> Measured:
    """Run the line for each segment, as PostgreSQL would, after each other."""
    seconds = []
    for segment in names:
        command = line.replace("%p", path).replace("%f", segment).replace("%%", "%")
        begun = time.perf_counter()
        done = subprocess.run(
            machine.as_service_user(["/bin/sh", "-c", command]),
            cwd=cwd,
            env=machine.environment(**variables),
            capture_output=True,
            text=True,
        )
        seconds.append(time.perf_counter() - begun)
        if done.returncode:
            raise RuntimeError(f"{name}: {operation} ended with {done.returncode}: {done.stderr}")
        after()
        time.sleep(pause)
    rest = sorted(seconds[1:])
    return Measured(
        name,
        operation,
        place,
        1000 * statistics.median(rest),
        1000 * rest[int(len(rest) * 0.9)],
        1000 * seconds[0],
        len(names),
    )


def fetched(
    name: str,
    place: str,
    line: str,
    names: list[str],
    variables: Mapping[str, str],
    source: Cluster,
    work: Path,
) -> Measured:
    """Into the pg_wal of a directory beside, with a pause in which a server would replay."""
    data = work / "fetching"
    (data / "pg_wal").mkdir(parents=True)
    (data / "global").mkdir()
    shutil.copy(source.data_dir / "global" / "pg_control", data / "global")
    machine.give_to_service(data)
    target, wanted = data / "pg_wal" / "RECOVERYXLOG", iter(names)
    try:

        def check() -> None:
            path = source.data_dir / "pg_wal" / next(wanted)
            if target.read_bytes() != path.read_bytes():
                raise RuntimeError(f"{name} brought something else")
            target.unlink()

        return timed(
            name, FETCH, place, data, line, names, variables, "pg_wal/RECOVERYXLOG", check, _REPLAY_SECONDS
        )
    finally:
        _remove(data)


def _remove(folder: Path) -> None:
    """A worker may still put something there, until it sees that its folder is gone."""

    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    machine.wait_until(gone, f"{folder} to be gone")


def markdown(found: Sequence[Measured]) -> str:
    lines = [
        "| ms a segment of 16 MB | | median | slowest tenth | first | target |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for each in found:
        target = f"{TARGETS[each.operation]:.0f}" if each.name == OURS else ""
        lines.append(
            f"| {each.operation}, {each.place} | {each.name} | {each.median:.0f} | {each.p90:.0f} "
            f"| {each.first:.0f} | {target} |"
        )
    return "\n".join(lines)
