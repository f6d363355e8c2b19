"""What a store really guarantees, found out by trying (never by its name)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pgproof.errors import ConflictError, EngineError
from pgproof.model.report import Check
from pgproof.repository.bucket import Bucket

_RACERS = 8


def probe_store(bucket: Bucket) -> list[Check]:
    """Write, read, list and delete a few objects below `probe/`; return what held.

    A bucket that cannot be used at all raises its own error.
    """
    prefix = f"probe/{secrets.token_hex(8)}/"
    try:
        return [
            _timed("write and read back", lambda: _round_trip(bucket, prefix)),
            _timed("create refuses an existing object", lambda: _create_once(bucket, prefix)),
            _timed(f"of {_RACERS} simultaneous creates one wins", lambda: _race(bucket, prefix)),
            _timed("a list shows what was just written", lambda: _listed(bucket, prefix)),
        ]
    finally:
        for info in list(bucket.list(prefix)):
            bucket.delete(info.key)


_NO_CONDITIONAL = (
    "this store ignores conditional writes (If-None-Match), so two runs could overwrite each other's "
    "objects; use a store or version that honours them"
)


def _timed(name: str, attempt: Callable[[], str]) -> Check:
    start = time.monotonic()
    problem = attempt()
    hint = _NO_CONDITIONAL if problem and "create" in name else ""
    return Check(name, not problem, problem, hint, time.monotonic() - start)


def _create(bucket: Bucket, key: str, data: bytes) -> None:
    """Create what nobody else makes: a conflict with equal bytes is a create of ours that was taken twice."""
    try:
        bucket.create(key, data)
    except ConflictError:
        if bucket.read(key) != data:
            raise


def _round_trip(bucket: Bucket, prefix: str) -> str:
    data = secrets.token_bytes(100_000)
    _create(bucket, f"{prefix}data", data)
    if bucket.read(f"{prefix}data") != data:
        return "the object read back differs from the one written"
    if bucket.read_range(f"{prefix}data", 70_000, 20_000) != data[70_000:90_000]:
        return "a range read back differs from what was written"
    info = bucket.head(f"{prefix}data")
    return "" if info is not None and info.size == len(data) else "the size shown is wrong"


def _create_once(bucket: Bucket, prefix: str) -> str:
    _create(bucket, f"{prefix}once", b"first")
    try:
        bucket.create(f"{prefix}once", b"second")
    except ConflictError:
        return "" if bucket.read(f"{prefix}once") == b"first" else "the refused write was stored"
    return "the second create was not refused"


def _race(bucket: Bucket, prefix: str) -> str:
    def attempt(number: int) -> bytes | None:
        body = str(number).encode()
        try:
            bucket.create(f"{prefix}race", body)
        except ConflictError:
            return None
        return body

    with ThreadPoolExecutor(_RACERS) as pool:
        winners = [body for body in pool.map(attempt, range(_RACERS)) if body is not None]
    stored = bucket.read(f"{prefix}race")
    # No winner at all is possible (a lost answer, repeated); a second one or another body is not.
    if len(winners) > 1 or (winners and winners[0] != stored):
        return f"{len(winners)} of {_RACERS} creates succeeded"
    return ""


def _listed(bucket: Bucket, prefix: str) -> str:
    seen = {info.key.removeprefix(prefix) for info in bucket.list(prefix)}
    missing = {"data", "once", "race"} - seen
    return f"not listed: {', '.join(sorted(missing))}" if missing else ""


def store_answers(bucket: Bucket) -> Check:
    """One small write, read and delete, for `check`."""
    key = f"probe/{secrets.token_hex(8)}"
    start = time.monotonic()
    try:
        data = secrets.token_bytes(64)
        _create(bucket, key, data)
        same = bucket.read(key) == data
        bucket.delete(key)
    except EngineError as error:
        return Check("repository write and read back", False, str(error.message), error.hint)
    detail = bucket.location if same else "the object read back differs from the one written"
    return Check("repository write and read back", same, detail, "", time.monotonic() - start)
