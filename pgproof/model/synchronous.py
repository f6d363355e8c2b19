"""PostgreSQL's synchronous_standby_names, as far as it says whether commits wait for us.

Rules: PostgreSQL documentation, "synchronous_standby_names"; names are compared without regard to case.
"""

from __future__ import annotations

import re
from enum import StrEnum

_COUNTED = re.compile(
    r"\s*(?:(?:ANY|FIRST)\s+)?(?P<number>\d+)\s*\((?P<names>.*)\)\s*\Z", re.IGNORECASE | re.DOTALL
)
_NAME = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^\s,"()]+)')


class Listed(StrEnum):
    """How a list names a standby."""

    NO = "no"
    NAMED = "named"
    STAR = "star"  # by `*`, which is every standby and nobody's consent


def listed(setting: str, application_name: str) -> Listed:
    """Whether synchronous_standby_names names us; by name wins over `*`."""
    counted = _COUNTED.match(setting)
    names = [
        found["plain"] or found["quoted"].replace('""', '"')
        for found in _NAME.finditer(counted["names"] if counted else setting)
    ]
    if application_name.lower() in (name.lower() for name in names):
        return Listed.NAMED
    # The server compares with "*" after parsing, so that quotes make no difference.
    return Listed.STAR if "*" in names else Listed.NO


def needed(setting: str) -> int:
    """How many standbys a commit waits for."""
    counted = _COUNTED.match(setting)
    if counted:
        return int(counted["number"])
    return 1 if setting.strip() else 0


def required(setting: str) -> tuple[int, tuple[str, ...]]:
    """How many of which standbys each commit waits for, in lower case; 0 of none if the list is empty.

    With FIRST those that wait are the first of the list that are connected, so that any may be among them.
    """
    counted = _COUNTED.match(setting)
    names = tuple(
        (found["plain"] or found["quoted"].replace('""', '"')).lower()
        for found in _NAME.finditer(counted["names"] if counted else setting)
    )
    return (needed(setting), names) if names else (0, ())
