"""What the machine can do at best, measured like a contender: the programs are in bench/limit_programs.py."""

from __future__ import annotations

import json
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
        program = [sys.executable, "-m", "bench.limit_programs"]
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
