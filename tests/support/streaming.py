"""The WAL streamer in a process of its own, standbys to promote, and what must hold of the WAL that is stored."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pgproof import failpoints
from pgproof.actions.opening import open_repository
from pgproof.actions.stream_wal import stream_wal
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.wal_stream import APPLICATION_NAME, StreamOptions
from pgproof.repository.wal_archive import WalArchive
from tests.support import machine
from tests.support.faults import forks
from tests.support.postgres import Cluster

OPTIONS = StreamOptions(create_slot=True, part_seconds=0.1, keep_seconds=1.0)
_NEVER = Lsn(0)


class Streamer:
    """Streams until it is stopped or killed; `rules` are failpoints. Entering it starts it."""

    def __init__(
        self,
        postgres: PostgresConfig,
        config: BackupConfig,
        options: StreamOptions = OPTIONS,
        rules: str = "",
    ) -> None:
        self._log = machine.new_dir("stream") / "log"
        arguments = (str(self._log), rules, postgres, config, options)
        self._process = forks.Process(target=_stream, args=arguments, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive:
            self.kill9()
        if kind is not None:
            print(self.log)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def kill9(self) -> None:
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Ask it to end, as systemd does; it must end well."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        assert self.wait() == 0, self.log

    def wait(self, timeout: float = 60) -> int:
        """Its exit status, once it has ended: 0 when it was asked to, 1 for an error, -9 for a kill."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it does not end:\n{self.log}"
        return self._process.exitcode

    def wait_for_log(self, text: str, times: int = 1, timeout: float = 60) -> None:
        machine.wait_until(
            lambda: self.log.count(text) >= times or not self.alive, f"{text!r} in the log", timeout
        )
        assert self.log.count(text) >= times, self.log


def _stream(
    log: str, rules: str, postgres: PostgresConfig, config: BackupConfig, options: StreamOptions
) -> None:
    logging.basicConfig(filename=log, level=logging.INFO, format="%(levelname)s %(message)s")
    failpoints.arm(rules)
    job = Job()
    signal.signal(signal.SIGTERM, lambda *_: job.stop.set())
    try:
        stream_wal(postgres, config, options, job)
    except Exception as error:
        logging.exception("the streamer ended")
        raise SystemExit(1) from error


def acknowledged(cluster: Cluster, slot: str = OPTIONS.slot) -> Lsn:
    """What the server believes to be safe with us: it may recycle everything below."""
    text = cluster.psql(f"SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'")
    return Lsn.parse(text) if text else _NEVER


def flushed(cluster: Cluster) -> Lsn:
    """What a connected streamer has reported as flushed."""
    text = cluster.psql(
        f"SELECT flush_lsn FROM pg_stat_replication WHERE application_name = '{APPLICATION_NAME}'"
    )
    return Lsn.parse(text) if text else _NEVER


def written(cluster: Cluster) -> Lsn:
    """The end of what a server has written, and so may send. It is behind the place of the next record where a page
    begins, and that can take a while to be written."""
    return Lsn.parse(cluster.psql("SELECT pg_current_wal_flush_lsn()"))


def wait_for_flush(cluster: Cluster, lsn: Lsn, timeout: float = 60) -> None:
    machine.wait_until(lambda: flushed(cluster) >= lsn, f"{lsn} to be acknowledged", timeout)


def require_stored(config: BackupConfig, cluster: Cluster, timeline: int, until: Lsn) -> Lsn:
    """Require that the repository holds a timeline's WAL without a hole up to `until`, byte for byte as the server
    wrote it. The server must not have removed it. Returns where the stored WAL begins."""
    archive = WalArchive.open(open_repository(config))
    inventory = archive.inventory(timeline)
    stretches = inventory.coverage().of_timeline(timeline)
    assert stretches, "nothing is stored"
    assert stretches[-1].end >= until, f"{until} was acknowledged, stored is {stretches}"
    start, size = stretches[-1].start, archive.segment_size
    for number in range(start.value // size, -(-until.value // size)):
        segment = WalSegment(timeline, number, size)
        pieces = [each for each in inventory.pieces if each.range.segment == segment]
        whole = [each for each in pieces if each.range.whole]
        read = archive.read_segment(segment, whole or pieces)
        assert read is not None
        length = read.end - segment.start
        written = (cluster.data_dir / "pg_wal" / segment.name).read_bytes()
        assert read.data[:length] == written[:length], f"{segment.name} is not what the server wrote"
        assert read.end >= min(until, segment.end)
    return start


def export_wal(config: BackupConfig, folder: Path) -> None:
    """Everything of the archive as the files that PostgreSQL reads; unfinished segments padded with zeros."""
    archive = WalArchive.open(open_repository(config))
    inventory = archive.inventory()
    for segment in sorted({each.range.segment for each in inventory.pieces}):
        read = archive.read_segment(segment, archive.pieces_of(segment))
        if read is not None:
            (folder / segment.name).write_bytes(read.data)
    for timeline in inventory.histories:
        (folder / f"{timeline:08X}.history").write_bytes(archive.read_history(timeline) or b"")
    machine.give_to_service(folder)


def copy_of(cluster: Cluster) -> Path:
    """A base backup without WAL, made by the server's own program."""
    root = machine.new_dir("base", owned_by_service=True)
    cluster.run("pg_basebackup", "-D", str(root / "data"), "-X", "none", "-c", "fast")
    return root / "data"


@contextlib.contextmanager
def recovered(base: Path, config: BackupConfig, major: int) -> Iterator[Cluster]:
    """A server on a copy, recovered to the end of the WAL in the repository."""
    folder = machine.new_dir("archive", owned_by_service=True)
    export_wal(config, folder)
    (base / "standby.signal").unlink(missing_ok=True)
    (base / "recovery.signal").touch()
    machine.give_to_service(base)
    settings = {"restore_command": f"cp {folder}/%f %p", "recovery_target_timeline": "latest"}
    settings |= {"synchronous_standby_names": "", "primary_conninfo": ""}
    with Cluster.adopt(base, major, settings=settings) as server:
        machine.wait_until(lambda: server.psql("SELECT pg_is_in_recovery()") == "f", "the end of recovery")
        yield server


def standby_of(cluster: Cluster, slot: str) -> Cluster:
    """A streaming standby, not started yet."""
    cluster.psql(f"SELECT pg_create_physical_replication_slot('{slot}', true)")
    base = copy_of(cluster)
    (base / "standby.signal").touch()
    machine.give_to_service(base)
    return Cluster.adopt(
        base,
        cluster.major,
        settings={
            "primary_conninfo": f"host={cluster.socket_dir} port={cluster.port} user=postgres",
            "primary_slot_name": slot,
            "recovery_target_timeline": "latest",
        },
    )


def promote(standby: Cluster) -> None:
    assert standby.psql("SELECT pg_promote(true, 60)") == "t"
