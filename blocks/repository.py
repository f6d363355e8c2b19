"""The form for the repository that backups go to. It opens no connection."""

from __future__ import annotations

from typing import Any, Literal

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, MinIOCredentials
from pydantic import Field, SecretStr

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupMethod, ChangeDetection
from pgproof.model.objectives import NAMES as OBJECTIVES
from pgproof.model.retention_policy import SETTINGS


class BackupRepository(Block):
    """
    Where the backups of one cluster go, and how they are made.

    Give a directory, a bucket or a URL; the URL wins. Credentials are used as configuration
    only: keys, session token, region and endpoint are read from them. Without credentials the
    worker's own environment or role is used.

    Attributes:
        cluster: Name of the cluster inside the repository.
        directory: Directory of the repository on the worker.
        bucket: Name of an S3 bucket.
        url: URL of any object store.
        credentials: Keys, region and endpoint for the bucket.
        region: Region of the bucket.
        endpoint_url: Endpoint of an S3-compatible store.
        encryption: Whether the repository is encrypted.
        passphrase: Passphrase that opens the repository.
        passphrase_file: File on the worker that holds the passphrase.
        compression: Whether frames are compressed.
        compression_level: Level of zstd.
        retention_days: For how many days backups are kept.
        keep_last: How many of the newest backups are kept.
        keep_hours: For how many hours every backup is kept.
        keep_daily: For how many days one backup of each is kept.
        keep_weekly: For how many weeks one backup of each is kept.
        keep_monthly: For how many months one backup of each is kept.
        keep_at_least: How many good backups are kept in any case.
        pitr_days: How far back every moment can be restored.
        storage_price_per_gb_month: What storage costs, for the reports.
        backup_max_age_hours: Objective: how old the newest good backup may be.
        proof_max_age_days: Objective: how long ago the last proof may be.
        rpo_minutes: Objective: how much may be lost.
        rto_minutes: Objective: how long a restore may take.
        notify_url: Who is told when an objective is broken.
        max_rate: Limit for the server's sending.
        fast_checkpoint: Whether the server starts the backup with an immediate checkpoint.
        change_detection: How backups that build on others find what changed.
        standby: A standby that sends the files.
        max_standby_lag_mb: How far that standby may be behind.
        method: How backups are taken.
        databases: Databases of logical backups.
        tables: Patterns of the tables of logical backups.
        exclude_tables: Patterns of tables to leave out of logical backups.
        dump_jobs: How many tables are dumped at a time.
        bin_dir: Directory of PostgreSQL's programs.
        scratch_dir: Directory for scratch restores.
        scratch_user: OS user that scratch servers run as.

    Example:
        Load a stored repository and hand it to the engine:
        ```python
        from blocks import BackupRepository

        repository = BackupRepository.load("BLOCK_NAME")
        config = repository.config()
        ```
    """

    _block_type_name = "Backup Repository"
    _block_type_slug = "backup-repository"
    _logo_url = "https://www.postgresql.org/media/img/about/press/elephant.png"  # type: ignore[assignment]
    _documentation_url = "https://www.postgresql.org/docs/current/backup.html"  # type: ignore[assignment]

    cluster: str = Field(
        default="main",
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$",
        description="Name of the cluster inside the repository.",
    )
    directory: str | None = Field(
        default=None, description="Directory of the repository, as the worker sees it."
    )
    bucket: str | None = Field(default=None, description="Name of an S3 bucket.")
    url: str | None = Field(
        default=None,
        title="URL",
        description="URL of any object store, such as s3://bucket/prefix; wins over directory and bucket.",
    )
    # MinIOCredentials first: every field of AwsCredentials is optional, so it would fit any document.
    credentials: MinIOCredentials | AwsCredentials | None = Field(
        default=None, description="Keys, region and endpoint for the bucket; empty for the worker's own."
    )
    region: str | None = Field(
        default=None, description="Region of the bucket; wins over the one in the credentials."
    )
    endpoint_url: str | None = Field(
        default=None,
        title="Endpoint URL",
        description="Endpoint of an S3-compatible store; wins over the one in the credentials.",
    )
    encryption: bool = Field(default=True, description="Whether the repository is encrypted.")
    passphrase: SecretStr | None = Field(
        default=None,
        description="Passphrase of the repository. Keep a copy outside Prefect: recovery must not need it.",
    )
    passphrase_file: str | None = Field(
        default=None, description="File on the worker that holds the passphrase, instead of a stored one."
    )
    compression: bool = Field(default=True, description="Whether frames are compressed with zstd.")
    compression_level: int = Field(
        default=3, ge=1, le=19, description="Level of zstd, from 1 (fast) to 19 (small)."
    )
    retention_days: int | None = Field(
        default=None,
        ge=0,
        description="Backups so many days old stay. Where neither this nor a number of backups or periods is given, those "
        "of 24 hours stay, and one for each of 30 days, 52 weeks and 84 months.",
    )
    keep_last: int | None = Field(default=None, ge=1, description="The newest so many backups stay.")
    keep_hours: int | None = Field(default=None, ge=0, description="Every backup of so many hours stays.")
    keep_daily: int | None = Field(
        default=None, ge=0, description="One backup for each of so many days stays."
    )
    keep_weekly: int | None = Field(
        default=None, ge=0, description="One backup for each of so many weeks stays."
    )
    keep_monthly: int | None = Field(
        default=None, ge=0, description="One backup for each of so many months stays."
    )
    keep_at_least: int | None = Field(
        default=None, ge=1, description="So many good backups stay whatever the rules say (2)."
    )
    pitr_days: int | None = Field(
        default=None, ge=0, description="For how many days every moment can be restored (7)."
    )
    storage_price_per_gb_month: float | None = Field(
        default=None,
        ge=0,
        title="Storage price per GB-month",
        description="What the store charges for a GB and a month; the reports then show costs.",
    )
    backup_max_age_hours: int | None = Field(
        default=None, ge=1, description="Objective: the newest good backup is not older than so many hours."
    )
    proof_max_age_days: int | None = Field(
        default=None, ge=1, description="Objective: a backup was restored and started within so many days."
    )
    rpo_minutes: int | None = Field(
        default=None, ge=1, description="Objective: never are more than so many minutes of changes lost."
    )
    rto_minutes: int | None = Field(
        default=None, ge=1, description="Objective: a restore takes no longer than so many minutes."
    )
    notify_url: SecretStr | None = Field(
        default=None,
        description="Who is told of a broken objective where no notification block is named, in Apprise's form.",
    )
    max_rate: int | None = Field(
        default=None,
        ge=32,
        le=1048576,
        description="Limit for the server's sending, in kilobytes a second.",
    )
    fast_checkpoint: bool = Field(
        default=True, description="Start with an immediate checkpoint instead of a spread one."
    )
    change_detection: Literal["compare", "summaries"] = Field(
        default="compare",
        description="How incremental and differential backups find what changed: by comparing every page, or by the "
        "server's WAL summaries where that is safe (PostgreSQL 17 and later).",
    )
    standby: str | None = Field(
        default=None,
        description="HOST or HOST:PORT of a standby that sends the files; the server block names its primary.",
    )
    max_standby_lag_mb: int = Field(
        default=1000, ge=0, description="How many MB of WAL that standby may be behind."
    )
    method: Literal["auto", "physical", "logical"] = Field(
        default="auto",
        description="physical: the whole cluster, over replication; logical: databases, by pg_dump; auto: the first where "
        "the server allows it, else the second.",
    )
    databases: list[str] = Field(
        default_factory=list,
        description="Databases of logical backups; empty for all that the role may connect to.",
    )
    tables: list[str] = Field(
        default_factory=list, description="Only tables that fit these patterns of pg_dump; empty for all."
    )
    exclude_tables: list[str] = Field(
        default_factory=list, description="Leave out tables that fit these patterns of pg_dump."
    )
    dump_jobs: int = Field(
        default=2, ge=1, le=64, description="How many tables a logical backup dumps at a time."
    )
    bin_dir: str | None = Field(
        default=None,
        title="PostgreSQL programs",
        description="Directory on the worker that is searched first for PostgreSQL's programs.",
    )
    scratch_dir: str | None = Field(
        default=None, description="Directory on the worker in which verifications restore."
    )
    scratch_user: str | None = Field(
        default=None, description="OS user that scratch servers run as when the worker is root."
    )

    def config(self) -> BackupConfig:
        """The engine's value for this repository.

        Raises PreconditionError when the credentials hold something that the engine cannot honour.
        """
        return BackupConfig(
            cluster=self.cluster,
            backup_dir=self.directory or None,
            s3_bucket=self.bucket or None,
            repository_url=self.url or None,
            encryption=self.encryption,
            passphrase=self.passphrase.get_secret_value() if self.passphrase else None,
            passphrase_file=self.passphrase_file or None,
            notify_url=self.notify_url.get_secret_value() if self.notify_url else None,
            compression=self.compression,
            compression_level=self.compression_level,
            **{name: getattr(self, name) for name in (*SETTINGS, *OBJECTIVES)},
            storage_price_per_gb_month=self.storage_price_per_gb_month,
            max_rate=self.max_rate,
            fast_checkpoint=self.fast_checkpoint,
            change_detection=ChangeDetection(self.change_detection),
            standby=self.standby or None,
            max_standby_lag_mb=self.max_standby_lag_mb,
            method=BackupMethod(self.method),
            databases=tuple(self.databases),
            tables=tuple(self.tables),
            exclude_tables=tuple(self.exclude_tables),
            dump_jobs=self.dump_jobs,
            bin_dir=self.bin_dir or None,
            scratch_dir=self.scratch_dir or None,
            scratch_user=self.scratch_user or None,
            **self._store(),
        )

    @classmethod
    def from_config(
        cls, config: BackupConfig, credentials: AwsCredentials | MinIOCredentials | None = None
    ) -> BackupRepository:
        """The form that says the same as `config`; the keys lie in `credentials`."""
        return cls.model_validate(
            {
                "cluster": config.cluster,
                "directory": config.backup_dir,
                "bucket": config.s3_bucket,
                "url": config.repository_url,
                "credentials": credentials,
                "region": config.s3_region,
                "endpoint_url": config.s3_endpoint,
                "encryption": config.encryption,
                "passphrase": config.passphrase,
                "passphrase_file": config.passphrase_file,
                "notify_url": config.notify_url,
                "compression": config.compression,
                "compression_level": config.compression_level,
                **{name: getattr(config, name) for name in (*SETTINGS, *OBJECTIVES)},
                "storage_price_per_gb_month": config.storage_price_per_gb_month,
                "max_rate": config.max_rate,
                "fast_checkpoint": config.fast_checkpoint,
                "change_detection": str(config.change_detection),
                "standby": config.standby,
                "max_standby_lag_mb": config.max_standby_lag_mb,
                "method": str(config.method),
                "databases": list(config.databases),
                "tables": list(config.tables),
                "exclude_tables": list(config.exclude_tables),
                "dump_jobs": config.dump_jobs,
                "bin_dir": config.bin_dir,
                "scratch_dir": config.scratch_dir,
                "scratch_user": config.scratch_user,
            }
        )

    def _store(self) -> dict[str, Any]:
        from_credentials = _settings_of(self.credentials) if self.credentials else {}
        own = {"s3_region": self.region or None, "s3_endpoint": self.endpoint_url or None}
        return {**from_credentials, **{key: value for key, value in own.items() if value}}


