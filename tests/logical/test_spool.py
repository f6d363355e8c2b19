"""The directory that pg_dump writes into stays small, whoever is slow, and nobody is left stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.errors import PreconditionError
from pgproof.model.chunks import LOOK_AHEAD
from pgproof.model.config import BackupMethod
from pgproof.model.job import Job
from pgproof.postgres.dump_spool import DumpSpool
from pgproof.postgres.programs import environment
from pgproof.postgres.running import Running
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import PASSPHRASE
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory

_ROOT = Path(__file__).parents[2]
_WRITER = """
import sys, pathlib, time
directory, mb = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with (directory / "1.dat").open("wb") as large, (directory / "2.dat").open("wb") as other:
    for n in range(mb):
        large.write(b"%07d\\n" % n * 131072)
        other.write(b"x" * 1000)
        time.sleep(0.004)
(directory / "3.dat").touch()
(directory / "toc.dat").write_bytes(b"end")
"""


def on_disk(directory: Path) -> int:
    """Bytes; what vanishes while it is counted, the directory itself too, counts no more."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512
    return total


@pytest.fixture
def directory(work_dir: Path) -> Path:
    path = work_dir / "spool"
    path.mkdir()
    return path


def test_a_slow_reader_stops_the_writer_and_gets_every_byte(directory: Path) -> None:
    megabytes, most = 300, 24 << 20
    command = [sys.executable, "-c", _WRITER, str(directory), str(megabytes)]
    read: dict[bytes, int] = {}
    wrong = largest = pauses = 0
    with Running(command, environment()) as program:

        def pause() -> None:
            nonlocal pauses
            pauses += 1
            program.pause()

        spool = DumpSpool(directory, pause, program.resume, most_waiting=most)
        with spool:
            while (piece := spool.next(lambda: program.poll() is not None, Job())) is not None:
                largest = max(largest, on_disk(directory))
                before = read.get(piece.file.name, 0)
                taken = len(piece.data) if piece.final else max(0, len(piece.data) - LOOK_AHEAD)
                if piece.file.name == b"1.dat" and taken >= 8:
                    at = -before % 8
                    wrong += bytes(piece.data[at : at + 8]) != b"%07d\n" % ((before + at) >> 20)
                read[piece.file.name] = before + taken
                spool.done(piece, taken)
                time.sleep(0.04)
        assert program.poll() == 0, program.said
    expected = {b"1.dat": megabytes << 20, b"2.dat": megabytes * 1000, b"3.dat": 0, b"toc.dat": 3}
    assert read == expected and wrong == 0
    # What comes between two looks is beside it: the writer makes 250 MB/s at most.
    assert pauses and largest < 8 * most, f"{pauses} pauses, {largest >> 20} MB lay in the spool"
    assert list(directory.iterdir()) == []


def test_a_file_system_that_cannot_free_what_was_read_is_named(directory: Path) -> None:
    """/proc has no holes; a file system with them is the ordinary case, tested above."""
    spool = DumpSpool(directory, lambda: None, lambda: None)
    file = directory / "1.dat"
    file.write_bytes(bytes(1 << 20))
    with spool:
        piece = spool.next(lambda: True, Job())
        assert piece is not None
        os.close(piece.file.descriptor)
        piece.file.descriptor = os.open("/proc/self/status", os.O_RDONLY)
        with pytest.raises(PreconditionError, match="cannot free the part of a file") as refused:
            spool.done(piece, 1 << 19)
    assert "scratch_dir" in refused.value.hint


@pytest.fixture
def source(cluster_factory: ClusterFactory) -> Iterator[Cluster]:
    cluster = cluster_factory(18)
    cluster.psql(
        "CREATE TABLE large AS SELECT g, repeat(md5(g::text), 30) AS t FROM generate_series(1, 400000) g"
    )
    yield cluster


def test_the_spool_of_a_slow_backup_is_small(source: Cluster, front_doors: OpenDoors, work_dir: Path) -> None:
    doors = front_doors(source, method=BackupMethod.LOGICAL, compression_level=19)
    largest = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not ended.wait(0.01):
            largest = max([largest, *(on_disk(path) for path in work_dir.glob("pgproof-dump-*"))])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        info = doors.backup()
    finally:
        ended.set()
        watcher.join()
    assert info.size_bytes > 380_000_000
    assert 0 < largest < 320 << 20


def test_a_run_that_dies_while_pg_dump_is_stopped_leaves_nobody_behind(
    source: Cluster, front_doors: OpenDoors
) -> None:
    doors = front_doors(source, method=BackupMethod.LOGICAL)
    command = [sys.executable, "scripts/db_backup.py", "create", "--method=logical", "--max-rate=64"]
    variables = {
        **machine.environment(**source.libpq_environment()),
        "BACKUP_DIR": str(doors.config.backup_dir),
        "BACKUP_PASSPHRASE": PASSPHRASE,
        "TMPDIR": str(doors.config.scratch_dir),
    }
    dumping = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' OR query ~ '^COPY.*large'"
    )
    process = subprocess.Popen(command, cwd=_ROOT, env=variables)
    try:

        def stopped() -> bool:
            return sum(_state(pid) == "T" for pid in _family(process.pid)) >= 2

        machine.wait_until(stopped, "pg_dump and its worker to be stopped")
        family = _family(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    machine.wait_until(lambda: not any(map(machine.is_alive, family)), "stopped processes to end")
    machine.wait_until(lambda: source.psql(dumping) == "0", "the server to notice")


def _family(pid: int) -> list[int]:
    """What the threads of a process have started, and what that has."""
    found = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [*found, *(each for child in found for each in _family(child))]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
