"""Recovery through `wal fetch` beside recovery from WAL that lies on the server's disk.

A server is copied, then writes a gigabyte of WAL by inserts and updates. The copy is recovered to the end of that: from a
pg_wal that holds it all, by a restore_command that is `cp`, and by ours from an encrypted repository. Timed from the server's
first line in its log to the one that says where recovery stops. Nothing that is read is in the page cache.
"""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.contender import Place, discard, drop_from_cache
from bench.measure import Command, measure
from bench.ours import NAME
from bench.peers import NO_ARCHIVING
from bench.streamers import MAJOR, SETTINGS
from bench.targets import Target, target_table
from bench.wal import PUSH_AHEAD, archive_by, make_wal, pushed, service_home
from pgproof.model.wal_commands import restore_command_by_client
from tests.support import machine
from tests.support.postgres import Cluster
from tests.support.streaming import copy_of
from tests.wal.places import client, program

LOCAL, COPIED = "local pg_wal", "`cp` from a directory"
_PATIENCE = 900
_BEGUN, _REPLAYING, _STOPPED = "starting PostgreSQL", "redo starts", "recovery stopping"
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC")


@dataclass(frozen=True)
class Measured:
    """Megabytes are 10^6 bytes of WAL; `before` are the seconds until the first record was replayed, part of `wall`, in
    which our worker starts; `cpu` is that of the server and of what it starts."""

    name: str
    place: str
    round: int
    wal_mb: float
    wall: float
    before: float
    cpu: float

    def __str__(self) -> str:
        return (
            f"round {self.round + 1}: replay, {self.name} {self.place}: {self.wall:.2f} s for {self.wal_mb:,.0f} MB, "
            f"CPU {self.cpu:.2f} s"
        )


@dataclass(frozen=True)
class _Ground:
    """A copy of a server, where its WAL is, and the place where recovery is to stop."""

    base: Path
    bin: Path
    wal: Path
    names: Sequence[str]
    target: str


def measurements(gigabytes: float, rounds: int, places: Sequence[Place], work: Path) -> Iterator[Measured]:
    settings = {**SETTINGS, "archive_mode": True, "archive_command": NO_ARCHIVING, "wal_keep_size": "16GB"}
    with Cluster(MAJOR, settings=settings) as source:
        source.psql("CHECKPOINT")
        base = copy_of(source)
        archive_by(source, "")  # so that every segment stays marked as ready
        make_wal(source, max(2, round(gigabytes * 1e9 / (16 << 20))))
        target = source.psql("SELECT pg_current_wal_insert_lsn()")
        source.psql("SELECT pg_create_restore_point('behind the target')")
        last = source.psql("SELECT pg_walfile_name(pg_switch_wal())")
        folder = source.data_dir / "pg_wal"
        machine.wait_until((folder / "archive_status" / f"{last}.ready").exists, "the last segment")
        first = (base / "backup_label").read_text().partition("(file ")[2].partition(")")[0]
        names = [name for name in _complete(folder) if first <= name <= last]
        ground = _Ground(base, source.bin, folder, names, target)
        for number in range(rounds):
            yield _recovered(ground, LOCAL, "", number, work, "false")
            yield _recovered(ground, COPIED, "", number, work, f"cp {ground.wal}/%f %p")
            for place in places:
                with service_home(source, place, work) as repository:
                    machine.run(program(["create"]), **repository.variables)
                    # With that of the backups made here until now, so that there is no gap.
                    pushed(source, _complete(folder), repository.variables, PUSH_AHEAD, place, "--ahead", "3")
                    line = restore_command_by_client(client(), program(["wal", "worker"]))
                    cold = repository.folder
                    yield _recovered(ground, NAME, place, number, work, line, repository.variables, cold)


def _complete(folder: Path) -> list[str]:
    """The segments of a pg_wal up to the last that is marked as ready; those of the copy are not marked any more."""
    last = max(path.stem for path in (folder / "archive_status").glob("0*.ready"))
    return sorted(path.name for path in folder.glob("0*") if len(path.name) == 24 and path.name <= last)


def _recovered(
    ground: _Ground,
    name: str,
    place: str,
    number: int,
    work: Path,
    restore_command: str,
    variables: Mapping[str, str] | None = None,
    cold: Path | None = None,
) -> Measured:
    data, log = work / "recovered", work / "recovery.log"
    shutil.copytree(ground.base, data, symlinks=True)
    if name == LOCAL:
        for each in ground.names:
            shutil.copy(ground.wal / each, data / "pg_wal")
    (data / "recovery.signal").touch()
    machine.give_to_service(data)
    drop_from_cache([data, ground.wal, *([cold] if cold else [])])
    try:
        command = _server(ground, data, restore_command, variables or {})
        cost = measure(Command(command, machine.environment(**(variables or {})), as_service=True), log)
        return Measured(
            name,
            place,
            number,
            len(ground.names) * (16 << 20) / 1e6,
            _between(cost.output, _BEGUN, _STOPPED),
            _between(cost.output, _BEGUN, _REPLAYING),
            cost.cpu,
        )
    finally:
        discard(data)


def _server(ground: _Ground, data: Path, restore_command: str, variables: Mapping[str, str]) -> list[str]:
    """A server that ends where its recovery does, and is ended if that takes too long."""
    settings = {
        "restore_command": restore_command,
        "recovery_target_lsn": ground.target,
        "recovery_target_action": "shutdown",
        "recovery_target_timeline": "current",
        "hot_standby": "off",
        "archive_command": NO_ARCHIVING,
        "listen_addresses": "",
        "unix_socket_directories": str(data),
        "log_line_prefix": "%m ",
        "log_timezone": "UTC",
    }
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    server = [str(ground.bin / "postgres"), "-D", str(data), *options]
    return ["timeout", "--signal=QUIT", str(_PATIENCE), "setpriv", "--pdeathsig=QUIT", "--", *server]


def _between(log: str, first: str, last: str) -> float:
    """Seconds between the first lines that have these words. Raises RuntimeError with the log's end if one lacks."""
    moments = []
    for words in (first, last):
        line = next((each for each in log.splitlines() if words in each), "")
        found = _TIME.match(line)
        if not found:
            raise RuntimeError(f"the server's log does not say {words!r}:\n{log[-3000:]}")
        moments.append(datetime.datetime.fromisoformat(found[1]))
    return (moments[1] - moments[0]).total_seconds()


def markdown(found: Sequence[Measured]) -> str:
    def of(name: str, place: str, column: str) -> float:
        rows: list[Any] = [each for each in found if (each.name, each.place) == (name, place)]
        return float(median(getattr(row, column) for row in rows))

    lines = [
        f"Replay of {found[0].wal_mb:,.0f} MB of WAL.",
        "",
        "| WAL from | | wall s | until replay began | MB/s | CPU s | rate by the local one |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    local, results = of(LOCAL, "", "wall"), []
    for name, place in dict.fromkeys((each.name, each.place) for each in found):
        wall = of(name, place, "wall")
        rate = of(name, place, "wal_mb") / wall
        lines.append(
            f"| {name} | {place} | {wall:.2f} | {of(name, place, 'before'):.2f} | {rate:.0f} "
            f"| {of(name, place, 'cpu'):.2f} | {local / wall:.2f} |"
        )
        if name == NAME:
            results.append(Target(f"{place}: replay, time by that from a local pg_wal", wall / local, 1.11))
    return "\n".join([*lines, *target_table(results)])
