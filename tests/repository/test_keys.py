"""Key slots: who opens the repository, and that parameters from the store are bounded before they are used."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.repository.bucket import Bucket
from pgproof.repository.keyring import (
    PASSPHRASE,
    RECOVERY,
    describe_slot,
    make_slot,
    new_recovery_key,
    open_slot,
    recovery_bytes,
    with_checksum,
)
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.unlocking import add_slot, list_slots, make_repository, remove_slot, unlock
from tests.support.faults import flip_bit

NOW = datetime(2026, 11, 23, tzinfo=UTC)
REPOSITORY = json.dumps({"repository_id": "0" * 32}).encode()
MASTER = bytes(range(32))
# The passphrase is slow by design; what concerns the slot's other fields is tried with the recovery key.
RECOVERY_KEY = new_recovery_key()


def _slot(kind: str = RECOVERY, secret: str = RECOVERY_KEY) -> dict[str, Any]:
    found = json.loads(make_slot(REPOSITORY, MASTER, secret, kind, NOW)[1])
    assert isinstance(found, dict)
    return found


def _stored(slot: dict[str, Any]) -> bytes:
    """As an attacker would store it, whose checksum fits."""
    return json.dumps(with_checksum({k: v for k, v in slot.items() if k != "checksum"})).encode()


@pytest.mark.parametrize("secret", ["x", "Grüße an den Ärger", "  spaces  ", "🔑" * 50])
def test_a_passphrase_opens_what_it_closed(secret: str) -> None:
    _slot_id, data = make_slot(REPOSITORY, MASTER, secret, PASSPHRASE, NOW)
    assert open_slot(REPOSITORY, data, secret) == MASTER
    assert open_slot(REPOSITORY, data, secret + "x") is None


def test_a_passphrase_typed_on_another_keyboard_opens() -> None:
    """Composed and decomposed letters are the same passphrase."""
    _slot_id, data = make_slot(REPOSITORY, MASTER, "sch\u00f6n", PASSPHRASE, NOW)
    assert open_slot(REPOSITORY, data, "scho\u0308n") == MASTER


def test_a_recovery_key_opens_however_it_was_typed() -> None:
    data = _stored(_slot())
    compact = RECOVERY_KEY.replace("-", "")
    for typed in (RECOVERY_KEY, RECOVERY_KEY.lower(), f" {compact} \n", RECOVERY_KEY.replace("-", " - ")):
        assert open_slot(REPOSITORY, data, typed) == MASTER
    assert open_slot(REPOSITORY, data, new_recovery_key()) is None
    for shape in (RECOVERY_KEY[:-1], RECOVERY_KEY + "A", "PGP2" + RECOVERY_KEY[4:], RECOVERY_KEY[:-1] + "1"):
        assert recovery_bytes(shape) is None
        assert open_slot(REPOSITORY, data, shape) is None


@given(st.text(max_size=50))
def test_any_text_is_a_recovery_key_or_not(text: str) -> None:
    found = recovery_bytes(text)
    assert found is None or len(found) == 20


def test_every_byte_of_a_slot_counts() -> None:
    data = make_slot(REPOSITORY, MASTER, RECOVERY_KEY, RECOVERY, NOW)[1]
    for at in range(len(data)):
        for change in (flip_bit(data, at), data[:at]):
            with pytest.raises(DataError):
                describe_slot(REPOSITORY, change)
            with pytest.raises(DataError):
                open_slot(REPOSITORY, change, RECOVERY_KEY)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("memory_kib", 19455),
        ("memory_kib", (1 << 20) + 1),
        ("memory_kib", 1 << 62),
        ("memory_kib", "65536"),
        ("memory_kib", 65536.5),
        ("memory_kib", True),
        ("memory_kib", float("inf")),
        ("memory_kib", None),
        ("iterations", 0),
        ("iterations", 11),
        ("lanes", 0),
        ("lanes", 9),
        ("name", "scrypt"),
        ("name", "hkdf-sha256"),
        ("salt", base64.b64encode(bytes(15)).decode()),
        ("salt", base64.b64encode(bytes(65)).decode()),
        ("salt", "not base64"),
    ],
)
def test_derivations_out_of_bounds_are_never_run(field: str, wrong: Any) -> None:
    slot = _slot(PASSPHRASE, "x")
    for kdf in ({**slot["kdf"], field: wrong}, {k: v for k, v in slot["kdf"].items() if k != field}):
        with pytest.raises(DataError, match="key slot is damaged"):
            open_slot(REPOSITORY, _stored({**slot, "kdf": kdf}), "x")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("kind", "kms"),
        ("kind", PASSPHRASE),
        ("kdf", None),
        ("kdf", []),
        ("slot", 5),
        ("commit", ""),
        ("nonce", base64.b64encode(bytes(11)).decode()),
        ("wrapped", base64.b64encode(bytes(47)).decode()),
        ("wrapped", 7),
        ("format", 2),
    ],
)
def test_slots_of_another_shape_are_refused(field: str, wrong: Any) -> None:
    with pytest.raises(DataError):
        open_slot(REPOSITORY, _stored({**_slot(), field: wrong}), RECOVERY_KEY)


@pytest.mark.parametrize("field", ["slot", "commit", "wrapped", "nonce"])
def test_what_the_checksum_does_not_protect_from_opens_nothing(field: str) -> None:
    """Who can write to the store can make a checksum fit, but not a commitment or a tag."""
    slot, other = _slot(), _slot()
    try:
        assert open_slot(REPOSITORY, _stored({**slot, field: other[field]}), RECOVERY_KEY) is None
    except DataError as error:
        assert "damaged" in str(error)


def test_a_slot_belongs_to_one_repository() -> None:
    other = json.dumps({"repository_id": "0" * 32, "suite": "none"}).encode()
    assert open_slot(other, _stored(_slot()), RECOVERY_KEY) is None
    assert describe_slot(json.dumps({"repository_id": "1" * 32}).encode(), _stored(_slot())) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_slot(data: bytes) -> None:
    with pytest.raises(DataError):
        describe_slot(REPOSITORY, data)


@pytest.fixture
def bucket() -> Bucket:
    return memory_bucket()


def test_the_life_of_keys(bucket: Bucket) -> None:
    recovery_key = make_repository(bucket, "first", True, NOW)
    assert recovery_key is not None
    opened = unlock(bucket, recovery_key, True)
    second = add_slot(bucket, opened.key, "second", NOW)
    slots = {slot.slot_id: slot.kind for slot in list_slots(bucket)}
    assert sorted(slots.values()) == [PASSPHRASE, PASSPHRASE, RECOVERY]
    assert unlock(bucket, "second", True).slot_id == second.slot_id
    for slot_id, kind in slots.items():
        if kind == PASSPHRASE:
            remove_slot(bucket, slot_id)
    with pytest.raises(PreconditionError, match="passphrase does not open"):
        unlock(bucket, "second", True)
    (last,) = list_slots(bucket)
    with pytest.raises(PreconditionError, match="last key"):
        remove_slot(bucket, last.slot_id)
    with pytest.raises(PreconditionError, match="no such key"):
        remove_slot(bucket, second.slot_id)
    assert unlock(bucket, recovery_key, True).key.master == opened.key.master
    with pytest.raises(ConflictError):
        make_repository(bucket, "again", True, NOW)


def test_encryption_cannot_be_turned_off_by_the_store(bucket: Bucket) -> None:
    make_repository(bucket, None, False, NOW)
    with pytest.raises(PreconditionError, match="not encrypted, but encryption is expected"):
        unlock(bucket, "x", True)
    unlocked = unlock(bucket, None, False)
    with pytest.raises(PreconditionError, match="no keys"):
        add_slot(bucket, unlocked.key, "x", NOW)


def test_a_secret_is_needed(bucket: Bucket) -> None:
    for secret in ("", None):
        with pytest.raises(PreconditionError, match="BACKUP_PASSPHRASE_FILE"):
            make_repository(bucket, secret, True, NOW)
    recovery_key = make_repository(bucket, "first", True, NOW)
    for secret in ("", None):
        with pytest.raises(PreconditionError, match="BACKUP_PASSPHRASE_FILE"):
            unlock(bucket, secret, True)
    with pytest.raises(PreconditionError, match="empty"):
        add_slot(bucket, unlock(bucket, recovery_key, True).key, "", NOW)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("aes-256-gcm", "none"),
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"format": 1', '"format": 1, "format": 1'),
        lambda text: text.replace("2026", "2027"),
        lambda text: "[]",
        lambda text: "",
        lambda text: text[:-1],
    ],
)
def test_a_changed_description_is_refused(bucket: Bucket, change: Callable[[str], str]) -> None:
    make_repository(bucket, "first", True, NOW)
    text = bucket.read("repository.json").decode()
    bucket.delete("repository.json")
    bucket.create("repository.json", change(text).encode())
    with pytest.raises((DataError, PreconditionError)):
        unlock(bucket, "first", True)


def test_a_slot_under_another_name_is_damage(bucket: Bucket) -> None:
    recovery_key = make_repository(bucket, "first", True, NOW)
    for slot in list_slots(bucket):
        data = bucket.read(f"keys/{slot.slot_id}")
        bucket.delete(f"keys/{slot.slot_id}")
        bucket.create(f"keys/x{slot.slot_id}", data)
    with pytest.raises(DataError, match="keys/x"):
        unlock(bucket, recovery_key, True)


def test_a_damaged_slot_is_in_nobody_elses_way(bucket: Bucket) -> None:
    recovery_key = make_repository(bucket, "first", True, NOW)
    (passphrase,) = (slot for slot in list_slots(bucket) if slot.kind == PASSPHRASE)
    bucket.delete(f"keys/{passphrase.slot_id}")
    bucket.create(f"keys/{passphrase.slot_id}", b"rotten")
    assert unlock(bucket, recovery_key, True).key
    with pytest.raises(DataError, match=f"keys/{passphrase.slot_id}"):
        unlock(bucket, "first", True)


def test_passphrases_open_in_several_threads_at_once() -> None:
    """In a process of its own: OpenSSL's derivations once waited for each other's threads, for ever."""
    program = """
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pgproof.repository.keyring import PASSPHRASE, make_slot, open_slot
import json
import subprocess
import sys
repository, master = json.dumps({"repository_id": "0" * 32}).encode(), bytes(32)
slot = make_slot(repository, master, "secret", PASSPHRASE, datetime.now(UTC))[1]
kdf = json.loads(slot)["kdf"]
assert (kdf["memory_kib"], kdf["iterations"], kdf["lanes"]) == (65536, 3, 4)
with ThreadPoolExecutor(4) as pool:
    assert set(pool.map(lambda _: open_slot(repository, slot, "secret"), range(8))) == {master}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
