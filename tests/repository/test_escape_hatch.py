"""Nobody depends on this project: the program in the repository restores by itself what a backup holds."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupMethod, BackupType, PostgresConfig, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import BackupInfo
from pgproof.repository import escape_hatch
from pgproof.repository.catalog import find_backup
from pgproof.repository.escape_hatch import PROGRAM, SHA256, ensure_restore_script, script_key
from pgproof.repository.local import LocalBucket
from pgproof.repository.object_store import memory_bucket
from tests.support import machine
from tests.support.awkward import Awkward, make_awkward
from tests.support.faults import flip_bit, put_back, run_armed
from tests.support.faults import replace as replace_file
from tests.support.fingerprint import as_restored, fingerprint
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster

_PASSPHRASE = "Grüße, ﬁrst"
_NAMED = {"cryptography", "zstandard", "blake3"}
_MEMORY = 400 << 20  # bytes; Argon2id alone takes 64 MB


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has what the program's first lines name, and nothing of ours."""
    place = tmp_path_factory.mktemp("clean")
    venv.create(place, with_pip=True)
    (command,) = re.findall(r"-m pip (install .*)$", PROGRAM.read_text(), re.MULTILINE)[:1]
    names = [name.strip('"') for name in command.split()]
    subprocess.run([place / "bin" / "python", "-m", "pip", "--quiet", *names], check=True, cwd="/")
    found = subprocess.run([place / "bin" / "python", "-c", "import pgproof"], capture_output=True, cwd="/")
    assert found.returncode != 0
    return place / "bin" / "python"


@dataclass
class Source:
    """A cluster with awkward contents, and a repository with one backup, taken while a ledger was written."""

    cluster: Cluster
    awkward: Awkward
    config: BackupConfig
    recovery_key: str | None
    backup: BackupInfo
    ledger: Ledger
    before: dict[str, Any]

    @property
    def root(self) -> Path:
        return Path(self.config.backup_dir or "")


@dataclass
class Hatch:
    """Runs the program as it lies in a repository, with the clean Python."""

    python: Path

    def __call__(self, root: Path, *arguments: str, secret: str = "", fails: bool = False) -> str:
        environ = machine.environment(**({"BACKUP_PASSPHRASE": secret} if secret else {}))
        limited = ["prlimit", f"--data={_MEMORY}", "--"]
        command = [*limited, str(self.python), str(root / script_key()), str(root), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, cwd="/", stdin=subprocess.DEVNULL
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said
        assert "Traceback" not in said
        return said


@pytest.fixture
def hatch(clean_python: Path) -> Hatch:
    return Hatch(clean_python)


def back_up(postgres: PostgresConfig, config: BackupConfig) -> BackupInfo:
    return take_backup(postgres, config, BackupType.FULL, Job())


def _source(major: int, encryption: bool) -> Iterator[Source]:
    place = machine.new_dir("hatch")
    config = BackupConfig(
        backup_dir=str(place / "repo"), passphrase=_PASSPHRASE, encryption=encryption, cluster="shop"
    )
    recovery_key = init_repository(config).recovery_key
    with Cluster(major, outside_config=not encryption, initdb_args=("--wal-segsize=4",)) as cluster:
        awkward = make_awkward(cluster, place)
        # Without compression, the backup has packs of an interrupted run as well.
        config = replace(config, compression=False)
        assert run_armed("pack.stored=kill", back_up, cluster.config(), config) == -9
        before = fingerprint(cluster.connect)
        with Ledger(clients=2).start(cluster) as ledger:
            ledger.wait_for(20)
            backup = back_up(cluster.config(), config)
        yield Source(cluster, awkward, config, recovery_key, backup, ledger, before)


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Source]:
    yield from _source(18, encryption=True)


@pytest.fixture(scope="module")
def plain() -> Iterator[Source]:
    yield from _source(15, encryption=False)


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_a_server_starts_on_what_it_restored(
    request: pytest.FixtureRequest, hatch: Hatch, work_dir: Path, kind: str
) -> None:
    source: Source = request.getfixturevalue(kind)
    manifest = find_backup(open_repository(source.config), source.backup.backup_id)
    assert len(manifest.packs) == 2, "the backup names packs of two runs"
    moved = {old: work_dir / f"moved {n}" for n, old in enumerate(source.awkward.tablespaces.values())}
    options = [f"--tablespace={old}={new}" for old, new in moved.items()]
    options += ["--cluster=shop", "--target", str(work_dir / "data")]
    options += ["--unencrypted"] if kind == "plain" else []
    said = hatch(source.root, *options, secret=_PASSPHRASE if kind == "encrypted" else "")
    assert f"pg_ctl -D {work_dir / 'data'} start" in said

    if kind == "plain":
        kept = sorted(path.name for path in (work_dir / "data" / "config-from-backup").iterdir())
        assert [name.partition("-")[2] for name in kept] == [
            "postgresql.conf",
            "pg_hba.conf",
            "pg_ident.conf",
        ]
        # What it writes lets in nobody but peers, and the test is another user.
        assert (work_dir / "data" / "pg_hba.conf").read_text() == "local all all peer\n"
        (work_dir / "data" / "pg_hba.conf").write_text("local all all trust\n")
    with Cluster.adopt(work_dir / "data", source.cluster.major) as restored:
        machine.wait_until(lambda: _is_open(restored), "the end of recovery")
        assert restored.psql("SHOW archive_mode") == "off"
        assert restored.psql("SELECT pg_walfile_name(pg_current_wal_lsn())").startswith("00000002")
        for name, place in source.awkward.tablespaces.items():
            quoted = name.replace("'", "''")
            found = f"SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{quoted}'"
            assert restored.psql(found) == str(moved[place])
        after = fingerprint(restored.connect)
        with restored.connect() as connection:
            source.ledger.check(connection, source.backup.stop_lsn)
    expected = as_restored(source.before)
    for each in (after, expected):
        del each["databases"]["postgres"]  # the ledger's, which was written to meanwhile
    assert after == expected


