"""Databases into another server of a later version, over TCP with a password file, by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pgproof.actions.take_backup import take_backup
from pgproof.cli.main import run as pgproof
from pgproof.model.config import BackupMethod, BackupType
from pgproof.model.job import Job
from tests.support.postgres import SUPERUSER, SUPERUSER_PASSWORD, Cluster
from tests.support.recovery_world import RecoveryWorld

ODD = "odd\n'name' \"x\""
_ROLES = ("keeper", "reader", "guard")
_APP = """
CREATE ROLE keeper; CREATE ROLE reader; CREATE ROLE guard;
CREATE DATABASE away OWNER keeper;
\\connect away
CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people SELECT g, 'secret ' || g FROM generate_series(1, 900) g;
CREATE TABLE "a\nb" (person int REFERENCES people); INSERT INTO "a\nb" SELECT generate_series(1, 90);
GRANT SELECT ON people TO reader; ALTER TABLE people ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON people TO guard USING (true);
SELECT lo_from_bytea(4711, 'a large object'); ALTER LARGE OBJECT 4711 OWNER TO keeper;
"""


@dataclass
class Place:
    """Connected to a server of version 15; `there` is one of version 18 with no other way in than by password."""

    world: RecoveryWorld
    there: Cluster
    physical: str
    logical: str
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        where = ["--to-host", "127.0.0.1", "--to-port", str(self.there.port), "--to-user", SUPERUSER]
        found = pgproof([*arguments, *where, "--yes", "--json"])
        said = self.capture.readouterr()
        assert found == status, said.out + said.err
        document: dict[str, Any] = json.loads(said.out)
        return document

    def drop(self, name: str = "away") -> None:
        quoted = name.replace('"', '""')
        self.there.psql(f'DROP DATABASE "{quoted}" WITH (FORCE)')


@pytest.fixture(scope="module")
def backups(pg18: Cluster) -> Iterator[tuple[RecoveryWorld, str, str]]:
    with RecoveryWorld(15) as world:
        world.cluster.psql(_APP)
        physical = world.backup().backup_id
        config = replace(world.config, method=BackupMethod.LOGICAL, databases=("away",))
        logical = take_backup(world.cluster.config(), config, BackupType.FULL, Job()).backup_id
        world.cluster.psql("DELETE FROM people WHERE id > 90", "away")
        yield world, physical, logical


@pytest.fixture
def place(
    backups: tuple[RecoveryWorld, str, str],
    pg18: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    work_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Place]:
    world, physical, logical = backups
    passwords = work_dir / "passwords"
    passwords.write_text(f"127.0.0.1:{pg18.port}:*:{SUPERUSER}:{SUPERUSER_PASSWORD}\n")
    passwords.chmod(0o600)
    variables = {
        **world.cluster.libpq_environment("away"),
        "PGPASSFILE": str(passwords),
        "BACKUP_DIR": str(world.config.backup_dir),
        "BACKUP_PASSPHRASE": str(world.config.passphrase),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield Place(world, pg18, physical, logical, capsys)
    for role in _ROLES:
        pg18.psql(f"DROP ROLE IF EXISTS {role}")


@pytest.mark.parametrize("source", ["logical", "server"])
def test_what_is_missing_there_is_named_first(place: Place, source: str) -> None:
    command = {
        "logical": ["restore", place.logical, "--target", "away"],
        "server": ["clone", "away", "away"],
    }[source]
    error = place.run(*command, status=3)["error"]
    assert error["facts"]["roles"] == "guard, keeper, reader"
    assert "--no-owner --no-privileges" in error["hint"]
    leaving_out = (*command, "--no-owner", "--no-privileges")
    assert place.run(*leaving_out, status=3)["error"]["facts"]["roles"] == "guard"
    place.there.psql("CREATE ROLE guard")
    place.run(*leaving_out)
    assert place.there.psql(
        "SELECT relowner::regrole, relacl FROM pg_class WHERE relname = 'people'", "away"
    ) == (f"{SUPERUSER}|")
    assert place.there.psql("SELECT convert_from(lo_get(4711), 'UTF8')", "away") == "a large object"
    place.drop()


def test_a_masked_copy_out_of_a_backup_under_an_odd_name(place: Place, work_dir: Path) -> None:
    for role in _ROLES:
        place.there.psql(f"CREATE ROLE {role}")
    mask = work_dir / "mask.sql"
    mask.write_text("UPDATE people SET name = 'nobody'")
    for source in ([place.physical, "--to-backup-end"], [place.logical]):
        report = place.run("clone", "away", ODD, "--mask", str(mask), "--backup", *source)
        assert report["masked"] and report["target"] == ODD
        assert (
            place.there.psql("SELECT count(*), min(name), max(name) FROM people", ODD) == "900|nobody|nobody"
        )
        assert place.there.psql('SELECT count(*) FROM "a\nb"', ODD) == "90"
        place.drop(ODD)
    error = place.run("clone", "away", "x", "--backup", place.logical, "--to-time", "2026-01-01", status=3)[
        "error"
    ]
    assert "at one moment" in error["message"] and place.logical == error["facts"]["backup"]


def test_what_cannot_be_is_told_with_a_way_out(place: Place) -> None:
    other = ["--to-host", "127.0.0.1", "--to-port", "1"]
    for command, message, hint in (
        (["restore", "2020", "--target", "x"], "no such backup", "pgproof list"),
        (["restore", place.logical, "--database", "nothing"], "no such database", "away"),
        (
            ["restore", place.logical, "--target", "postgres", "--plan"],
            "belongs to the server",
            "--target NAME",
        ),
        (["restore", place.logical, "--target", ""], "not a name", "1 to 63 bytes"),
        (["restore", "--to-time", "2020-01-01"], "before the end of the oldest backup", "can be restored"),
        (["clone", "nothing", "x"], "no such database", "correct its name"),
        (["clone", "away", "app"], "exists already", "another name"),
        (["clone", "away", "x", "--mask", "/nowhere"], "cannot be read", "--mask"),
    ):
        error = place.run(*command, status=3)["error"]
        assert message in error["message"] and hint in error["hint"], error
    assert pgproof(["clone", "away", "x", *other, "--json"]) == 4
    assert "cannot be reached" in json.loads(place.capture.readouterr().out)["error"]["message"]
