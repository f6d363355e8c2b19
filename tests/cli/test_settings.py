from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from pgproof.cli.main import build_parser
from pgproof.cli.settings import VARIABLES, Settings, load_settings
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig


def parse(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(["create", *arguments])


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def settings(*arguments: str, environ: dict[str, str] | None = None) -> Settings:
    return load_settings(parse(*arguments), environ or {})


def test_nothing_given_is_the_defaults() -> None:
    assert settings().backup == BackupConfig()
    assert settings().postgres.parameters() == {}


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_variables_are_those_the_engine_reads(variable: str) -> None:
    field = VARIABLES[variable]
    value = {
        "BACKUP_COMPRESSION": "off",
        "BACKUP_ENCRYPTION": "off",
        "BACKUP_RETENTION_DAYS": "9",
        **{
            name: "5"
            for name in VARIABLES
            if name.endswith(("_HOURS", "_DAYS", "_MINUTES")) or "_KEEP_" in name
        },
        "BACKUP_CHANGE_DETECTION": "summaries",
        "BACKUP_METHOD": "logical",
        "BACKUP_STORAGE_PRICE_PER_GB_MONTH": "0.023",
        **{name: "6h" for name in VARIABLES if name.endswith("_INTERVAL")},
    }.get(variable, "value")
    read, default = BackupConfig.from_env({variable: value}), BackupConfig.from_env({})
    changed = {
        f.name for f in dataclasses.fields(BackupConfig) if getattr(read, f.name) != getattr(default, f.name)
    }
    assert changed == {field}


@pytest.mark.parametrize("price", ["0.023", "1"])
def test_a_price_may_be_whole_or_not(price: str, tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", f"[backup]\nstorage_price_per_gb_month = {price}")
    assert settings("--config", str(file)).backup.storage_price_per_gb_month == float(price)


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "cheap"])
def test_what_is_no_price_is_refused(price: str) -> None:
    with pytest.raises(PreconditionError):
        settings(environ={"BACKUP_STORAGE_PRICE_PER_GB_MONTH": price})


def test_command_line_before_environment_before_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.toml",
        """
        [postgres]
        host = "file-host"
        port = 1111
        user = "file-user"
        sslmode = "require"
        [backup]
        cluster = "from-file"
        retention_days = 1
        compression = false
        compression_level = 7
        """,
    )
    found = settings(
        "--config", str(file), "--host", "line-host",
        environ={
            "PGHOST": "env-host", "PGUSER": "env-user", "BACKUP_RETENTION_DAYS": "2", "BACKUP_COMPRESSION": "on"
        },
    )  # fmt: skip
    assert found.postgres.parameters() == {
        "host": "line-host", "port": "1111", "user": "env-user", "sslmode": "require"
    }  # fmt: skip
    assert found.backup.cluster == "from-file"
    assert found.backup.retention_days == 2
    assert found.backup.compression is True  # the environment said so, although it is the default
    assert found.backup.compression_level == 7
    assert settings("--config", str(file), "--cluster", "line").backup.cluster == "line"


def test_the_file_is_found_by_the_environment_too(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[backup]\ncluster = "shop"\n')
    assert settings(environ={"PGPROOF_CONFIG": str(file)}).backup.cluster == "shop"


def test_a_repository_on_the_command_line_replaces_every_other_one(tmp_path: Path) -> None:
    environ = {"BACKUP_REPOSITORY_URL": "s3://other/place", "AWS_S3_BUCKET": "bucket"}
    backup = settings("--repository", "relative/dir", environ=environ).backup
    assert backup.repository_url is None and backup.s3_bucket is None
    assert backup.backup_dir == str(Path.cwd() / "relative" / "dir")
    backup = settings("--repository", "s3://bucket/prefix", environ={"BACKUP_DIR": "/backups"}).backup
    assert (backup.repository_url, backup.backup_dir) == ("s3://bucket/prefix", None)


def test_a_directory_and_a_bucket_of_one_source_stay_together() -> None:
    backup = settings(environ={"BACKUP_DIR": "/backups", "AWS_S3_BUCKET": "copies"}).backup
    assert (backup.backup_dir, backup.s3_bucket) == ("/backups", "copies")


def test_a_passphrase_file_in_the_environment_replaces_the_files_passphrase(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[backup]\npassphrase = "old"\n')
    backup = settings("--config", str(file), environ={"BACKUP_PASSPHRASE_FILE": "/run/secret"}).backup
    assert (backup.passphrase, backup.passphrase_file) == (None, "/run/secret")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777])
@pytest.mark.parametrize(
    "secret",
    [
        '[postgres]\npassword = "hush"',
        '[backup]\npassphrase = "hush"',
        '[backup]\ns3_secret_access_key = "hush"',
    ],
)
def test_secrets_that_others_can_reach_are_refused(tmp_path: Path, mode: int, secret: str) -> None:
    file = write(tmp_path / "c.toml", secret, mode)
    with pytest.raises(PreconditionError, match="others can read") as caught:
        settings("--config", str(file))
    assert f"chmod 600 {file}" in caught.value.hint
    assert "hush" not in str(caught.value)
    file.chmod(0o600)
    settings("--config", str(file))


def test_a_file_without_secrets_may_be_readable(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[backup]\nbackup_dir = "/backups"\n', 0o644)
    assert settings("--config", str(file)).backup.backup_dir == "/backups"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[backup\n", "not valid TOML"),
        ('backup_dir = "/b"\n', "outside its tables"),
        ("[backups]\n", "outside its tables"),
        ("[backup]\nbackup_dirs = 1\n", "unknown setting"),
        ('[backup]\ncompression_level = "3"\n', "wrong form"),
        ("[backup]\ncompression_level = true\n", "wrong form"),
        ('[backup]\nbackup_type = "weekly"\n', "wrong form"),
        ("[backup]\ns3_options = {timeout = 5}\n", "wrong form"),
        ("[backup]\ncompression_level = 99\n", "out of range"),
        ("[postgres]\nhost = {a = 1}\n", "wrong form"),
        ('[postgres]\nport = "five"\n', "not a number"),
    ],
)
def test_a_wrong_file_is_refused_with_a_hint(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "c.toml", text)
    with pytest.raises(PreconditionError, match=message) as caught:
        settings("--config", str(file))
    assert caught.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="cannot be read"):
        settings("--config", str(tmp_path / "none.toml"))


def test_options_of_single_commands_reach_the_configuration() -> None:
    backup = settings("--max-rate", "1024", "--compression-level", "9").backup
    assert (backup.max_rate, backup.compression_level) == (1024, 9)
    args = build_parser().parse_args(["init", "--no-encryption"])
    assert load_settings(args, {"BACKUP_ENCRYPTION": "true"}).backup.encryption is False
    args = build_parser().parse_args(["verify", "latest", "--bin-dir", "/opt/pg/bin"])
    assert load_settings(args, {}).backup.bin_dir == "/opt/pg/bin"


@pytest.mark.parametrize("given", [[], ["--standby"], ["--no-recover"]])
def test_no_option_of_a_restore_is_taken_for_a_setting(given: list[str]) -> None:
    args = build_parser().parse_args(["restore", *given])
    assert load_settings(args, {"BACKUP_STANDBY": "copy"}).backup == BackupConfig(standby="copy")
