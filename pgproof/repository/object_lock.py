"""How long a bucket's Object Lock holds what is stored in it (S3 documentation, "Locking objects with Object Lock")."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from pgproof.model.config import BackupConfig

# What stores answer that have no Object Lock, or not for this bucket.
_NONE = frozenset(
    {
        "ObjectLockConfigurationNotFoundError",
        "NotImplemented",
        "MethodNotAllowed",
        "NoSuchObjectLockConfiguration",
    }
)


def bucket_of(config: BackupConfig, *, mirror: bool = False) -> str | None:
    """The S3 bucket of the repository, or of its mirror; None where it is none."""
    if mirror:
        return config.mirror_bucket
    if config.repository_url:
        parts = urlsplit(config.repository_url)
        return parts.netloc if parts.scheme == "s3" else None
    return None if config.backup_dir else config.s3_bucket


def default_lock(config: BackupConfig, bucket: str | None) -> tuple[timedelta | None, str]:
    """How long the bucket keeps every new object, None if it does not; and why that is not known, if it is not."""
    if bucket is None:
        return None, ""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer: Any = _client(config).get_object_lock_configuration(Bucket=bucket)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        if code in _NONE:
            return None, ""
        return (
            None,
            f"whether Object Lock holds objects is not known: {code} (grant s3:GetBucketObjectLockConfiguration)",
        )
    except BotoCoreError as error:
        return None, f"whether Object Lock holds objects is not known: {error}"
    rule = (answer.get("ObjectLockConfiguration") or {}).get("Rule") or {}
    retention = rule.get("DefaultRetention") or {}
    days = int(retention.get("Days") or 0) + 366 * int(retention.get("Years") or 0)
    return (timedelta(days=days) if days else None), ""


def _client(config: BackupConfig) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        region_name=config.s3_region or "us-east-1",
        endpoint_url=config.s3_endpoint,
        aws_access_key_id=config.s3_access_key_id,
        aws_secret_access_key=config.s3_secret_access_key,
        aws_session_token=config.s3_options.get("aws_session_token"),
        config=Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 3}),
    )
