"""The objects of a pack: it may have been rewritten without what no backup needs (docs/decisions/0019-compaction.md)."""

from __future__ import annotations

from pgproof.errors import DataError
from pgproof.repository.bucket import Bucket, ObjectInfo
from pgproof.repository.layout import parse_pack_name


def pack_versions(bucket: Bucket, prefix: str) -> dict[int, list[ObjectInfo]]:
    """By number all objects of each pack below `prefix`, the newest first: what it left out is in those behind it.

    Raises DataError for names that no pack has, and for two packs that both claim to be a number's first object.
    """
    found: dict[int, list[ObjectInfo]] = {}
    originals: set[int] = set()
    for info in bucket.list(prefix):
        name = parse_pack_name(info.key.removeprefix(prefix))
        if name is None:
            raise DataError("an object has a name that no pack has", key=info.key)
        if not name.rewritten:
            if name.number in originals:
                raise DataError("two packs have the same number", key=info.key)
            originals.add(name.number)
        found.setdefault(name.number, []).append(info)
    for objects in found.values():
        objects.sort(key=lambda info: info.key, reverse=True)
    return found


def rewriting_of(info: ObjectInfo) -> int:
    """How often this object's pack had been rewritten when it was made; 0 for its first one."""
    name = parse_pack_name(info.key.rpartition("/")[2])
    return 0 if name is None else name.rewritten
