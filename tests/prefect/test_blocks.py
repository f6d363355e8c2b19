"""The forms: what they yield, that they survive Prefect's storage, and that they print no secret."""

from __future__ import annotations

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from prefect_aws import AwsCredentials, MinIOCredentials
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr, ValidationError

from blocks import BackupRepository, PostgresServer
from deployments.bootstrap import blocks_from_env, bootstrap
from flows.support.settings import backup_config, postgres_config
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupMethod, PostgresConfig

SERVER = PostgresConfig(
    host="db.example.org",
    port=5433,
    user="backup",
    password="hunter2-hunter2",
    database="app",
    options={"sslmode": "verify-full", "sslrootcert": "/etc/ssl/pg.pem"},
)
REPOSITORY = BackupConfig(
    backup_dir="/backups",
    cluster="orders",
    passphrase="correct horse",
    compression_level=5,
    max_rate=4096,
    fast_checkpoint=False,
    retention_days=14,
    keep_last=3,
    keep_hours=5,
    keep_daily=7,
    keep_weekly=9,
    keep_monthly=11,
    keep_at_least=4,
    pitr_days=6,
    storage_price_per_gb_month=0.023,
    backup_max_age_hours=26,
    proof_max_age_days=8,
    rpo_minutes=5,
    rto_minutes=60,
    notify_url="json://hooks.example.org/x",
    bin_dir="/opt/pg/bin",
    scratch_dir="/scratch",
    scratch_user="nobody",
    method=BackupMethod.LOGICAL,
    databases=("app", "other"),
    exclude_tables=("log*",),
    dump_jobs=4,
)


class _Standards(BlockStandardTestSuite):
    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """The suite would fetch the logo; tests use no network."""
        assert str(block._logo_url).startswith("https://")


class TestPostgresServerStandards(_Standards):
    @pytest.fixture
    def block(self) -> type[Block]:
        return PostgresServer


class TestBackupRepositoryStandards(_Standards):
    @pytest.fixture
    def block(self) -> type[Block]:
        return BackupRepository


def test_an_empty_server_form_leaves_everything_to_libpq() -> None:
    assert PostgresServer().config() == PostgresConfig()


def test_a_server_form_yields_what_it_was_made_from() -> None:
    assert PostgresServer.from_config(SERVER).config() == SERVER


def test_a_repository_form_yields_what_it_was_made_from() -> None:
    assert BackupRepository.from_config(REPOSITORY).config() == REPOSITORY


