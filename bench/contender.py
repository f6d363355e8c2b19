"""What is compared: something that makes a backup of a server, and the commands it does it with."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from bench.measure import Command
from tests.support.postgres import Cluster

Place = Literal["directory", "S3", ""]
FULL, RESTORE, VERIFY = "full", "restore", "verify"
# One more backup after one page in a hundred was changed, and the restore of what ten of them left; then the same
# again over that directory, after one page in a hundred of it was changed.
INCREMENTAL, TENTH, DELTA = "incremental", "tenth", "delta"
INCREMENTALS = 10


@dataclass(frozen=True)
class Subject:
    """A contender that is ready: `operations` run in their order, each given a path that does not exist yet, except that
    of DELTA.

    `incremental` is run, and not measured, until there are ten. `stored` tells bytes and number of the objects that a
    backup left. `cold` are the directories that must not be in the page cache when something is read back. `store` is
    the process id of the S3 server. `words` are what an operation must have said.
    """

    operations: Mapping[str, Callable[[Path], Command]]
    stored: Callable[[], tuple[int, int]] | None = None
    cold: Sequence[Path] = field(default_factory=tuple)
    store: int | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    incremental: Callable[[], Command] | None = None


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def major(self) -> int:
        """The PostgreSQL version it is measured with; 0 for none."""

    @property
    def place(self) -> Place: ...

    def prepared(self, source: Cluster, work: Path) -> AbstractContextManager[Subject]:
        """An empty repository in `work` that is removed afterwards."""


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files in a directory."""
    sizes = [
        (Path(path) / name).stat().st_size for path, _folders, names in os.walk(folder) for name in names
    ]
    return sum(sizes), len(sizes)


def discard(folder: Path) -> None:
    """Free the space of a directory in the benchmark's own, and put it aside until everything is done.

    Files are not removed: ext4 passes over every inode that was removed in the last minutes, one at a time, so that
    whoever makes thousands of files next would pay for it (3.5 s of CPU for 5,000 files).
    """
    for path, _folders, names in os.walk(folder):
        for name in names:
            file = Path(path) / name
            if not file.is_symlink():
                os.truncate(file, 0)
    if folder.exists():
        folder.rename(folder.with_name(f"discarded-{secrets.token_hex(4)}"))


def drop_from_cache(folders: Sequence[Path]) -> None:
    """Make the next reader of these files wait for the disk, as after a long time."""
    os.sync()
    for folder in folders:
        for path, _folders, names in os.walk(folder):
            for name in names:
                fd = os.open(Path(path) / name, os.O_RDONLY)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)
