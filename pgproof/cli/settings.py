"""From command line, environment and configuration file to the engine's two configurations.

Precedence: command line, environment, file, defaults. A layer that names a repository (or a
passphrase, or a rule of retention) replaces what the layers below it said about that, so that
`--repository` is never overruled by a forgotten variable.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupMethod, BackupType, ChangeDetection, PostgresConfig
from pgproof.model.replication_config import VARIABLES as REPLICA_VARIABLES
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.retention_policy import RULES, SETTINGS

# The variables BackupConfig.from_env reads; needed apart from it to see what the environment leaves open.
VARIABLES = {
    "BACKUP_DIR": "backup_dir",
    "AWS_S3_BUCKET": "s3_bucket",
    "AWS_S3_REGION": "s3_region",
    "AWS_ENDPOINT_URL": "s3_endpoint",
    "AWS_ACCESS_KEY_ID": "s3_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "s3_secret_access_key",
    "BACKUP_REPOSITORY_URL": "repository_url",
    "BACKUP_PASSPHRASE": "passphrase",
    "BACKUP_PASSPHRASE_FILE": "passphrase_file",
    "BACKUP_COMPRESSION": "compression",
    "BACKUP_ENCRYPTION": "encryption",
    "BACKUP_RETENTION_DAYS": "retention_days",
    "BACKUP_KEEP_LAST": "keep_last",
    "BACKUP_KEEP_HOURS": "keep_hours",
    "BACKUP_KEEP_DAILY": "keep_daily",
    "BACKUP_KEEP_WEEKLY": "keep_weekly",
    "BACKUP_KEEP_MONTHLY": "keep_monthly",
    "BACKUP_KEEP_AT_LEAST": "keep_at_least",
    "BACKUP_PITR_DAYS": "pitr_days",
    "BACKUP_MAX_AGE_HOURS": "backup_max_age_hours",
    "BACKUP_PROOF_MAX_AGE_DAYS": "proof_max_age_days",
    "BACKUP_RPO_MINUTES": "rpo_minutes",
    "BACKUP_RTO_MINUTES": "rto_minutes",
    "BACKUP_NOTIFY_URL": "notify_url",
    "BACKUP_CHANGE_DETECTION": "change_detection",
    "BACKUP_STANDBY": "standby",
    "BACKUP_METHOD": "method",
    "BACKUP_STORAGE_PRICE_PER_GB_MONTH": "storage_price_per_gb_month",
    "BACKUP_CLUSTER": "cluster",
    "BACKUP_FULL_INTERVAL": "full_backup_interval",
    "BACKUP_DIFFERENTIAL_INTERVAL": "differential_interval",
    "BACKUP_INCREMENTAL_INTERVAL": "incremental_interval",
}
_PLACE = frozenset({"repository_url", "backup_dir", "s3_bucket"})
_PASSPHRASE = frozenset({"passphrase", "passphrase_file"})
_RULES = frozenset(RULES)
_SECRETS = {
    "postgres": {"password", "sslpassword"},
    "backup": {"passphrase", "s3_secret_access_key", "notify_url"},
    "replicas": {"password", "replicas"},
}


@dataclass(frozen=True, slots=True)
class Settings:
    postgres: PostgresConfig
    backup: BackupConfig
    replication: ReplicationConfig


def load_settings(args: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Read the file that `args` or `environ` names and put the layers on top of each other.

    Raises PreconditionError for a file that is unreadable, wrong or open to others.
    """
    path = args.config or environ.get("PGPROOF_CONFIG")
    tables = read_config_file(Path(path)) if path else {}
    return Settings(
        postgres=_postgres(args, environ, tables.get("postgres", {})),
        backup=_backup(args, environ, tables.get("backup", {})),
        replication=_replication(environ, tables.get("replicas", {})),
    )


