"""A repository that is not there, is another's, or does not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_input.program import WITHOUT_ROOTS_RIGHTS, Program

OPENING = "the passphrase does not open this repository"


def test_a_wrong_passphrase(stocked: Program) -> None:
    env = {"BACKUP_PASSPHRASE": "a wrong passphrase"}
    for command in (["list"], ["create"], ["verify", "latest"]):
        stocked.refused(*command, message=OPENING, hint="the recovery key", env=env)
    stocked.fails_check("repository", "the recovery key", env=env)


def test_a_recovery_key_with_a_slip_of_the_pen(stocked: Program) -> None:
    env = {"BACKUP_PASSPHRASE": "PGP1-AAAAAAAA-BBBBBBBB-CCCCCCCC-DDDDDDDD"}
    stocked.refused("list", message=OPENING, hint="the recovery key", env=env)


def test_no_passphrase(stocked: Program) -> None:
    env = {"BACKUP_PASSPHRASE": ""}
    stocked.refused("list", message="no passphrase is given", hint="BACKUP_PASSPHRASE_FILE", env=env)
    stocked.fails_check("repository", "BACKUP_PASSPHRASE_FILE", env=env)


@pytest.mark.parametrize(
    ("content", "mode", "message", "hint"),
    [
        (b"", 0o600, "the passphrase file is empty", "write the passphrase into it"),
        (b"\n", 0o600, "the passphrase file is empty", "write the passphrase into it"),
        (b"a passphrase for tests\n", 0o640, "others can read the passphrase file", "chmod 600"),
        (b"\xff\xfe\n", 0o600, "the passphrase file is not text", "UTF-8"),
        (None, 0o600, "the passphrase file cannot be read", "BACKUP_PASSPHRASE_FILE"),
    ],
)
def test_a_passphrase_file(
    stocked: Program, tmp_path: Path, content: bytes | None, mode: int, message: str, hint: str
) -> None:
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    env = {"BACKUP_PASSPHRASE": "", "BACKUP_PASSPHRASE_FILE": str(file)}
    error = stocked.refused("list", message=message, hint=hint, env=env)
    assert error["facts"]["file"] == str(file)


def test_a_passphrase_file_of_another_user(stocked: Program, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.touch(mode=0o000)
    env = {"BACKUP_PASSPHRASE": "", "BACKUP_PASSPHRASE_FILE": str(file)}
    stocked.refused(
        "list", message="cannot be read", hint="owner and mode", env=env, prefix=WITHOUT_ROOTS_RIGHTS
    )


def test_an_encrypted_repository_stays_so_whatever_is_configured(stocked: Program) -> None:
    off = {"BACKUP_ENCRYPTION": "false"}
    assert len(stocked.json("list", env=off)) == 2
    stocked.refused(
        "list",
        message="this repository is encrypted",
        hint="BACKUP_PASSPHRASE_FILE",
        env=off | {"BACKUP_PASSPHRASE": ""},
    )


def test_a_repository_without_encryption_is_not_taken_for_an_encrypted_one(plain: Program) -> None:
    env = {"BACKUP_ENCRYPTION": "true", "BACKUP_PASSPHRASE": "a passphrase"}
    hint = "BACKUP_ENCRYPTION=false"
    plain.refused("create", message="not encrypted, but encryption is expected", hint=hint, env=env)
    plain.fails_check("repository", hint, env=env)


def test_no_repository_is_configured(plain: Program) -> None:
    plain.refused("list", message="no repository is configured", hint="BACKUP_DIR", env={"BACKUP_DIR": ""})


def test_no_repository_in_the_directory(plain: Program, tmp_path: Path) -> None:
    env = {"BACKUP_DIR": str(tmp_path)}
    for command in ("create", "list"):
        plain.refused(command, message="there is no repository here", hint="pgproof init", env=env)
    plain.fails_check("repository", "pgproof init", env=env)
    assert not list(tmp_path.iterdir())


def test_the_repository_is_a_file(plain: Program, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    env = {"BACKUP_DIR": str(file)}
    plain.refused("create", message="not a directory", hint="BACKUP_DIR", env=env)
    plain.refused("init", message="cannot be made", hint="create it", env=env)
    plain.fails_check("repository", "BACKUP_DIR", env=env)


def test_init_where_there_is_something_already(plain: Program, tmp_path: Path) -> None:
    plain.refused("init", status=6, message="there is a repository already", hint="choose another")
    (tmp_path / "holiday.jpg").touch()
    plain.refused(
        "init", message="the directory is not empty", hint="empty or new", env={"BACKUP_DIR": str(tmp_path)}
    )
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_init_where_an_earlier_one_was_cut_off(plain: Program, tmp_path: Path) -> None:
    (tmp_path / ".staging-0123456789abcdef").write_bytes(b"half a file")
    plain.run("init", "--yes", env={"BACKUP_DIR": str(tmp_path)})


def test_init_without_a_passphrase(plain: Program, tmp_path: Path) -> None:
    env = {"BACKUP_DIR": str(tmp_path / "new"), "BACKUP_ENCRYPTION": "true"}
    plain.refused("init", message="needs a passphrase", hint="BACKUP_PASSPHRASE_FILE", env=env)
    assert not (tmp_path / "new" / "repository.json").exists()


def test_init_where_we_may_not_write(plain: Program, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    plain.refused(
        "init",
        message="the repository's directory cannot be made",
        hint="give it to the user",
        env={"BACKUP_DIR": str(closed / "new")},
        prefix=WITHOUT_ROOTS_RIGHTS,
    )


@pytest.mark.parametrize(
    ("place", "message", "hint"),
    [
        ("ftp://example.com/backups", "not a repository address", "s3://bucket/prefix"),
        ("s3:///prefix", "not the name of a bucket", "AWS_S3_BUCKET"),
        ("s3://key:planted-secret@bucket/", "holds a password", "AWS_SECRET_ACCESS_KEY"),
        ("s3://[bucket/", "address is not understood", "--repository"),
    ],
)
def test_an_address_that_is_none(plain: Program, place: str, message: str, hint: str) -> None:
    said = plain.refused("list", "--repository", place, message=message, hint=hint)
    assert "planted-secret" not in str(said)


@pytest.mark.parametrize("which", ["no-such-backup", "99", ""])
def test_an_unknown_backup(stocked: Program, which: str) -> None:
    for command in (["verify", which], ["restore", which, "--data-dir", "/nowhere/new"]):
        error = stocked.refused(*command, message="there is no such backup", hint="pgproof list")
        assert error["facts"]["wanted"] == which


def test_an_ambiguous_backup(stocked: Program) -> None:
    error = stocked.refused("verify", "2", message="begins the id of several", hint="more of the id")
    assert error["facts"]["matches"].count("-full-") == 2


def test_no_backup_yet(plain: Program) -> None:
    for command in (["verify", "latest"], ["restore", "latest", "--data-dir", "/nowhere/new"]):
        plain.refused(*command, message="there is no backup yet", hint="pgproof create")


def test_keys_that_cannot_be(stocked: Program, plain: Program, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    stocked.refused(
        "keys", "add", "--new-passphrase-file", str(empty), message="file is empty", hint="first line"
    )
    stocked.refused("keys", "remove", "nothing", "--yes", message="no such key", hint="keys list")
    new = tmp_path / "new"
    new.write_text("another passphrase\n")
    plain.refused(
        "keys", "add", "--new-passphrase-file", str(new), message="is not encrypted", hint="pgproof init"
    )
