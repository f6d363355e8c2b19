"""What time it is for a store: objects' ages are judged by the clock that dated them, never by ours."""

from __future__ import annotations

import contextlib
import secrets
from datetime import datetime

from pgproof.errors import ConflictError, TransientError
from pgproof.repository.bucket import Bucket

CLOCK = "clock-"


def store_now(bucket: Bucket, prefix: str) -> datetime:
    """The store's time, read off an object that is made for it below `prefix`, and removed."""
    key = f"{prefix}{CLOCK}{secrets.token_hex(8)}"
    # Nobody else makes this name: where it exists already, the store took our create twice.
    with contextlib.suppress(ConflictError):
        bucket.create(key, b"")
    try:
        info = bucket.head(key)
    finally:
        bucket.delete(key)
    if info is None:
        raise TransientError("the store lost an object that was just made", key=key)
    return info.modified
