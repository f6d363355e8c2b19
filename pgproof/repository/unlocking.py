"""Make a repository and open it: repository.json, the master key, the slots."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.repository import keyring, layout
from pgproof.repository.bucket import Bucket, ObjectInfo
from pgproof.repository.keyring import KeySlot
from pgproof.repository.sealing import FORMAT_VERSION, RepositoryKey, Suite, unencrypted_key

_FORMAT_SHOWN = 50
_SUITES = {"none": Suite.NONE, "aes-256-gcm": Suite.AES_256_GCM}

NO_PASSPHRASE_HINT = (
    "set BACKUP_PASSPHRASE_FILE to a file that holds it (mode 0600), or BACKUP_PASSPHRASE; "
    "the recovery key printed by `pgproof init` works as well"
)


@dataclass(frozen=True, slots=True)
class Unlocked:
    """An opened repository: its key, and which slot opened it (None without encryption)."""

    key: RepositoryKey
    slot_id: str | None


def make_repository(bucket: Bucket, passphrase: str | None, encrypt: bool, now: datetime) -> str | None:
    """Create the repository; return the recovery key to print, None without encryption.

    Raises PreconditionError without a passphrase, ConflictError if there is a repository already.
    """
    if bucket.head(layout.REPOSITORY) is not None:
        raise ConflictError(
            "there is a repository already",
            hint="use it, or choose another directory or bucket for a new one",
            location=bucket.location,
        )
    if encrypt and not passphrase:
        raise PreconditionError("an encrypted repository needs a passphrase", hint=NO_PASSPHRASE_HINT)
    suite = "aes-256-gcm" if encrypt else "none"
    described = {
        "format": FORMAT_VERSION,
        "repository_id": os.urandom(16).hex(),
        "suite": suite,
        "created_at": now.isoformat(),
    }
    repository_json = json.dumps(keyring.with_checksum(described), indent=1).encode()
    recovery_key = None
    if encrypt and passphrase:
        master = os.urandom(keyring.MASTER_KEY_LENGTH)
        recovery_key = keyring.new_recovery_key()
        for secret, kind in ((passphrase, keyring.PASSPHRASE), (recovery_key, keyring.RECOVERY)):
            slot_id, data = keyring.make_slot(repository_json, master, secret, kind, now)
            bucket.create(layout.key_slot(slot_id), data)
            failpoint("init.slot")
    # Last, so that an interrupted init leaves no repository that nobody can open.
    try:
        bucket.create(layout.REPOSITORY, repository_json)
    except ConflictError:
        if bucket.read(layout.REPOSITORY) != repository_json:
            raise
    return recovery_key


def unlock(bucket: Bucket, secret: str | None, encrypted: bool) -> Unlocked:
    """Open the repository. `secret` is a passphrase or the recovery key.

    Raises PreconditionError if there is no repository, if it is not encrypted although `encrypted` is
    expected, if the secret is missing or opens no slot. An encrypted one opens whatever is expected.
    DataError for damage that was read twice: what came wrong once may have been turned on its way.
    """
    try:
        return _unlock(bucket, secret, encrypted)
    except DataError:
        return _unlock(bucket, secret, encrypted)


def _unlock(bucket: Bucket, secret: str | None, encrypted: bool) -> Unlocked:
    repository_json = read_description(bucket)
    repository_id, suite = _parse(repository_json)
    failpoint("unlock.described")
    if suite is Suite.NONE:
        if encrypted:
            raise PreconditionError(
                "this repository is not encrypted, but encryption is expected",
                hint="if it was made so on purpose, set BACKUP_ENCRYPTION=false; if not, somebody changed it",
                location=bucket.location,
            )
        return Unlocked(unencrypted_key(repository_id), None)
    if not secret:
        raise PreconditionError(
            "this repository is encrypted and no passphrase is given", hint=NO_PASSPHRASE_HINT
        )
    damaged: list[DataError] = []
    slots = _slots(bucket)
    if not slots:
        raise DataError(
            "the repository's key slots are missing",
            hint="bring keys/ back from a copy of the repository, or find out why the store does not list it",
            location=bucket.location,
        )
    for info in slots:
        key = info.key
        try:
            data = _read_small(bucket, info)
            if _describe(repository_json, key, data) is None:
                continue
            master = keyring.open_slot(repository_json, data, secret)
        except DataError as error:
            damaged.append(error)
            continue
        if master is not None:
            failpoint("unlock.opened")
            return Unlocked(RepositoryKey(repository_id, suite, master), key.removeprefix(layout.KEYS))
    if damaged:
        raise DataError(
            "no key slot could be opened, and some are damaged",
            hint="use the recovery key or another passphrase, or bring keys/ back from a copy of the repository",
            location=bucket.location,
            damaged=damaged[0].context.get("key"),
        ) from damaged[0]
    raise PreconditionError(
        "the passphrase does not open this repository",
        hint="check BACKUP_PASSPHRASE or BACKUP_PASSPHRASE_FILE, or give the recovery key; if it is the right one,"
        " repository.json may be that of another repository",
        location=bucket.location,
    )


def list_slots(bucket: Bucket) -> list[KeySlot]:
    repository_json = _checked_description(bucket)
    slots = [_describe(repository_json, info.key, _read_small(bucket, info)) for info in _slots(bucket)]
    return sorted((slot for slot in slots if slot is not None), key=lambda slot: slot.created_at)


def add_slot(
    bucket: Bucket, key: RepositoryKey, secret: str, now: datetime, kind: str = keyring.PASSPHRASE
) -> KeySlot:
    """Wrap the master key once more. Raises PreconditionError without encryption or for an empty secret."""
    if key.suite is Suite.NONE:
        raise PreconditionError(
            "this repository is not encrypted, so it has no keys",
            hint="only a new repository can be encrypted: `pgproof init` in another place",
        )
    if not secret:
        raise PreconditionError("the new passphrase is empty", hint="give one of a dozen characters or more")
    slot_id, data = keyring.make_slot(read_description(bucket), key.master, secret, kind, now)
    failpoint("keys.wrapped")
    bucket.create(layout.key_slot(slot_id), data)
    failpoint("keys.added")
    return KeySlot(slot_id, kind, now)


def remove_slot(bucket: Bucket, slot_id: str) -> None:
    """Remove a slot, never the last one. Raises PreconditionError for the last or an unknown one."""
    refuse_removal(bucket, slot_id)
    failpoint("keys.removable")
    bucket.delete(layout.key_slot(slot_id))
    failpoint("keys.removed")


def refuse_removal(bucket: Bucket, slot_id: str) -> None:
    """Raises PreconditionError if this is the last slot or none."""
    slots = {slot.slot_id for slot in list_slots(bucket)}
    if slot_id not in slots:
        raise PreconditionError(
            "no such key", hint=f"`pgproof keys list` shows them: {', '.join(sorted(slots))}", slot=slot_id
        )
    if len(slots) == 1:
        raise PreconditionError(
            "the last key cannot be removed", hint="add another one first: `pgproof keys add`", slot=slot_id
        )


def read_description(bucket: Bucket) -> bytes:
    info = bucket.head(layout.REPOSITORY)
    if info is None:
        # A missing bucket or directory is told apart only by a list: HEAD answers both alike.
        next(iter(bucket.list("")), None)
        raise PreconditionError(
            "there is no repository here",
            hint="check the directory, mount or bucket; for a new repository run `pgproof init`",
            location=bucket.location,
        )
    return _read_small(bucket, info)


def _read_small(bucket: Bucket, info: ObjectInfo) -> bytes:
    """Descriptions and slots are read before anything is known of them, so never more than they can be."""
    if info.size > keyring.MAX_DESCRIPTION:
        raise DataError("an object is too large to be one", key=info.key, size=info.size)
    return bucket.read(info.key)


def repository_id_of(repository_json: bytes) -> bytes:
    """The id that a description tells. Raises DataError if it is damaged."""
    return _parse(repository_json)[0]


def _checked_description(bucket: Bucket) -> bytes:
    repository_json = read_description(bucket)
    _parse(repository_json)
    return repository_json


def damaged_slots(bucket: Bucket) -> list[DataError]:
    """Every slot that is not what was stored, whether or not our own opens."""
    repository_json, found = _checked_description(bucket), []
    for info in _slots(bucket):
        try:
            _describe(repository_json, info.key, _read_small(bucket, info))
        except DataError as error:
            found.append(error)
    return found


def _describe(repository_json: bytes, key: str, data: bytes) -> KeySlot | None:
    try:
        slot = keyring.describe_slot(repository_json, data)
        if slot is not None and layout.key_slot(slot.slot_id) != key:
            raise DataError("a key slot lies under another name")
    except DataError as error:
        raise DataError(error.message, hint=error.hint, key=key, **error.context) from error
    return slot


def _slots(bucket: Bucket) -> list[ObjectInfo]:
    return sorted(bucket.list(layout.KEYS), key=lambda info: info.key)


def _parse(repository_json: bytes) -> tuple[bytes, Suite]:
    try:
        described = keyring.parse_description(repository_json)
        version = described["format"]
        if version != FORMAT_VERSION:
            raise DataError(
                "the repository has a format this version does not know",
                hint="use a newer pgproof",
                key=layout.REPOSITORY,
                format=str(version)[:_FORMAT_SHOWN],
            )
        if not keyring.has_checksum(described):
            raise ValueError("its checksum does not fit")
        repository_id = bytes.fromhex(described["repository_id"])
        if len(repository_id) != 16:
            raise ValueError("repository id of a wrong length")
        return repository_id, _SUITES[described["suite"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            "repository.json is damaged",
            hint="restore it from the mirror or another copy of the repository",
            reason=str(error)[:200],
        ) from error
