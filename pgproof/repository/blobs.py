"""Small sealed objects: manifests, maps, intents and the like (docs/format.md, section 4)."""

from __future__ import annotations

import json
import struct
from typing import Any

from pgproof.errors import DataError
from pgproof.repository.compression import compress, decompress
from pgproof.repository.sealing import HEADER_LENGTH, Kind, RepositoryKey

_PREFIX = struct.Struct("<BI")
MAX_PAYLOAD = 256 << 20
# JSON takes many times its size in memory, so that it is bounded before it is parsed: a manifest of 100 TB in
# pieces holds some 40 MB and a million values.
MAX_JSON = 64 << 20
_MAX_VALUES = 4 << 20
_REASON_SHOWN = 200


def encode_blob(key: RepositoryKey, kind: Kind, context: str, payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD:
        raise DataError("an object would be too large to be read again", key=context, size=len(payload))
    header, seal = key.new_seal(kind, context)
    codec, body = compress(payload, 3)
    prefix = _PREFIX.pack(codec, len(payload))
    return header + prefix + seal.seal(0, b"blob" + prefix, body)


def decode_blob(key: RepositoryKey, kind: Kind, context: str, data: bytes) -> bytes:
    """The payload. Raises DataError, naming `context`, for anything but what was stored."""
    seal = key.open_seal(data[:HEADER_LENGTH], kind, context)
    prefix = data[HEADER_LENGTH : HEADER_LENGTH + _PREFIX.size]
    try:
        if len(prefix) < _PREFIX.size:
            raise DataError("an object is cut short")
        codec, length = _PREFIX.unpack(prefix)
        if length > MAX_PAYLOAD:
            raise DataError("an object claims to be too large", size=length)
        body = seal.open(0, b"blob" + prefix, memoryview(data)[HEADER_LENGTH + _PREFIX.size :])
        return decompress(codec, body, length)
    except DataError as error:
        raise DataError(error.message, hint=error.hint, key=context, **error.context) from error


def encode_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def decode_json(payload: bytes, key: str) -> dict[str, Any]:
    """A JSON object without duplicate keys. Raises DataError, naming `key`, for anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("duplicate keys")
        return found

    if len(payload) > MAX_JSON or sum(map(payload.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise DataError("an object claims to be too large", key=key, size=len(payload))
    try:
        value = json.loads(payload, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:_REASON_SHOWN]
        raise DataError("an object does not hold what it should", key=key, reason=reason) from error
    if not isinstance(value, dict):
        raise DataError("an object does not hold what it should", key=key)
    return value
