"""Key slots: who can open the repository."""

from __future__ import annotations

from datetime import UTC, datetime

from pgproof.actions.opening import unlock_for_keys
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.repository import unlocking
from pgproof.repository.bucket import Bucket
from pgproof.repository.keyring import PASSPHRASE, RECOVERY, KeySlot, new_recovery_key
from pgproof.repository.layout import REPOSITORY, key_slot
from pgproof.repository.mirror import refuse_stranger
from pgproof.repository.opening import open_bucket, open_mirror
from pgproof.repository.sealing import RepositoryKey


def list_keys(config: BackupConfig) -> list[KeySlot]:
    """The slots, oldest first; needs no passphrase."""
    return unlocking.list_slots(open_bucket(config))


def add_key(config: BackupConfig, new_passphrase: str) -> KeySlot:
    """Let one more passphrase open the repository."""
    bucket, unlocked = unlock_for_keys(config)
    failpoint("keys.unlocked")
    return _add(config, bucket, unlocked.key, new_passphrase)


def add_recovery_key(config: BackupConfig) -> tuple[KeySlot, str]:
    """One more recovery key, which is shown once and stored nowhere. Those that are there go on opening the repository."""
    bucket, unlocked = unlock_for_keys(config)
    recovery_key = new_recovery_key()
    return _add(config, bucket, unlocked.key, recovery_key, RECOVERY), recovery_key


def remove_key(config: BackupConfig, slot_id: str) -> None:
    """Remove a slot. Raises PreconditionError for the last one and for the one in use."""
    bucket, unlocked = unlock_for_keys(config)
    if unlocked.slot_id == slot_id:
        raise PreconditionError(
            "this is the key you are using now",
            hint="open the repository with another one to remove it, or use `pgproof keys change`",
            slot=slot_id,
        )
    failpoint("keys.removing")
    _remove(config, bucket, slot_id)


def change_key(config: BackupConfig, new_passphrase: str) -> KeySlot:
    """Replace the slot that the present passphrase opens; the new one exists before the old one goes."""
    bucket, unlocked = unlock_for_keys(config)
    kinds = {slot.slot_id: slot.kind for slot in unlocking.list_slots(bucket)}
    slot = _add(config, bucket, unlocked.key, new_passphrase)
    failpoint("keys.changing")
    # The recovery key is not a passphrase that changes: who opened with it adds a passphrase.
    if unlocked.slot_id is not None and kinds.get(unlocked.slot_id) != RECOVERY:
        _remove(config, bucket, unlocked.slot_id)
    return slot


def _add(
    config: BackupConfig, bucket: Bucket, key: RepositoryKey, secret: str, kind: str = PASSPHRASE
) -> KeySlot:
    slot = unlocking.add_slot(bucket, key, secret, datetime.now(UTC), kind)
    mirror = _mirror(config, bucket)
    if mirror is not None:
        mirror.create(key_slot(slot.slot_id), bucket.read(key_slot(slot.slot_id)))
    return slot


def _remove(config: BackupConfig, bucket: Bucket, slot_id: str) -> None:
    """From the mirror first: more people can reach it, and a withdrawn passphrase must not go on opening it."""
    unlocking.refuse_removal(bucket, slot_id)
    mirror = _mirror(config, bucket)
    if mirror is not None:
        mirror.delete(key_slot(slot_id))
    unlocking.remove_slot(bucket, slot_id)


def _mirror(config: BackupConfig, bucket: Bucket) -> Bucket | None:
    """The mirror, if one is configured and holds this repository already."""
    mirror = open_mirror(config)
    if mirror is None or mirror.head(REPOSITORY) is None:
        return None
    refuse_stranger(bucket, mirror)
    return mirror
