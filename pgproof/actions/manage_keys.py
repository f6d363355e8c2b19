"""Key slots: who can open the repository."""

from __future__ import annotations

from datetime import UTC, datetime

from pgproof.actions.opening import unlock_bucket
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.repository import unlocking
from pgproof.repository.keyring import RECOVERY, KeySlot
from pgproof.repository.opening import open_bucket


def list_keys(config: BackupConfig) -> list[KeySlot]:
    """The slots, oldest first; needs no passphrase."""
    return unlocking.list_slots(open_bucket(config))


def add_key(config: BackupConfig, new_passphrase: str) -> KeySlot:
    """Let one more passphrase open the repository."""
    bucket, unlocked = unlock_bucket(config)
    return unlocking.add_slot(bucket, unlocked.key, new_passphrase, datetime.now(UTC))


def remove_key(config: BackupConfig, slot_id: str) -> None:
    """Remove a slot. Raises PreconditionError for the last one and for the one in use."""
    bucket, unlocked = unlock_bucket(config)
    if unlocked.slot_id == slot_id:
        raise PreconditionError(
            "this is the key you are using now",
            hint="open the repository with another one to remove it, or use `pgproof keys change`",
            slot=slot_id,
        )
    unlocking.remove_slot(bucket, slot_id)


def change_key(config: BackupConfig, new_passphrase: str) -> KeySlot:
    """Replace the slot that the present passphrase opens; the new one exists before the old one goes."""
    bucket, unlocked = unlock_bucket(config)
    kinds = {slot.slot_id: slot.kind for slot in unlocking.list_slots(bucket)}
    slot = unlocking.add_slot(bucket, unlocked.key, new_passphrase, datetime.now(UTC))
    # The recovery key is not a passphrase that changes: who opened with it adds a passphrase.
    if unlocked.slot_id is not None and kinds.get(unlocked.slot_id) != RECOVERY:
        unlocking.remove_slot(bucket, unlocked.slot_id)
    return slot
