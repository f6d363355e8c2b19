"""What crash campaigns work on: a small cluster with a ledger at work, its repositories, and the real program."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from campaigns.crash_shop import Shop
from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupConfig
from pgproof.repository.repository import Repository
from tests.support import machine
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster
from tests.support.s3 import S3Server

_ROOT = Path(__file__).parent.parent
_PROGRAM = [sys.executable, "-m", "pgproof.cli.main"]
# A run has seconds of work; what is left of a killed one ends within a minute. Twice and more for a busy machine.
_RUN_SECONDS, _ORPHAN_SECONDS = 600.0, 120.0
# Enough that does not compress for two packs, next to what initdb makes.
_FILL = """
    CREATE TABLE noise AS SELECT (SELECT string_agg(sha256((g * 40 + i)::text::bytea), '')
    FROM generate_series(1, 32) i) AS bytes FROM generate_series(1, 14000) g"""
_LEFT_IN_SERVER = (
    "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_progress_basebackup)"
    " + (SELECT count(*) FROM pg_stat_replication)"
    " + (SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^(pgproof|pg_dump|pg_restore)')"
)


@dataclass(frozen=True)
class Ended:
    """How a run of the program ended."""

    status: int
    output: str
    errors: str

    @property
    def answer(self) -> Any:
        return json.loads(self.output)

    def __str__(self) -> str:
        return f"status {self.status}\n{self.output}\n{self.errors}"


@dataclass
class Store:
    """A repository, the environment that leads the program to it, and the backups that must stay listed."""

    kind: str
    environ: dict[str, str]
    listed: list[str] = field(default_factory=list)

    def config(self, **secret: str) -> BackupConfig:
        return BackupConfig.from_env({**self.environ, **secret})

    def mirror(self) -> Store:
        """The bucket of a directory with a mirror, as a repository of its own."""
        environ = {name: value for name, value in self.environ.items() if name != "BACKUP_DIR"}
        return Store("s3", environ, list(self.listed))

    def open(self) -> Repository:
        return open_repository(self.config())


class Ground:
    """Entering it starts the cluster and its ledger; leaving it removes everything."""

    def __init__(
        self, major: int, place: Path, s3: S3Server | None, *, survive_crashes: bool = False, seed: int = 0
    ) -> None:
        self.major = major
        self.place = place
        self.targets = machine.new_dir("crash")
        self.temporary = machine.new_dir("crash-tmp")
        self.cluster = Cluster(major, initdb_args=("--wal-segsize=1",))
        self.ledger = Ledger(2, pause=0.05, survive_crashes=survive_crashes, seed=seed)
        self._s3 = s3
        self._bucket = ""
        self._stores: dict[tuple[str, ...], Store] = {}

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True)
        self.cluster.start()
        self.cluster.psql(_FILL)
        self.ledger.start(self.cluster)
        self.ledger.wait_for(5)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        try:
            self.ledger.stop()
        finally:
            self.cluster.remove()
            for path in (self.targets, self.temporary):
                shutil.rmtree(path, ignore_errors=True)
            # What a failed attack was made on is kept.
            if kind is None:
                shutil.rmtree(self.place)

    @cached_property
    def shop(self) -> Shop:
        """A database that is restored, cloned and mended while the ledger goes on beside it, and its backups."""
        return Shop(self)

    def store(self, kind: str, *options: str) -> Store:
        """The repository of this kind, with a first backup in it: `local`, `s3`, or `mirror` for one in both.

        The backups of one repository are all taken with the same `options`.
        """
        key = kind, *options
        if key not in self._stores:
            store = self.new_store(kind)
            store.listed.append(self.run(store, "create", *options).answer["backup_id"])
            self._stores[key] = store
        return self._stores[key]

    def new_store(self, kind: str) -> Store:
        """A repository without a backup, opened by its recovery key alone: it needs no costly derivation."""
        store = self.empty_store(kind)
        answer = self.run(store, "init", BACKUP_PASSPHRASE="of the operator").answer
        store.environ["BACKUP_PASSPHRASE"] = answer["recovery_key"]
        for slot in self.run(store, "keys", "list").answer:
            if slot["kind"] == "passphrase":
                self.run(store, "keys", "remove", slot["slot_id"], "--yes")
        return store

    def empty_store(self, kind: str) -> Store:
        """A place where there is no repository yet."""
        name = secrets.token_hex(6)
        local = {"BACKUP_DIR": str(self.place / name)}
        if kind == "local":
            return Store(kind, local)
        assert self._s3 is not None
        server = {
            "AWS_ENDPOINT_URL": self._s3.endpoint,
            "AWS_ACCESS_KEY_ID": self._s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self._s3.secret_key,
        }
        if kind == "mirror":
            return Store(kind, {**local, **server, "AWS_S3_BUCKET": self._s3.make_bucket(f"crash-{name}")})
        if not self._bucket:
            self._bucket = self._s3.make_bucket(f"crash-{name}")
        return Store(kind, {**server, "BACKUP_REPOSITORY_URL": f"s3://{self._bucket}/{name}"})

    def begin(
        self, store: Store, arguments: Iterable[str], environ: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        """Start the program in a process of its own."""
        return subprocess.Popen(
            [*_PROGRAM, *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={
                **machine.environment(**self.cluster.libpq_environment()),
                "TMPDIR": str(self.temporary),
                **store.environ,
                **environ,
            },
        )

    def end(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for its end, and for that of everything that holds its output."""
        try:
            output, errors = process.communicate(timeout=_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Ended(process.returncode, output, errors)

    def run(self, store: Store, *arguments: str, status: int = 0, **environ: str) -> Ended:
        """Run the program to its end, which must be `status`."""
        ended = self.end(self.begin(store, arguments, environ))
        assert ended.status == status, f"{' '.join(arguments)}: {ended}"
        return ended

    def new_target(self) -> Path:
        return self.targets / secrets.token_hex(6)

    def require_no_orphans(self) -> None:
        """Nothing of a killed run outlives it: no server, no program, no mount, no slot, no backup under way."""
        machine.wait_until(
            lambda: not list(self._orphans()), f"no process in {self.targets}", _ORPHAN_SECONDS
        )
        mounts = Path("/proc/mounts").read_text()
        assert str(self.targets) not in mounts and str(self.temporary) not in mounts
        if self.cluster.running:
            with self.cluster.connect() as connection:
                machine.wait_until(
                    lambda: connection.execute(_LEFT_IN_SERVER).fetchall() == [(0,)],
                    "the server to end what a killed run had begun",
                    _ORPHAN_SECONDS,
                )

    def _orphans(self) -> Iterator[int]:
        marks = [os.fsencode(path) for path in (self.targets, self.temporary)]
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended
                seen = (entry / "cmdline").read_bytes() + os.fsencode((entry / "cwd").readlink())
                if any(mark in seen for mark in marks):
                    yield int(entry.name)