def test_it_writes_the_same_files_as_our_restore(encrypted: Source, hatch: Hatch, work_dir: Path) -> None:
    """With the recovery key, to the tablespaces' places below another root; without the server's later changes."""
    assert encrypted.recovery_key
    spaces = list(encrypted.awkward.tablespaces.values())
    trees = []
    for who in ("ours", "hatch"):
        target, moved = (
            work_dir / who / "data",
            {old: work_dir / who / f"{n}" for n, old in enumerate(spaces)},
        )
        if who == "ours":
            mapping = {str(old): str(new) for old, new in moved.items()}
            restore_cluster(
                encrypted.config, "latest", target, tablespaces=mapping, recover=False, owner=None, job=Job()
            )
        else:
            options = [f"--tablespace={old}={new}" for old, new in moved.items()]
            options += ["--cluster=shop", f"--backup={encrypted.backup.backup_id}", f"--target={target}"]
            hatch(encrypted.root, *options, secret=encrypted.recovery_key.lower())
        trees.append(_tree(work_dir / who))
    ours, theirs = trees
    assert ours.pop("data/backup_manifest")  # kept by us for pg_verifybackup
    for differs in ("data/postgresql.auto.conf", "data/tablespace_map"):  # other words, other places
        assert ours.pop(differs) and theirs.pop(differs)
    assert theirs == ours
    assert len(ours) > 5000


def _is_open(server: Cluster) -> bool:
    """While it recovers, a server answers that it does, or refuses."""
    with contextlib.suppress(RuntimeError):
        return server.psql("SELECT pg_is_in_recovery()") == "f"
    return False


