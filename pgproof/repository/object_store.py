"""A bucket in S3 or whatever else obstore reaches; the only module that imports obstore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import MemoryStore, ObjectStore, S3Store, from_url

from pgproof.errors import (
    ConflictError,
    DataError,
    EngineError,
    PreconditionError,
    TransientError,
)
from pgproof.failpoints import failpoint
from pgproof.repository.bucket import ObjectInfo

# obstore raises Python's own error for a missing object, beside the one it documents.
_MISSING = (NotFoundError, FileNotFoundError)
_ERRORS = (BaseError, FileNotFoundError)
# Long enough for a store to restart, short enough that a run ends while somebody still looks.
# obstore types its settings as dictionaries of literals, which settings from outside are not.
_RETRY: Any = {"max_retries": 8, "retry_timeout": timedelta(minutes=2)}
_TIMEOUT: Any = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=10)}


class ObjectStoreBucket:
    """Objects in an obstore store. A create is one PUT with `If-None-Match: *`."""

    def __init__(self, store: ObjectStore, location: str) -> None:
        self._store = store
        self._location = location

    @property
    def location(self) -> str:
        return self._location

    def read(self, key: str) -> bytes:
        failpoint("bucket.read")
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except _ERRORS as error:
            raise self._translated(error, key) from error

    def read_range(self, key: str, start: int, length: int) -> bytes:
        failpoint("bucket.read")
        if length == 0:
            return b""
        try:
            data = bytes(obstore.get_range(self._store, key, start=start, length=length))
        except _ERRORS as error:
            # A range that begins behind the end is refused in as many words as there are stores.
            info = self.head(key)
            if info is None or info.size >= start + length:
                raise self._translated(error, key) from error
            data = b""
        if len(data) != length:
            raise DataError("an object is shorter than expected", key=key, wanted=start + length)
        return data

    def create(self, key: str, data: bytes) -> None:
        failpoint("bucket.create.before")
        try:
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
            failpoint("bucket.create.after")
        except AlreadyExistsError as error:
            raise ConflictError("an object of this name exists", key=key) from error
        except _ERRORS as error:
            raise self._translated(error, key) from error

    def head(self, key: str) -> ObjectInfo | None:
        failpoint("bucket.head")
        try:
            found = obstore.head(self._store, key)
        except _MISSING as error:
            if _no_bucket(error):
                raise self._translated(error, key) from error
            return None
        except _ERRORS as error:
            raise self._translated(error, key) from error
        return ObjectInfo(key, found["size"], found["last_modified"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        failpoint("bucket.list")
        try:
            for chunk in obstore.list(self._store, prefix or None, chunk_size=1000):
                for found in chunk:
                    yield ObjectInfo(found["path"], found["size"], found["last_modified"])
        except _ERRORS as error:
            raise self._translated(error, prefix) from error

    def delete(self, key: str) -> None:
        failpoint("bucket.delete.before")
        try:
            obstore.delete(self._store, key)
            failpoint("bucket.delete.after")
        except _MISSING:
            return
        except _ERRORS as error:
            raise self._translated(error, key) from error

    def _translated(self, error: Exception, key: str) -> EngineError:
        if isinstance(error, _MISSING) and not _no_bucket(error):
            return DataError("an object is missing", key=key)
        if _no_bucket(error):
            return PreconditionError(
                "the bucket does not exist",
                hint="create it, or correct its name, region or endpoint",
                location=self._location,
            )
        text = str(error)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or any(
            word in text for word in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
        ):
            return PreconditionError(
                "the object store refused the request",
                hint="check the access key and secret, and that they may list, read, create and delete here",
                location=self._location,
                key=key,
            )
        if isinstance(error, UnknownConfigurationKeyError):
            return PreconditionError("unknown object store setting", hint="check s3_options", reason=text)
        return TransientError(
            "the object store did not answer",
            hint="check the endpoint and the network, then run it again; nothing was half stored",
            location=self._location,
            key=key,
            reason=_first_line(text),
        )


def _no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else ""


def s3_bucket(
    bucket: str,
    *,
    prefix: str | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    options: Mapping[str, str] | None = None,
) -> ObjectStoreBucket:
    """A bucket on S3 or a compatible store. Without keys, boto3's credential chain provides and
    refreshes them (environment, profile, instance or container role)."""
    settings: Any = {"disable_bulk_delete": True, **(options or {})}
    if endpoint:
        settings["endpoint"] = endpoint
        settings.setdefault("virtual_hosted_style_request", False)
    client: Any = {**_TIMEOUT, "allow_http": bool(endpoint and endpoint.startswith("http://"))}
    if access_key_id and secret_access_key:
        settings |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
        settings.setdefault("region", region or "us-east-1")
        provider = None
    else:
        from obstore.auth.boto3 import Boto3CredentialProvider

        try:
            provider = Boto3CredentialProvider()
        except ValueError as error:
            raise PreconditionError(
                "no credentials for the object store",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role",
                bucket=bucket,
            ) from error
        if region:
            settings["region"] = region
    store = S3Store(
        bucket,
        prefix=prefix or None,
        config=settings,
        client_options=client,
        retry_config=_RETRY,
        credential_provider=provider,
    )
    where = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    return ObjectStoreBucket(store, f"{where} at {endpoint}" if endpoint else where)


def url_bucket(url: str) -> ObjectStoreBucket:
    """Any other store that obstore opens by URL (`gs://…`, `az://…`)."""
    try:
        store = from_url(url, retry_config=_RETRY, client_options=_TIMEOUT)
    except (*_ERRORS, ValueError) as error:
        raise PreconditionError(
            "not a repository address",
            hint="use a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
            url=url,
        ) from error
    return ObjectStoreBucket(store, url)


def memory_bucket() -> ObjectStoreBucket:
    """A bucket in memory, gone with the process."""
    return ObjectStoreBucket(MemoryStore(), "memory")
