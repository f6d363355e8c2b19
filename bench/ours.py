"""Ourselves, through the command line as users run us: encrypted, zstd 3."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.contender import DELTA, FULL, INCREMENTAL, RESTORE, TENTH, VERIFY, Place, Subject, discard, size_of
from bench.measure import Command, measure
from bench.store import tls_store
from tests.support import machine
from tests.support.postgres import Cluster

NAME = "pgproof"
SUMMARIES = f"{NAME}, summaries"
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Home:
    """An empty repository of ours: the variables that lead there, the bytes and number of its objects, where they
    lie, and the process id of its S3 server."""

    variables: Mapping[str, str]
    stored: Callable[[], tuple[int, int]]
    folder: Path
    store: int | None = None

    def command(self, *arguments: str) -> Command:
        program = str(_ROOT / "scripts" / "db_backup.py")
        return Command(
            [sys.executable, program, *arguments],
            machine.environment(PYTHONPATH=str(_ROOT), **self.variables),
        )

    def create(self, kind: str, *options: str) -> Command:
        return self.command("create", "--type", kind, "--json", *options)


@contextmanager
def home(source: Cluster, place: Place, work: Path) -> Iterator[Home]:
    variables = {**source.libpq_environment(), "BACKUP_PASSPHRASE": "a secret of the benchmark"}
    with ExitStack() as stack:
        if place == "S3":
            store = stack.enter_context(tls_store())
            found = Home(variables | store.variables(), store.stored, store.server.root, store.server.pid)
        else:
            folder = work / "pgproof"
            folder.mkdir()
            stack.callback(discard, folder)
            found = Home(variables | {"BACKUP_DIR": str(folder)}, lambda: size_of(folder), folder)
        measure(found.command("init", "--yes"), work / "init.log")
        yield found


@dataclass(frozen=True)
class Ours:
    """With `summaries` only what follows a full backup is measured, because all else is the same."""

    major: int
    place: Place
    changes: Literal["compare", "summaries"] = "compare"

    @property
    def name(self) -> str:
        return SUMMARIES if self.changes == "summaries" else NAME

    @contextmanager
    def prepared(self, source: Cluster, work: Path) -> Iterator[Subject]:
        with home(source, self.place, work) as ours:
            if self.changes == "summaries":
                measure(ours.create("full"), work / "full.log")
            yield Subject(
                self._operations(ours),
                ours.stored,
                [ours.folder],
                ours.store,
                words={INCREMENTAL: f'"change_detection": "{self.changes}"'},
                incremental=lambda: self._incremental(ours),
            )

    def _operations(self, ours: Home) -> dict[str, Callable[[Path], Command]]:
        def restore(path: Path, *options: str) -> Command:
            where = ("--data-dir", str(path), "--no-recover", "--yes")
            return ours.command("restore", "latest", *where, *options)

        later: dict[str, Callable[[Path], Command]] = {
            INCREMENTAL: lambda _path: self._incremental(ours),
            TENTH: restore,
        }
        if self.changes == "summaries":
            return later
        return {
            FULL: lambda _path: ours.create("full"),
            RESTORE: restore,
            VERIFY: lambda _path: ours.command("verify", "latest", "--level", "frames"),
            **later,
            DELTA: lambda path: restore(path, "--delta"),
        }

    def _incremental(self, ours: Home) -> Command:
        return ours.create("incremental", "--change-detection", self.changes)
