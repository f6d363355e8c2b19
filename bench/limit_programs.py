"""What the machine can do at best, as programs of their own that import no more than they need.

    python -m bench.limit_programs stream              read BASE_BACKUP to nowhere; libpq's variables say where
    python -m bench.limit_programs frames FILE         compress FILE as we do, in pieces of 512 KiB, in one thread
    python -m bench.limit_programs write HOW DIR FILE  write as many bytes in as many files as FILE (JSON) lists

`HOW` is `cache` (through the page cache, one sync at the end) or `steps` (sent to the disk and dropped from the
cache every 64 MB). All print bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import sys
from pathlib import Path

_FRAME = 512 << 10
_PIECE = 1 << 20
_STEP = 64 << 20


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
    import zstandard

    compressor = zstandard.ZstdCompressor(level=3)
    with file.open("rb") as opened:
        return sum(len(compressor.compress(frame)) for frame in iter(lambda: opened.read(_FRAME), b""))


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
