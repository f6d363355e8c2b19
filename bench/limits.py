"""What the machine can do at best, measured like a contender.

    python -m bench.limits stream            read BASE_BACKUP to nowhere; libpq's variables say where
    python -m bench.limits frames FILE       compress FILE as we do, in pieces of 512 KiB, in one thread
    python -m bench.limits write HOW DIR FILE   write as many bytes in as many files as FILE (JSON) lists

`HOW` is `cache` (through the page cache, one sync at the end) or `steps` (sent to the disk and dropped from the
cache every 64 MB). All print bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Place, Subject
from bench.data import relation_files
from bench.measure import Command
from bench.peers import new_directory
from tests.support import machine
from tests.support.postgres import Cluster

STREAM, ZSTD_TWO, ZSTD_ONE, ZSTD_FRAMES, WRITE_CACHE, WRITE_STEPS = (
    "stream",
    "zstd -T2",
    "zstd -T1",
    "zstd frames",
    "write cache",
    "write steps",
)
NAME = "limit"
_PIECE = 1 << 20
_STEP = 64 << 20
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Limits:
    """`everything` measures beside the stream what can be done with its bytes."""

    major: int
    everything: bool
    name: str = NAME
    place: Place = ""

    @contextmanager
    def prepared(self, source: Cluster, work: Path) -> Iterator[Subject]:
        environment = machine.environment(PYTHONPATH=str(_ROOT), **source.libpq_environment())
        program = [sys.executable, "-m", "bench.limits"]
        operations = {STREAM: lambda _path: Command([*program, "stream"], environment)}
        if not self.everything:
            yield Subject(operations)
            return
        tar = new_directory(work / "tar")
        machine.run(
            [str(source.bin / "pg_basebackup"), f"--pgdata={tar}", "--format=tar", "--checkpoint=fast"],
            **source.libpq_environment(),
        )
        sizes = work / "sizes.json"
        sizes.write_text(json.dumps(relation_files(source.data_dir)))
        stream = str(tar / "base.tar")
        operations |= {
            ZSTD_TWO: lambda _path: Command(["zstd", "-3", "-T2", "-q", "-f", stream, "-o", "/dev/null"]),
            ZSTD_ONE: lambda _path: Command(
                ["zstd", "-3", "--single-thread", "-q", "-f", stream, "-o", "/dev/null"]
            ),
            ZSTD_FRAMES: lambda _path: Command([*program, "frames", stream], environment),
            WRITE_CACHE: lambda path: Command(
                [*program, "write", "cache", str(path), str(sizes)], environment
            ),
            WRITE_STEPS: lambda path: Command(
                [*program, "write", "steps", str(path), str(sizes)], environment
            ),
        }
        try:
            yield Subject(operations)
        finally:
            shutil.rmtree(tar)
            sizes.unlink()


def main(arguments: list[str]) -> None:
    if arguments[0] == "stream":
        print(read_to_nowhere())
    elif arguments[0] == "frames":
        print(compress_frames(Path(arguments[1])))
    else:
        how, target, sizes = arguments[1:]
        print(write(Path(target), json.loads(Path(sizes).read_text()), in_steps=how == "steps"))


def read_to_nowhere() -> int:
    from pgproof.model.config import PostgresConfig
    from pgproof.model.job import Job
    from pgproof.postgres.base_backup import BackupOptions, stream_base_backup
    from pgproof.postgres.connection import connect_replication

    with contextlib.closing(connect_replication(PostgresConfig.from_env())) as connection:
        events = stream_base_backup(connection.pgconn, BackupOptions("bench"), Job())
        return sum(len(event) for event in events if isinstance(event, memoryview))


def compress_frames(file: Path) -> int:
    """The compressed size."""
    from pgproof.repository.compression import zstd_frame
    from pgproof.repository.packs import FRAME_SIZE

    with file.open("rb") as opened:
        return sum(len(zstd_frame(frame)) for frame in iter(lambda: opened.read(FRAME_SIZE), b""))


def write(target: Path, sizes: dict[str, int], *, in_steps: bool) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    content = memoryview(random.Random(1).randbytes(_PIECE))
    for folder in sorted({Path(name).parent for name in sizes}):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        fd = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            step = 0
            for start in range(0, size, _PIECE):
                os.pwrite(fd, content[: size - start], start)
                if in_steps and start + _PIECE - step >= _STEP:
                    os.fdatasync(fd)
                    os.posix_fadvise(fd, step, start + _PIECE - step, os.POSIX_FADV_DONTNEED)
                    step = start + _PIECE
        finally:
            os.close(fd)
    fd = os.open(target, os.O_RDONLY)
    try:
        if libc.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs failed")
    finally:
        os.close(fd)
    return sum(sizes.values())


if __name__ == "__main__":
    main(sys.argv[1:])
