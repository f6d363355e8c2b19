"""The master key and the slots that wrap it, so that a passphrase changes without rewriting data.

docs/format.md, section 2. A slot's parameters come from an untrusted store: they are bounded before use.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import threading
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pgproof.errors import DataError

PASSPHRASE, RECOVERY = "passphrase", "recovery"
MASTER_KEY_LENGTH = 32
_RECOVERY_PREFIX = "PGP1-"
_RECOVERY_LENGTH = 20
# A slot and repository.json have some hundred bytes; they are read before anything is known of them.
MAX_DESCRIPTION = 1 << 16
# With several lanes OpenSSL takes threads from a pool, and two derivations at once wait in it for ever, or fail.
_one_derivation = threading.Lock()
PASSPHRASE_KDF = {"name": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4}


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One way to open the repository: a passphrase or the printed recovery key."""

    slot_id: str
    kind: str
    created_at: datetime

    def to_json(self) -> dict[str, Any]:
        return {"slot_id": self.slot_id, "kind": self.kind, "created_at": self.created_at.isoformat()}


def new_recovery_key() -> str:
    """160 random bits to print and keep offline, as `PGP1-` and four groups of eight letters and digits."""
    text = base64.b32encode(os.urandom(_RECOVERY_LENGTH)).decode()
    return _RECOVERY_PREFIX + "-".join(text[at : at + 8] for at in range(0, len(text), 8))


def recovery_bytes(text: str) -> bytes | None:
    """The bytes of a recovery key, or None if `text` is not shaped like one."""
    compact = text.strip().upper().replace(" ", "").replace("-", "")
    if not compact.startswith("PGP1") or len(compact) != 4 + 32:
        return None
    try:
        return base64.b32decode(compact[4:])
    except binascii.Error:
        return None


def make_slot(
    repository_json: bytes, master: bytes, secret: str, kind: str, created_at: datetime
) -> tuple[str, bytes]:
    """Wrap the master key for `secret`; return the slot's id and the object's bytes."""
    slot_id = os.urandom(4).hex()
    salt = base64.b64encode(os.urandom(32)).decode()
    kdf: dict[str, Any] = {"name": "hkdf-sha256"} if kind == RECOVERY else dict(PASSPHRASE_KDF)
    kdf["salt"] = salt
    kek = _kek(secret, kind, kdf)
    digest = _digest(repository_json)
    context = _context(digest, slot_id, kind, kdf)
    nonce = os.urandom(12)
    slot: dict[str, Any] = {
        "format": 1,
        "repository_id": json.loads(repository_json)["repository_id"],
        "slot": slot_id,
        "kind": kind,
        "created_at": created_at.isoformat(),
        "kdf": kdf,
        "commit": _b64(_commitment(kek, digest, context)),
        "nonce": _b64(nonce),
        "wrapped": _b64(AESGCM(kek).encrypt(nonce, master, context)),
    }
    return slot_id, json.dumps(with_checksum(slot), indent=1, sort_keys=True).encode()


def describe_slot(repository_json: bytes, data: bytes) -> KeySlot | None:
    """What a slot says of itself; None if it belongs to another repository id."""
    slot = _load(data)
    if slot.get("repository_id") != json.loads(repository_json)["repository_id"]:
        return None
    try:
        created_at = datetime.fromisoformat(str(slot["created_at"]))
        if created_at.tzinfo is None:
            raise ValueError("a time without its zone")
        return KeySlot(str(slot["slot"]), str(slot["kind"]), created_at)
    except (KeyError, ValueError) as error:
        raise DataError("a key slot is damaged", reason=repr(error)) from error


