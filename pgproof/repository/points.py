"""Failpoints of the storage verbs, which name the kind of object as well."""

from __future__ import annotations

from pgproof.failpoints import armed, failpoint
from pgproof.repository import layout

_KINDS = {"packs": "pack", "maps": "map", "wal": "wal", "leases": "lease", "cluster": "cluster"}


def storage_point(verb: str, key: str, step: str = "") -> None:
    """The point `bucket.<verb>.<step>`, and by its other name `bucket.<verb>.<kind of object>.<step>`."""
    if armed():
        last = f".{step}" if step else ""
        failpoint(f"bucket.{verb}{last}", f"bucket.{verb}.{kind_of(key)}{last}")


def kind_of(key: str) -> str:
    """One word for what lies under this key or prefix (docs/format.md, section 1)."""
    if key == layout.REPOSITORY:
        return "description"
    if key.startswith(layout.KEYS):
        return "slot"
    if not key.startswith(layout.CLUSTERS):
        return key.partition("/")[0] or "everything"
    _clusters, _name, folder, *rest = [*key.split("/"), ""]
    if folder == "backups":
        return rest[1] if len(rest) > 2 else "backup"
    return _KINDS.get(folder, "cluster")
