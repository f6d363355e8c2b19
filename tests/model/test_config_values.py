"""What is configured: the environment and files in, values or a PreconditionError out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig, UserCheck, VerifyLevel
from pgproof.model.servers import listed_servers, place

BACKUP_VARIABLES = {
    "BACKUP_DIR": "backup_dir",
    "AWS_S3_BUCKET": "s3_bucket",
    "AWS_S3_REGION": "s3_region",
    "AWS_ENDPOINT_URL": "s3_endpoint",
    "BACKUP_REPOSITORY_URL": "repository_url",
    "BACKUP_PASSPHRASE": "passphrase",
    "BACKUP_PASSPHRASE_FILE": "passphrase_file",
}
SECRET = "s3cret-value"


@pytest.mark.parametrize(("name", "field"), BACKUP_VARIABLES.items())
def test_a_variable_sets_its_field(name: str, field: str) -> None:
    assert getattr(BackupConfig.from_env({name: "value"}), field) == "value"
    assert getattr(BackupConfig.from_env({name: ""}), field) is None
    assert getattr(BackupConfig.from_env({name: "value"}, **{field: "given"}), field) == "given"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("1", True),
        ("YES", True),
        (" on ", True),
        ("false", False),
        ("0", False),
        ("Off", False),
    ],
)
def test_switches(text: str, value: bool) -> None:
    assert BackupConfig.from_env({"BACKUP_ENCRYPTION": text}).encryption is value
    assert BackupConfig.from_env({"BACKUP_COMPRESSION": text}).compression is value


def test_what_is_not_set_keeps_its_default() -> None:
    assert BackupConfig.from_env({}) == BackupConfig()
    assert BackupConfig.from_env({"BACKUP_ENCRYPTION": "", "BACKUP_RETENTION_DAYS": " "}) == BackupConfig()


environments = st.dictionaries(
    st.sampled_from([*BACKUP_VARIABLES, "BACKUP_RETENTION_DAYS", "BACKUP_ENCRYPTION", "BACKUP_COMPRESSION"]),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
)


@given(environments)
def test_any_environment_is_read_or_refused(environ: dict[str, str]) -> None:
    try:
        config = BackupConfig.from_env(environ)
    except PreconditionError as error:
        assert error.hint
        return
    assert config.retention_days is None or config.retention_days >= 0


@given(st.dictionaries(st.sampled_from(["PGPORT", "PGHOST", "PGUSER", "PGSSLMODE"]), st.text(max_size=6)))
def test_any_libpq_environment_is_read_or_refused(environ: dict[str, str]) -> None:
    try:
        config = PostgresConfig.from_env(environ)
    except PreconditionError as error:
        assert error.hint
        return
    assert config.port is None or 1 <= config.port <= 65535
    assert config.parameters().get("host", "") == environ.get("PGHOST", "")


def test_libpq_parameters() -> None:
    config = PostgresConfig.from_env(
        {"PGHOST": "h", "PGPORT": "5433", "PGDATABASE": "d", "PGSSLMODE": "require", "PGPASSWORD": SECRET}
    )
    expected = {"host": "h", "port": "5433", "dbname": "d", "sslmode": "require", "password": SECRET}
    assert config.parameters() == expected
    assert PostgresConfig.from_mapping({"dbname": "d", "application_name": "x"}).parameters() == {
        "dbname": "d",
        "application_name": "x",
    }


def test_secrets_are_not_shown() -> None:
    postgres = PostgresConfig(host="h", user="u", password=SECRET)
    backups = BackupConfig(passphrase=SECRET, s3_access_key_id=SECRET, s3_secret_access_key=SECRET)
    for shown in (repr(postgres), str(postgres), repr(backups), str(backups)):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "values",
    [
        {"cluster": "Main"},
        {"cluster": "../x"},
        {"cluster": ""},
        {"cluster": "a" * 64},
        {"cluster": "main\n"},
        {"compression_level": 0},
        {"compression_level": 20},
        {"max_rate": 31},
        {"max_rate": 1048577},
        {"no_such_setting": 1},
        {"backup_type": "weekly"},
        {"checks": [{"name": "x"}]},
        {"checks": ["x"]},
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(PreconditionError) as refused:
        BackupConfig.from_mapping(values)
    assert refused.value.hint


def test_a_configuration_file() -> None:
    config = BackupConfig.from_mapping(
        {"backup_type": "incremental", "checks": [{"name": "n", "database": "d", "sql": "SELECT true"}]}
    )
    assert config.backup_type is BackupType.INCREMENTAL
    assert config.checks == (UserCheck("n", "d", "SELECT true"),)


def test_levels_include_those_before_them() -> None:
    levels = [VerifyLevel.OBJECTS, VerifyLevel.FRAMES, VerifyLevel.START, VerifyLevel.FULL]
    for high, level in enumerate(levels):
        for low, other in enumerate(levels):
            assert level.includes(other) == (high >= low)


def test_a_list_of_hosts_is_taken_apart_as_libpq_does() -> None:
    listed = PostgresConfig.from_mapping(
        {
            "host": "a,b,c",
            "port": "5433,,5434",
            "user": "u",
            "target_session_attrs": "primary",
            "sslmode": "require",
        }
    )
    assert listed.parameters()["port"] == "5433,,5434"
    servers = listed_servers(listed)
    assert [place(each) for each in servers] == [("a", "5433"), ("b", "5432"), ("c", "5434")]
    assert all(each.user == "u" and each.parameters()["sslmode"] == "require" for each in servers)
    assert not any("target_session_attrs" in each.parameters() for each in servers)
    one_port = listed_servers(PostgresConfig(host="a,b", port=5433))
    assert [place(each) for each in one_port] == [("a", "5433"), ("b", "5433")]
    by_address = listed_servers(PostgresConfig(host="a,b", options={"hostaddr": "10.0.0.1,10.0.0.2"}))
    assert [each.parameters()["hostaddr"] for each in by_address] == ["10.0.0.1", "10.0.0.2"]
    alone = PostgresConfig(host="a", port=5433)
    assert listed_servers(alone) == (alone,)
    with pytest.raises(PreconditionError, match="port"):
        PostgresConfig.from_mapping({"host": "a,b", "port": "5433,x"})
