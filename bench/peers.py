"""The others: pg_basebackup, and pgBackRest as Debian 12 has it (2.45, PostgreSQL up to 15)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import DELTA, FULL, INCREMENTAL, RESTORE, TENTH, VERIFY, Place, Subject, discard, size_of
from bench.measure import Command, measure
from bench.store import BUCKET, Store, tls_store
from tests.support import machine
from tests.support.postgres import Cluster
from tests.support.templates import SUPERUSER

_STANZA = "bench"
NO_ARCHIVING = "true"


@dataclass(frozen=True)
class PgBaseBackup:
    """`pg_basebackup` with its own WAL stream; it neither encrypts nor restores."""

    name: str
    major: int
    options: tuple[str, ...] = ()
    place: Place = "directory"

    @contextmanager
    def prepared(self, source: Cluster, work: Path) -> Iterator[Subject]:
        target = new_directory(work / "basebackup")
        command = [
            str(source.bin / "pg_basebackup"),
            f"--pgdata={target}",
            "--wal-method=stream",
            "--checkpoint=fast",
            *self.options,
        ]
        environment = machine.environment(**source.libpq_environment())
        try:
            yield Subject(
                {FULL: lambda _path: Command(command, environment, as_service=True)},
                lambda: size_of(target),
                [target],
            )
        finally:
            discard(target)


@dataclass(frozen=True)
class PgIncremental:
    """`pg_basebackup --incremental`, PostgreSQL 17 and later; `pg_combinebackup` restores from the chain."""

    major: int
    name: str = "pg_basebackup --incremental, pg_combinebackup"
    place: Place = "directory"

    @contextmanager
    def prepared(self, source: Cluster, work: Path) -> Iterator[Subject]:
        chain = new_directory(work / "chain")
        environment = machine.environment(**source.libpq_environment())
        backups: list[str] = []

        def another() -> Command:
            options = [f"--incremental={backups[-1]}/backup_manifest"] if backups else []
            backups.append(str(chain / str(len(backups))))
            program = [str(source.bin / "pg_basebackup"), f"--pgdata={backups[-1]}", "--checkpoint=fast"]
            return Command([*program, *options], environment, as_service=True)

        def combine(path: Path) -> Command:
            program = [str(source.bin / "pg_combinebackup"), f"--output={new_directory(path)}"]
            return Command([*program, *backups], environment, as_service=True)

        try:
            measure(another(), work / "full.log")
            yield Subject(
                {INCREMENTAL: lambda _path: another(), TENTH: combine},
                lambda: size_of(chain),
                [chain],
                incremental=another,
            )
        finally:
            discard(chain)


@dataclass(frozen=True)
class PgBackRest:
    """zst 3, aes-256-cbc, two processes; `bundle` stores small files together, which is not its default."""

    name: str
    place: Place
    bundle: bool = False
    major: int = 15

    @contextmanager
    def prepared(self, source: Cluster, work: Path) -> Iterator[Subject]:
        root = work / "pgbackrest"
        for name in ("repository", "lock", "log", "spool"):
            (root / name).mkdir(parents=True)
        with ExitStack() as stack:
            stack.callback(discard, root)
            store = stack.enter_context(tls_store()) if self.place == "S3" else None
            config = root / "pgbackrest.conf"
            config.write_text(self._config(root, source, store))
            machine.give_to_service(root)
            program = ["pgbackrest", f"--config={config}", f"--stanza={_STANZA}"]
            machine.run([*program, "stanza-create"])
            _archive_by(source, " ".join([*program, "archive-push", "%p"]))
            stack.callback(_archive_by, source, NO_ARCHIVING)

            def restore(path: Path) -> Command:
                return Command([*program, f"--pg1-path={new_directory(path)}", "restore"], as_service=True)

            def delta(path: Path) -> Command:
                return Command([*program, f"--pg1-path={path}", "--delta", "restore"], as_service=True)

            def incremental() -> Command:
                return Command([*program, "--type=incr", "backup"], as_service=True)

            operations = {
                FULL: lambda _path: Command([*program, "--type=full", "backup"], as_service=True),
                RESTORE: restore,
                VERIFY: lambda _path: Command(
                    [*program, "--output=text", "--verbose", "verify"], as_service=True
                ),
                INCREMENTAL: lambda _path: incremental(),
                TENTH: restore,
                DELTA: delta,
            }
            # Its exit status does not tell damage.
            words = {VERIFY: "status: valid"}
            if store:
                yield Subject(
                    operations, store.stored, [store.server.root], store.server.pid, words, incremental
                )
            else:
                repository = root / "repository"
                yield Subject(operations, lambda: size_of(repository), [repository], None, words, incremental)

    def _config(self, root: Path, source: Cluster, store: Store | None) -> str:
        settings = {
            "repo1-path": "/repository" if store else root / "repository",
            "repo1-cipher-type": "aes-256-cbc",
            "repo1-cipher-pass": "a secret of the benchmark",
            "repo1-retention-full": 2,
            "repo1-bundle": "y" if self.bundle else "n",
            "compress-type": "zst",
            "compress-level": 3,
            "process-max": 2,
            "start-fast": "y",
            "lock-path": root / "lock",
            "log-path": root / "log",
            "spool-path": root / "spool",
        }
        if store:
            settings |= {
                "repo1-type": "s3",
                "repo1-s3-bucket": BUCKET,
                "repo1-s3-endpoint": "127.0.0.1",
                "repo1-s3-region": "us-east-1",
                "repo1-s3-key": store.server.access_key,
                "repo1-s3-key-secret": store.server.secret_key,
                "repo1-s3-uri-style": "path",
                "repo1-storage-port": store.port,
                "repo1-storage-ca-file": store.authority,
            }
        server = {
            "pg1-path": source.data_dir,
            "pg1-port": source.port,
            "pg1-socket-path": source.socket_dir,
            "pg1-user": SUPERUSER,
        }
        lines = ["[global]", *(f"{name}={value}" for name, value in settings.items())]
        lines += [f"[{_STANZA}]", *(f"{name}={value}" for name, value in server.items())]
        return "\n".join([*lines, ""])


def new_directory(path: Path) -> Path:
    """An empty directory of the service user's, who may not create it."""
    path.mkdir(mode=0o700)
    machine.give_to_service(path)
    return path


def _archive_by(source: Cluster, command: str) -> None:
    """Change the archive_command once nothing waits for the one before."""
    wait_for_archiver(source)
    source.psql(f"ALTER SYSTEM SET archive_command = '{command}'")
    source.psql("SELECT pg_reload_conf()")
    machine.wait_until(
        lambda: source.psql("SHOW archive_command") == command, "the archive_command to be changed"
    )


def wait_for_archiver(source: Cluster) -> None:
    folder = source.data_dir / "pg_wal" / "archive_status"
    machine.wait_until(lambda: not list(folder.glob("*.ready")), "the archiver", 600)