def read_config_file(path: Path) -> dict[str, dict[str, Any]]:
    """Read the tables `[postgres]`, `[backup]` and `[replicas]` of a TOML file."""
    import tomllib

    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            tables = tomllib.load(file)
    except OSError as error:
        raise PreconditionError(
            "the configuration file cannot be read",
            hint="check --config or PGPROOF_CONFIG",
            file=path,
            reason=error.strerror,
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PreconditionError(
            "the configuration file is not valid TOML",
            hint="correct the line that is named",
            file=path,
            reason=error,
        ) from error
    unknown = sorted(set(tables) - set(_SECRETS))
    if unknown or not all(isinstance(table, dict) for table in tables.values()):
        raise PreconditionError(
            "the configuration file has something outside its tables",
            hint="put settings under [postgres], [backup] or [replicas]",
            file=path,
            found=", ".join(unknown or tables),
        )
    secrets = [key for name, table in tables.items() for key in table if key in _SECRETS[name]]
    if secrets and mode & 0o077:
        raise PreconditionError(
            "others can read the secrets in the configuration file",
            hint=f"run: chmod 600 {path}",
            file=path,
            mode=f"{mode & 0o777:04o}",
            secrets=", ".join(secrets),
        )
    _check_types(tables, path)
    return tables


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings, the strongest layer last; None means not given."""
    merged: dict[str, Any] = {}
    for layer in layers:
        given = {key: value for key, value in layer.items() if value is not None}
        if _PASSPHRASE & given.keys():
            merged = {key: value for key, value in merged.items() if key not in _PASSPHRASE}
        for group in (_PLACE, _RULES):
            if group & given.keys():
                merged = {key: value for key, value in merged.items() if key not in group}
        merged |= given
    return merged


def repository_place(text: str) -> dict[str, str]:
    """What `--repository` means: a URL, or a directory."""
    if "://" in text:
        return {"repository_url": text}
    return {"backup_dir": str(Path(text).expanduser().absolute())}


def _postgres(
    args: argparse.Namespace, environ: Mapping[str, str], table: Mapping[str, Any]
) -> PostgresConfig:
    given = {"host": args.host, "port": args.port, "user": args.user, "dbname": args.dbname}
    return PostgresConfig.from_mapping(
        {
            **PostgresConfig.from_mapping(table).parameters(),
            **PostgresConfig.from_env(environ).parameters(),
            **{key: value for key, value in given.items() if value is not None},
        }
    )


def _backup(args: argparse.Namespace, environ: Mapping[str, str], table: Mapping[str, Any]) -> BackupConfig:
    read = BackupConfig.from_env(environ)
    from_environment = {
        field: getattr(read, field) for name, field in VARIABLES.items() if environ.get(name, "").strip()
    }
    given = {
        "cluster": args.cluster,
        **(repository_place(args.repository) if args.repository else {}),
        **{
            name: getattr(args, name, None)
            for name in (
                "max_rate",
                "compression_level",
                "change_detection",
                "standby",
                "max_standby_lag_mb",
                "method",
                "databases",
                "tables",
                "exclude_tables",
                *SETTINGS,
                "bin_dir",
                "encryption",
                "passphrase",
                "full_backup_interval",
                "differential_interval",
                "incremental_interval",
            )
        },
    }
    return BackupConfig.from_mapping(layered(table, from_environment, given))


def _replication(environ: Mapping[str, str], table: Mapping[str, Any]) -> ReplicationConfig:
    given = {key: environ[name] for name, key in REPLICA_VARIABLES.items() if environ.get(name, "").strip()}
    # Hosts of the environment are all of the replicas, like a place of the repository.
    below = {key: value for key, value in table.items() if key != "replicas"} if "hosts" in given else table
    return ReplicationConfig.from_mapping({**below, **given})


def _check_types(tables: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    annotations = {field.name: str(field.type) for field in dataclasses.fields(BackupConfig)}
    wrong = [
        key
        for key, value in tables.get("backup", {}).items()
        if key in annotations and not _fits(value, annotations[key])
    ]
    wrong += [key for key, value in tables.get("postgres", {}).items() if isinstance(value, (dict, list))]
    if wrong:
        raise PreconditionError(
            "a setting in the configuration file has the wrong form",
            hint="texts need quotes, numbers and true or false have none; see docs/cli.md",
            file=path,
            settings=", ".join(wrong),
        )


def _fits(value: object, annotation: str) -> bool:
    if annotation == "BackupType":
        return value in set(BackupType)
    if annotation == "ChangeDetection":
        return value in set(ChangeDetection)
    if annotation == "BackupMethod":
        return value in set(BackupMethod)
    if annotation.startswith("tuple[str"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if annotation.startswith("Mapping"):
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    if annotation.startswith("float"):
        return type(value) in (int, float)
    wanted = {"str": str, "int": int, "bool": bool}[annotation.partition(" ")[0]]
    return type(value) is wanted
