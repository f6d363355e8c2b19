"""One object that is no longer what was stored, and how to put it right."""

from __future__ import annotations

from dataclasses import dataclass

from campaigns.small_repository import MemoryBucket
from tests.support.faults import flip_bit

HOW = ("flipped", "truncated", "extended", "emptied", "swapped", "deleted")


@dataclass(frozen=True)
class Damage:
    """`original` is what `key` held."""

    key: str
    how: str
    original: bytes

    @classmethod
    def to(cls, bucket: MemoryBucket, key: str, how: str, at: int, others: list[str]) -> Damage | None:
        """Damage an object; None where nothing would have changed."""
        original = bucket.read(key)
        if how == "deleted":
            bucket.delete(key)
            return cls(key, how, original)
        if how == "flipped":
            changed = flip_bit(original, at * 7919 % len(original), at % 8)
        elif how == "truncated":
            changed = original[: at * 7919 % len(original)]
        elif how == "extended":
            changed = original + original[-1 - at % 50 :]
        elif how == "emptied":
            changed = b""
        else:
            changed = bucket.read(others[at % len(others)])
        if changed == original:
            return None
        bucket.put(key, changed)
        return cls(key, how, original)

    def heal(self, bucket: MemoryBucket) -> None:
        bucket.put(self.key, self.original)


def named(key: str) -> str:
    """What messages call this object: a pack goes by its number, not by its hash."""
    return key.rpartition("-")[0] if "/packs/" in key else key
