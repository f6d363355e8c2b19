"""A bucket in S3 or whatever else obstore reaches; the only module that calls obstore."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import MemoryStore, ObjectStore, S3Store, from_url

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.repository.bucket import MAX_WHOLE, ObjectInfo
from pgproof.repository.points import storage_point
from pgproof.repository.store_answers import (
    ERRORS,
    MISSING,
    Missing,
    Patience,
    Unusable,
    translated,
    worth_repeating,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta

T = TypeVar("T")

# obstore types its settings as dictionaries of literals, which settings from outside are not.
_NO_RETRY: Any = {"max_retries": 0}
_CONNECT: Any = {"connect_timeout": timedelta(seconds=10)}


class ObjectStoreBucket:
    """Objects in an obstore store. A create is one PUT with `If-None-Match: *`.

    Calls are repeated here and not by obstore, which never repeats a PUT or DELETE whose connection was lost.
    """

    def __init__(self, store: ObjectStore, location: str, patience: Patience | None = None) -> None:
        self._store = store
        self._location = location
        self._patience = patience or Patience()

    @property
    def location(self) -> str:
        return self._location

    def read(self, key: str) -> bytes:
        storage_point("read", key)
        return self._patiently(key, lambda: self._whole(key))

    def _whole(self, key: str) -> bytes:
        found = obstore.get(self._store, key)
        if found.meta["size"] > MAX_WHOLE:
            raise DataError("an object is too large to be one", key=key, size=found.meta["size"])
        return bytes(found.bytes())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        storage_point("read", key)
        if length == 0:
            return b""

        def read() -> bytes:
            try:
                data = bytes(obstore.get_range(self._store, key, start=start, length=length))
            except MISSING:
                raise
            except ERRORS as error:
                # A range that begins behind the end is refused in as many words as there are stores.
                if "range" not in str(error).lower() or self._size(key) >= start + length:
                    raise
                data = b""
            if len(data) != length and self._size(key) >= start + length:
                raise Unusable(f"{len(data)} bytes came instead of {length}")
            return data

        data = self._patiently(key, read)
        if len(data) != length:
            raise DataError("an object is shorter than expected", key=key, wanted=start + length)
        return data

    def create(self, key: str, data: bytes) -> None:
        storage_point("create", key, "before")
        doubtful = False

        def put() -> None:
            nonlocal doubtful
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                # A store says so, too, of a create that meets another one (409); then there may be no object.
                if not self._exists(key):
                    raise
                # An earlier try of ours, whose answer was lost, has stored it.
                if doubtful and bytes(obstore.get(self._store, key).bytes()) == data:
                    return
                raise ConflictError("an object of this name exists", key=key) from error
            except MISSING as error:
                raise Unusable(str(error)) from error
            except ERRORS:
                doubtful = True
                raise

        self._patiently(key, put)
        storage_point("create", key, "after")

    def head(self, key: str) -> ObjectInfo | None:
        storage_point("head", key)
        try:
            found = self._patiently(key, lambda: obstore.head(self._store, key))
        except Missing:
            return None
        return ObjectInfo(key, found["size"], found["last_modified"])

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """In the store's order. It is complete when the store has said again that nothing follows: obstore
        takes an answer that is no list for an empty one."""
        storage_point("list", prefix)
        last, again = after, False
        while True:
            before = last
            for found in self._listed(prefix, last):
                yield ObjectInfo(found["path"], found["size"], found["last_modified"])
                last = max(last, found["path"])
            if again and last == before:
                return
            again = True

    def delete(self, key: str) -> None:
        storage_point("delete", key, "before")
        with contextlib.suppress(Missing):
            self._patiently(key, lambda: obstore.delete(self._store, key))
        storage_point("delete", key, "after")

    def _listed(self, prefix: str, after: str) -> Iterator[ObjectMeta]:
        """What follows `after`, once; a list that breaks off goes on behind the last name."""
        stream: Iterator[Sequence[ObjectMeta]] | None = None
        last, ascending = after, True

        def chunk() -> Sequence[ObjectMeta] | None:
            nonlocal stream
            try:
                if stream is None:
                    stream = iter(
                        obstore.list(self._store, prefix or None, offset=last or None, chunk_size=1000)
                    )
                return next(stream, None)
            except ERRORS as error:
                stream = None
                if not ascending:
                    raise translated(error, self._location, prefix) from error
                raise

        while (found := self._patiently(prefix, chunk)) is not None:
            for each in found:
                yield each
                ascending = ascending and each["path"] > last
                last = max(last, each["path"])

    def _patiently(self, key: str, call: Callable[[], T]) -> T:
        """The result of a call that may be repeated. What is missing is looked for twice."""
        begun, missing = time.monotonic(), False
        for tried in itertools.count():
            pause = self._patience.pause(tried)
            try:
                return call()
            except ERRORS as error:
                late = time.monotonic() - begun + pause > self._patience.total
                if (
                    late
                    or tried + 1 >= self._patience.tries
                    or not worth_repeating(error)
                    or (missing and isinstance(error, MISSING))
                ):
                    raise translated(error, self._location, key) from error
                missing = isinstance(error, MISSING)
            time.sleep(pause)
        raise AssertionError("not reached")

    def _exists(self, key: str) -> bool:
        try:
            obstore.head(self._store, key)
        except MISSING:
            return False
        return True

    def _size(self, key: str) -> int:
        return obstore.head(self._store, key)["size"]


def s3_bucket(
    bucket: str,
    *,
    prefix: str | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    options: Mapping[str, str] | None = None,
    patience: Patience | None = None,
) -> ObjectStoreBucket:
    """A bucket on S3 or a compatible store; `options` are obstore's, among them `timeout`.

    Without keys, boto3's credential chain provides and refreshes them (environment, profile, instance or
    container role).
    """
    patience = patience or Patience()
    settings: Any = {"disable_bulk_delete": True, **(options or {})}
    if endpoint:
        settings["endpoint"] = endpoint
        settings.setdefault("virtual_hosted_style_request", False)
    client: Any = {**_CONNECT, "allow_http": bool(endpoint and endpoint.startswith("http://"))}
    if "timeout" not in settings:
        client["timeout"] = timedelta(seconds=patience.request)
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
        retry_config=_NO_RETRY,
        credential_provider=provider,
    )
    where = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    return ObjectStoreBucket(store, f"{where} at {endpoint}" if endpoint else where, patience)


def url_bucket(url: str) -> ObjectStoreBucket:
    """Any other store that obstore opens by URL (`gs://…`, `az://…`)."""
    try:
        client: Any = {**_CONNECT, "timeout": timedelta(seconds=Patience().request)}
        store = from_url(url, retry_config=_NO_RETRY, client_options=client)
    except (*ERRORS, ValueError) as error:
        raise PreconditionError(
            "not a repository address",
            hint="use a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
            url=url,
        ) from error
    return ObjectStoreBucket(store, url)


def memory_bucket() -> ObjectStoreBucket:
    """A bucket in memory, gone with the process."""
    return ObjectStoreBucket(MemoryStore(), "memory")