def _tree(root: Path) -> dict[str, tuple[int, str]]:
    """Mode and content of every file, mode of every directory, by path."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in root.rglob("*")
        if not path.is_symlink()
    }


def test_it_lists_what_there_is(encrypted: Source, plain: Source, hatch: Hatch) -> None:
    said = hatch(encrypted.root, "--cluster=shop", "--list", secret=_PASSPHRASE)
    assert said.startswith(f"{encrypted.backup.backup_id}  physical  ok  PostgreSQL 18.")
    said = hatch(plain.root, "--cluster=shop", "--list", "--unencrypted")
    assert said.startswith(f"{plain.backup.backup_id}  physical  ok  PostgreSQL 15.")


def test_what_it_refuses(encrypted: Source, plain: Source, hatch: Hatch, work_dir: Path) -> None:
    target = work_dir / "data"
    to = ("--cluster=shop", f"--target={target}")
    refusals: list[tuple[Path, tuple[str, ...], str, str]] = [
        (encrypted.root, to, "wrong", "opens none of the keys"),
        (plain.root, to, "", "add --unencrypted"),
        (encrypted.root / "keys", to, _PASSPHRASE, "no repository"),
        (encrypted.root, (f"--target={target}",), _PASSPHRASE, "one of: shop"),
        (encrypted.root, (*to, "--backup=20200101T000000Z-full-000000"), _PASSPHRASE, "no backup 2020"),
        (encrypted.root, (*to, "--tablespace=/none=/some"), _PASSPHRASE, "not OLD=/NEW"),
        (encrypted.root, ("--cluster=shop",), _PASSPHRASE, "--list or --target"),
        (encrypted.root, to, _PASSPHRASE, "is not empty"),  # the tablespaces are still where they were
    ]
    for root, arguments, secret, message in refusals:
        script = [str(encrypted.root / script_key()), str(root), *arguments]
        environ = machine.environment(**({"BACKUP_PASSPHRASE": secret} if secret else {}))
        done = subprocess.run([hatch.python, *script], capture_output=True, text=True, env=environ, cwd="/")
        assert done.returncode != 0 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert not (target / "global").exists()


@pytest.mark.parametrize(
    "what", ["manifest", "map", "pack", "WAL", "repository.json", "missing pack", "swap"]
)
def test_damage_stops_it_before_there_is_anything_to_start(
    encrypted: Source, hatch: Hatch, work_dir: Path, what: str
) -> None:
    place = encrypted.root / "clusters" / "shop"
    manifest = find_backup(open_repository(encrypted.config), encrypted.backup.backup_id)
    segment = manifest.wal_segments[0]
    packs = sorted((place / "packs" / manifest.backup_id).iterdir())
    victim = {
        "manifest": place / "backups" / encrypted.backup.backup_id / "manifest",
        "map": max((place / "maps").iterdir(), key=lambda path: path.stat().st_size),
        "WAL": place / "wal" / f"{segment.timeline:08X}" / segment.name,
        "repository.json": encrypted.root / "repository.json",
    }.get(what, packs[0])
    moves = [f"--tablespace={old}={work_dir / old.name}" for old in encrypted.awkward.tablespaces.values()]
    with put_back(encrypted.root):
        content = victim.read_bytes()
        if what == "missing pack":
            victim.unlink()
        elif what == "swap":
            replace_file(victim, packs[1].read_bytes())
        else:
            replace_file(victim, flip_bit(content, len(content) // 2))
        said = hatch(
            encrypted.root,
            *("--cluster=shop", f"--target={work_dir / 'data'}", *moves),
            secret=_PASSPHRASE,
            fails=True,
        )
    named = str(victim.relative_to(encrypted.root))
    if what == "missing pack":
        named = f"{named[:-64]}* is missing"
    assert "STOPPED: " in said and named in said
    assert not (work_dir / "data" / "global" / "pg_control").exists()


def test_verification_names_a_program_that_somebody_changed(plain: Source) -> None:
    """It asks for passphrases, so whoever can write to the store would like to change it."""
    with put_back(plain.root):
        path = plain.root / script_key()
        replace_file(path, path.read_bytes() + b"# and sends the passphrase to me\n")
        report = verify_backup(plain.config, "latest", VerifyLevel.FRAMES, Job())
        assert not report.ok
        assert any(script_key() in damage for damage in report.damage)
    assert verify_backup(plain.config, "latest", VerifyLevel.FRAMES, Job()).ok


def test_an_old_repository_gets_it_once(tmp_path: Path) -> None:
    for bucket in (memory_bucket(), LocalBucket(tmp_path)):
        ensure_restore_script(bucket)
        assert bucket.read(script_key()) == PROGRAM.read_bytes()
        stored = bucket.head(script_key())
        ensure_restore_script(bucket)
        assert bucket.head(script_key()) == stored


def test_a_changed_program_is_a_new_revision() -> None:
    """A repository keeps the program that it was given, under the revision's name."""
    digest = hashlib.sha256(PROGRAM.read_bytes()).hexdigest()
    assert SHA256[escape_hatch.REVISION] == digest, "raise REVISION and add its SHA-256"
    assert list(SHA256) == list(range(1, escape_hatch.REVISION + 1))
    recovery = (Path(__file__).parents[2] / "docs" / "recovery.md").read_text()
    assert f"{digest}  {script_key()}" in recovery
    assert script_key() in PROGRAM.read_text()


def test_it_needs_nothing_but_what_it_names() -> None:
    tree = ast.parse(PROGRAM.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == _NAMED


def test_pg_restore_reads_the_dumps_that_it_wrote(encrypted: Source, hatch: Hatch, work_dir: Path) -> None:
    cluster = encrypted.cluster
    cluster.psql("CREATE DATABASE dumped; CREATE DATABASE by_hand TEMPLATE template0")
    cluster.psql(
        "CREATE TABLE many AS SELECT g, md5(g::text) AS t FROM generate_series(1, 60000) g;"
        "CREATE TABLE none (); SELECT lo_from_bytea(4711, 'an object')",
        "dumped",
    )
    config = replace(
        encrypted.config,
        backup_dir=str(work_dir / "repo"),
        method=BackupMethod.LOGICAL,
        databases=("dumped",),
        compression=True,
    )
    init_repository(config)
    back_up(cluster.config(), config)
    target = work_dir / "dumps"
    said = hatch(
        Path(str(config.backup_dir)), "--cluster", "shop", "--target", str(target), secret=_PASSPHRASE
    )
    (command,) = re.findall(r"pg_restore .* --dbname=NAME (\S+) +# 'dumped'", said)
    machine.give_to_service(target)
    cluster.run("pg_restore", "--exit-on-error", "--dbname=by_hand", command, dbname="by_hand")
    query = "SELECT count(*), sum(g), min(t), max(t), lo_get(4711) FROM many"
    assert cluster.psql(query, "by_hand") == cluster.psql(query, "dumped")
    assert "CREATE ROLE" in (target / "globals.sql").read_text()
