"""From configuration to a bucket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.repository.bucket import Bucket
from pgproof.repository.local import LocalBucket


def open_bucket(config: BackupConfig) -> Bucket:
    """The bucket that holds the repository. Raises PreconditionError where none is configured.

    `repository_url` wins over `backup_dir`, which wins over `s3_bucket`.
    """
    if config.repository_url:
        return _by_url(config, config.repository_url)
    if config.backup_dir:
        return LocalBucket(Path(config.backup_dir).absolute())
    if config.s3_bucket:
        return _s3(config, config.s3_bucket, None)
    raise PreconditionError(
        "no repository is configured",
        hint="set BACKUP_DIR to a directory or AWS_S3_BUCKET to a bucket (or give --repository)",
    )


def open_mirror(config: BackupConfig) -> Bucket | None:
    """The bucket that is configured beside a directory, for a copy of everything in it."""
    return _s3(config, config.mirror_bucket, None) if config.mirror_bucket else None


def _by_url(config: BackupConfig, url: str) -> Bucket:
    parts = _split(url, "the repository's address", "--repository or BACKUP_REPOSITORY_URL")
    if parts.scheme == "s3":
        return _s3(config, parts.netloc, parts.path.strip("/") or None)
    if parts.scheme in ("", "file"):
        return LocalBucket(Path(parts.path).absolute())
    from pgproof.repository.object_store import url_bucket

    return url_bucket(url)


def _split(url: str, what: str, setting: str) -> SplitResult:
    """Raises PreconditionError for what is no URL, or one that holds secrets: it would be shown and logged."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PreconditionError(
            f"{what} is not understood", hint=f"correct {setting}", reason=error
        ) from error
    if parts.password is not None or parts.query:
        raise PreconditionError(
            f"{what} holds a password or a query",
            hint=f"take it out of {setting}; give keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return parts


def _s3(config: BackupConfig, bucket: str, prefix: str | None) -> Bucket:
    if not bucket or "/" in bucket:
        raise PreconditionError(
            "not the name of a bucket", hint="correct AWS_S3_BUCKET or s3://bucket/prefix", bucket=bucket
        )
    if config.s3_endpoint:
        parts = _split(config.s3_endpoint, "the object store's address", "AWS_ENDPOINT_URL")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PreconditionError(
                "the object store's address is not understood",
                hint="set AWS_ENDPOINT_URL to an address such as https://s3.example.com",
                endpoint=config.s3_endpoint,
            )
    from pgproof.repository.object_store import s3_bucket

    return s3_bucket(
        bucket,
        prefix=prefix,
        region=config.s3_region,
        endpoint=config.s3_endpoint,
        access_key_id=config.s3_access_key_id,
        secret_access_key=config.s3_secret_access_key,
        options=config.s3_options,
    )
