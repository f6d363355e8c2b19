"""What a replica was, and is to be again: whose files it has, its configuration, the slot that it uses."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pgproof.errors import PreconditionError
from pgproof.model.rebuild_report import RebuildRequest
from pgproof.model.replica_conf import setting
from pgproof.model.replication_config import PRIMARY
from pgproof.postgres.rebuild_place import RebuildPlace

_NOT_IN_SLOTS = re.compile(r"[^a-z0-9_]+")


def owner_of(data_dir: Path) -> str | None:
    """Who has it now: root works for that user."""
    place = RebuildPlace(data_dir, None)
    known = next((each for each in (data_dir, place.aside) if each.is_dir()), None)
    if os.geteuid() != 0 or known is None or known.stat().st_uid == 0:
        return None
    try:
        return known.owner()
    except KeyError:
        raise PreconditionError(
            "the owner of the directory has no name", hint="give --owner", path=known, uid=known.stat().st_uid
        ) from None


def own_files(place: RebuildPlace) -> list[str]:
    """The replica's configuration, the file that wins last; it may have been moved out already."""
    found = []
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        for folder in (place.own, place.root / "own.part", place.aside, place.data_dir):
            path = folder / name
            if path.is_file():
                found.append(path.read_text(errors="replace"))
                break
    return found


def slot_name(request: RebuildRequest, files: list[str]) -> str:
    """As asked for, else as it was, else from the node's name."""
    name = request.slot or setting(files, "primary_slot_name")
    if not name:
        plain = "old_primary" if request.node == PRIMARY else request.node
        name = _NOT_IN_SLOTS.sub("_", plain.lower())[:63]
    return name