@pytest.mark.parametrize("wrong", [{"cluster": "Main Cluster"}, {"compression_level": 20}, {"max_rate": 1}])
def test_a_repository_form_refuses_what_the_engine_would_refuse(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BackupRepository.model_validate(wrong)


def test_stored_forms_come_back_whole(prefect_backend: None) -> None:
    credentials = MinIOCredentials(
        minio_root_user="key",
        minio_root_password=SecretStr("store-secret"),
        region_name="eu-central-1",
        aws_client_parameters=AwsClientParameters(endpoint_url="http://127.0.0.1:9000"),
    )
    credentials.save("store")
    PostgresServer.from_config(SERVER).save("orders")
    BackupRepository(bucket="backups", passphrase=SecretStr("correct horse"), credentials=credentials).save(
        "orders"
    )

    server, stored = PostgresServer.load("orders"), BackupRepository.load("orders")
    assert isinstance(server, PostgresServer)
    assert isinstance(stored, BackupRepository)
    assert server.config() == SERVER
    assert stored.config() == BackupConfig(
        s3_bucket="backups",
        passphrase="correct horse",
        s3_access_key_id="key",
        s3_secret_access_key="store-secret",
        s3_region="eu-central-1",
        s3_endpoint="http://127.0.0.1:9000",
    )
    keys = AwsCredentials(aws_access_key_id="key", aws_secret_access_key=SecretStr("aws-secret"))
    keys.save("aws")
    BackupRepository(bucket="backups", credentials=keys).save("on-aws")
    on_aws = BackupRepository.load("on-aws")
    assert isinstance(on_aws, BackupRepository)
    assert on_aws.config() == BackupConfig(
        s3_bucket="backups", s3_access_key_id="key", s3_secret_access_key="aws-secret"
    )
    shown = f"{on_aws!r} {stored!r} {server!r}"
    assert not [
        secret for secret in ("aws-secret", "store-secret", "correct horse", "hunter2") if secret in shown
    ]


def test_aws_credentials_are_read_as_configuration() -> None:
    credentials = AwsCredentials(
        aws_access_key_id="key",
        aws_secret_access_key=SecretStr("secret"),
        aws_session_token="token",
        region_name="eu-west-1",
        aws_client_parameters=AwsClientParameters(config={"s3": {"addressing_style": "virtual"}}),
    )
    config = BackupRepository(bucket="backups", credentials=credentials, region="eu-north-1").config()
    assert (config.s3_access_key_id, config.s3_secret_access_key) == ("key", "secret")
    assert config.s3_region == "eu-north-1"
    assert config.s3_options == {
        "aws_session_token": "token",
        "aws_virtual_hosted_style_request": "true",
    }


@pytest.mark.parametrize(
    "credentials",
    [
        AwsCredentials(profile_name="backup"),
        AwsCredentials(assume_role_arn="arn:aws:iam::123456789012:role/backup"),
        AwsCredentials(aws_client_parameters=AwsClientParameters(verify=False)),
    ],
)
def test_settings_that_would_be_ignored_are_refused(credentials: AwsCredentials) -> None:
    with pytest.raises(PreconditionError, match="credentials block"):
        BackupRepository(bucket="backups", credentials=credentials).config()


def test_blocks_from_the_environment_say_the_same_as_the_environment() -> None:
    environ = {
        "PGHOST": "db.example.org",
        "PGPASSWORD": "hunter2-hunter2",
        "PGSSLMODE": "require",
        "AWS_S3_BUCKET": "backups",
        "AWS_S3_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "store-secret",
        "BACKUP_PASSPHRASE": "correct horse",
        "BACKUP_RETENTION_DAYS": "14",
    }
    blocks = blocks_from_env("main", environ)
    assert list(blocks) == [
        "aws-credentials/main-repository",
        "postgres-server/main",
        "backup-repository/main",
    ]
    server, repository = blocks["postgres-server/main"], blocks["backup-repository/main"]
    assert isinstance(server, PostgresServer)
    assert server.config() == PostgresConfig.from_env(environ)
    assert isinstance(repository, BackupRepository)
    assert repository.config() == BackupConfig.from_env(environ)


def test_blocks_from_an_environment_without_repository_are_refused() -> None:
    with pytest.raises(PreconditionError, match="BACKUP_DIR"):
        blocks_from_env("main", {"PGHOST": "db.example.org"})


def test_secrets_are_changed_by_saving_the_blocks_again(
    prefect_backend: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/rotation.md says: all by the new environment, or the keys of the store by their own block."""
    environ = {"PGHOST": "db.example.org", "AWS_S3_BUCKET": "backups", "AWS_ACCESS_KEY_ID": "key"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for word in ("old", "new"):
        monkeypatch.setenv("PGPASSWORD", f"{word} password")
        monkeypatch.setenv("BACKUP_PASSPHRASE", f"{word} passphrase")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{word} secret")
        bootstrap("rotated", deploy=False)
        assert postgres_config("rotated").password == f"{word} password"
        found = backup_config("rotated")
        assert (found.passphrase, found.s3_secret_access_key) == (f"{word} passphrase", f"{word} secret")
    keys = AwsCredentials.load("rotated-repository")
    assert isinstance(keys, AwsCredentials)
    keys.aws_secret_access_key = SecretStr("newest secret")
    keys.save("rotated-repository", overwrite=True)
    assert backup_config("rotated").s3_secret_access_key == "newest secret"