def open_slot(repository_json: bytes, data: bytes, secret: str) -> bytes | None:
    """The master key, or None if `secret` does not open this slot. Raises DataError for a damaged slot."""
    slot = _load(data)
    try:
        kind, kdf, slot_id = slot["kind"], slot["kdf"], slot["slot"]
        if kind not in (PASSPHRASE, RECOVERY) or not isinstance(kdf, dict) or not isinstance(slot_id, str):
            raise ValueError("unknown kind")
        _check_bounds(kind, kdf)
        commit, nonce, wrapped = (
            base64.b64decode(slot[field], validate=True) for field in ("commit", "nonce", "wrapped")
        )
        if (len(commit), len(nonce), len(wrapped)) != (32, 12, MASTER_KEY_LENGTH + 16):
            raise ValueError("wrong lengths")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise DataError("a key slot is damaged", reason=str(error)) from error
    if kind == RECOVERY and recovery_bytes(secret) is None:
        return None
    kek = _kek(secret, kind, kdf)
    digest = _digest(repository_json)
    context = _context(digest, slot_id, kind, kdf)
    if not hmac.compare_digest(commit, _commitment(kek, digest, context)):
        return None
    try:
        return AESGCM(kek).decrypt(nonce, wrapped, context)
    except InvalidTag as error:
        raise DataError("a key slot is damaged", slot=slot_id) from error


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """The same with a checksum, so that a rotten bit is not taken for a wrong passphrase."""
    return {**value, "checksum": _checksum(value)}


def has_checksum(value: dict[str, Any]) -> bool:
    rest = {name: item for name, item in value.items() if name != "checksum"}
    return value.get("checksum") == _checksum(rest)


def _checksum(value: dict[str, Any]) -> str:
    from hashlib import sha256

    return sha256(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _check_bounds(kind: str, kdf: dict[str, Any]) -> None:
    salt = base64.b64decode(kdf["salt"], validate=True)
    expected = "argon2id" if kind == PASSPHRASE else "hkdf-sha256"
    if kdf["name"] != expected or not 16 <= len(salt) <= 64:
        raise ValueError("key derivation out of bounds")
    if kind == PASSPHRASE:
        for name, least, most in (("memory_kib", 19456, 1 << 20), ("iterations", 1, 10), ("lanes", 1, 8)):
            if type(kdf[name]) is not int or not least <= kdf[name] <= most:
                raise ValueError("key derivation out of bounds")


def _kek(secret: str, kind: str, kdf: dict[str, Any]) -> bytes:
    salt = base64.b64decode(kdf["salt"])
    if kind == RECOVERY:
        key = recovery_bytes(secret)
        if key is None:
            raise ValueError("not a recovery key")
        return HKDF(SHA256(), length=32, salt=salt, info=b"pgproof/1 recovery").derive(key)
    derivation = Argon2id(
        salt=salt,
        length=32,
        iterations=kdf["iterations"],
        lanes=kdf["lanes"],
        memory_cost=kdf["memory_kib"],
    )
    with _one_derivation:
        return derivation.derive(unicodedata.normalize("NFC", secret).encode())


def _commitment(kek: bytes, digest: bytes, context: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=digest, info=b"commit" + context).derive(kek)


def _context(digest: bytes, slot_id: str, kind: str, kdf: dict[str, Any]) -> bytes:
    parameters = json.dumps(kdf, separators=(",", ":"), sort_keys=True)
    return b"pgproof/1 slot" + digest + f"{slot_id}{kind}{parameters}".encode()


def _digest(repository_json: bytes) -> bytes:
    from hashlib import sha256

    return sha256(repository_json).digest()


def _load(data: bytes) -> dict[str, Any]:
    try:
        slot = parse_description(data)
        if slot.get("format") != 1:
            raise DataError("a key slot is damaged or of a newer format")
        if not has_checksum(slot):
            raise ValueError("its checksum does not fit")
    except (ValueError, RecursionError) as error:
        raise DataError("a key slot is damaged", reason=str(error)) from error
    return slot


def parse_description(data: bytes) -> dict[str, Any]:
    """The JSON object of repository.json or a slot. Raises ValueError or RecursionError for anything else.

    Nothing may surround it: the bytes, and not only what they mean, are part of every slot's context.
    """
    if len(data) > MAX_DESCRIPTION or data[:1] != b"{" or data[-1:] != b"}":
        raise ValueError("not one JSON object of some hundred bytes")
    value: dict[str, Any] = json.loads(data)
    return value


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
