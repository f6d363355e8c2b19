"""What a verification's words about damage say for those who act on them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgproof.model.manifest import is_backup_id

_PACK = re.compile(r"packs/([0-9A-Za-z-]+)/([0-9]{8})(?![0-9])")


def damaged_packs(damage: Iterable[str]) -> set[tuple[str, int]]:
    """The packs that are named: the backup that stored each, and its number."""
    found = (match for text in damage for match in _PACK.finditer(text))
    return {(match[1], int(match[2])) for match in found if is_backup_id(match[1])}
