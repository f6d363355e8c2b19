"""Secrets that are planted, and then looked for wherever others can look."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from tests.bad_input.conftest import Roles
from tests.bad_input.program import Program
from tests.bad_input.watcher import Watcher
from tests.support import machine
from tests.support.s3 import S3Server


def planted(what: str) -> str:
    return f"canary-{what}-{secrets.token_hex(8)}"


@pytest.fixture
def login(roles: Roles) -> dict[str, str]:
    """The variables of a role whose password is planted; it is a superuser, so that a backup reads all."""
    password = planted("password")
    role = roles.make(f"watched_{secrets.token_hex(4)}", options="LOGIN SUPERUSER")
    roles.cluster.psql(f"ALTER ROLE {role['PGUSER']} PASSWORD '{password}'")
    return role | {"PGPASSWORD": password}


@pytest.fixture
def guarded_s3() -> Iterator[S3Server]:
    """An object store whose keys are planted."""
    server = S3Server()
    server.access_key, server.secret_key = planted("access"), planted("secret")
    with server:
        yield server


@pytest.mark.parametrize("place", ["argument", "environment"])
def test_the_watcher_sees_what_is_there(place: str) -> None:
    word = planted(place)
    arguments = [word] if place == "argument" else []
    environ = machine.environment(WORD=word if place == "environment" else "")
    with Watcher([word]) as watcher:
        command = ["sh", "-c", "read line", *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environ) as process:
            machine.wait_until(lambda: bool(watcher.leaks), "the watcher to see the word")
            process.communicate(b"\n")
    assert watcher.leaks == {f"{word} in the {place}{'s' * (place == 'argument')} of sh"}


def test_no_secret_is_shown_or_stored(
    plain: Program, login: dict[str, str], guarded_s3: S3Server, work_dir: Path
) -> None:
    passphrases = [planted("passphrase") for _ in range(3)]
    program = plain.with_(
        **login,
        BACKUP_DIR="",
        BACKUP_ENCRYPTION="true",
        BACKUP_PASSPHRASE=passphrases[0],
        AWS_S3_BUCKET=guarded_s3.make_bucket("watched"),
        AWS_ENDPOINT_URL=guarded_s3.endpoint,
        AWS_ACCESS_KEY_ID=guarded_s3.access_key,
        AWS_SECRET_ACCESS_KEY=guarded_s3.secret_key,
    )
    recovery_key: str = program.json("init")["recovery_key"]
    words = [login["PGPASSWORD"], *passphrases, guarded_s3.access_key, guarded_s3.secret_key, recovery_key]
    for passphrase in passphrases[1:]:
        (work_dir / passphrase[-8:]).write_text(f"{passphrase}\n")
    added, changed = (str(work_dir / passphrase[-8:]) for passphrase in passphrases[1:])
    target = work_dir / "restored"
    commands: list[tuple[list[str], int, dict[str, str]]] = [
        (["check", "-vv"], 0, {}),
        (["create", "-vv"], 0, {}),
        (["create", "--json"], 3, {"PGPASSWORD": planted("wrong")}),
        (["list", "--json"], 0, {}),
        (["list", "-vv"], 3, {"BACKUP_PASSPHRASE": planted("wrong")}),
        (["list", "-vv"], 3, {"AWS_SECRET_ACCESS_KEY": planted("wrong")}),
        (["verify", "latest", "--level", "full", "-vv"], 0, {}),
        (["restore", "latest", "--data-dir", str(target), "-vv"], 0, {}),
        (["stats"], 0, {}),
        (["keys", "add", "--new-passphrase-file", added, "-vv"], 0, {}),
        (["keys", "change", "--new-passphrase-file", changed, "-vv"], 0, {}),
        (["keys", "list", "--json"], 0, {"BACKUP_PASSPHRASE": recovery_key}),
    ]
    with Watcher(words) as watcher:
        said = [program.run(*command, status=status, env=env) for command, status, env in commands]
    assert not watcher.leaks
    assert any(str(target) in each for each in watcher.servers), watcher.servers
    for word in words:
        assert not any(word in done.stdout + done.stderr for done in said)
    store = guarded_s3.store("watched")
    keys = [info["path"] for chunk in obstore.list(store) for info in chunk]
    assert len(keys) > 10
    for key in keys:
        content = key.encode() + bytes(obstore.get(store, key).bytes())
        assert not [word for word in words if word.encode() in content]
    assert not holding(target, words)


def test_a_directory_without_encryption_holds_no_secret_of_ours(
    plain: Program, login: dict[str, str], tmp_path: Path
) -> None:
    words = [login["PGPASSWORD"], planted("passphrase"), planted("secret")]
    program = plain.with_(
        **login,
        BACKUP_DIR=str(tmp_path / "repository"),
        BACKUP_COMPRESSION="false",
        BACKUP_PASSPHRASE=words[1],
        AWS_SECRET_ACCESS_KEY=words[2],
    )
    program.run("init")
    program.run("create")
    program.run("verify", "latest", "--level", "frames")
    assert not holding(tmp_path, words)
    # The same look finds what is there: without encryption and compression the data itself.
    assert holding(tmp_path, [login["PGUSER"]])


def holding(folder: Path, words: list[str]) -> set[str]:
    """The words that some file below `folder` holds."""
    files = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return {word for content in files for word in words if word.encode() in content}