def _settings_of(credentials: AwsCredentials | MinIOCredentials) -> dict[str, Any]:
    parameters = credentials.aws_client_parameters
    options: dict[str, str] = {}
    key_id: str | None
    secret: SecretStr | None
    match credentials:
        case MinIOCredentials():
            key_id, secret = credentials.minio_root_user, credentials.minio_root_password
        case AwsCredentials():
            key_id, secret = credentials.aws_access_key_id, credentials.aws_secret_access_key
            if credentials.profile_name or credentials.assume_role_arn:
                raise _unusable(
                    "profile_name or assume_role_arn", "set AWS_PROFILE or the role on the worker"
                )
            if credentials.aws_session_token:
                options["aws_session_token"] = credentials.aws_session_token
    if parameters.verify is False or parameters.verify_cert_path:
        raise _unusable("verify or verify_cert_path", "set SSL_CERT_FILE in the worker's environment")
    style = ((parameters.config or {}).get("s3") or {}).get("addressing_style")
    if style in ("path", "virtual"):
        options["aws_virtual_hosted_style_request"] = str(style == "virtual").lower()
    return {
        "s3_access_key_id": key_id,
        "s3_secret_access_key": secret.get_secret_value() if secret else None,
        "s3_region": credentials.region_name,
        "s3_endpoint": parameters.endpoint_url,
        "s3_options": options,
    }


def _unusable(setting: str, instead: str) -> PreconditionError:
    return PreconditionError(
        "a setting of the credentials block is not used by the repository",
        hint=f"clear {setting} in the credentials block and {instead}",
    )
