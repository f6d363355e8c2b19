"""Ourselves, through the command line as users run us: encrypted, zstd 3."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import FULL, INCREMENTAL, RESTORE, TENTH, VERIFY, Place, Subject, discard, size_of
from bench.measure import Command, measure
from bench.store import tls_store
from tests.support import machine
from tests.support.postgres import Cluster

NAME = "pgproof"
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ours:
    major: int
    place: Place
    name: str = NAME

    @contextmanager
    def prepared(self, source: Cluster, work: Path) -> Iterator[Subject]:
        environment = {**source.libpq_environment(), "BACKUP_PASSPHRASE": "a secret of the benchmark"}
        with ExitStack() as stack:
            if self.place == "S3":
                store = stack.enter_context(tls_store())
                environment |= store.variables()
                subject = Subject(
                    _operations(environment),
                    store.stored,
                    [store.server.root],
                    store.server.pid,
                    incremental=lambda: _create(environment, "incremental"),
                )
            else:
                repository = work / "pgproof"
                repository.mkdir()
                stack.callback(discard, repository)
                environment["BACKUP_DIR"] = str(repository)
                subject = Subject(
                    _operations(environment),
                    lambda: size_of(repository),
                    [repository],
                    incremental=lambda: _create(environment, "incremental"),
                )
            measure(_command(environment, "init", "--yes"), work / "init.log")
            yield subject


def _operations(environment: Mapping[str, str]) -> dict[str, Callable[[Path], Command]]:
    def restore(path: Path) -> Command:
        return _command(environment, "restore", "latest", "--data-dir", str(path), "--no-recover", "--yes")

    return {
        FULL: lambda _path: _create(environment, "full"),
        RESTORE: restore,
        VERIFY: lambda _path: _command(environment, "verify", "latest", "--level", "frames"),
        INCREMENTAL: lambda _path: _create(environment, "incremental"),
        TENTH: restore,
    }


def _create(environment: Mapping[str, str], kind: str) -> Command:
    return _command(environment, "create", "--type", kind, "--json")


def _command(environment: Mapping[str, str], *arguments: str) -> Command:
    program = str(_ROOT / "scripts" / "db_backup.py")
    return Command(
        [sys.executable, program, *arguments], machine.environment(PYTHONPATH=str(_ROOT), **environment)
    )
