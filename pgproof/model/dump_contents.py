"""A dump's table of contents, as `pg_restore --list --verbose` prints it, and which of it a database lacks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_ENTRY = re.compile(r"([0-9]{1,10}); ([0-9]{1,10}) ([0-9]{1,10}) (.*)")
_DEPENDS = re.compile(r";\s*depends on: ([0-9]{1,10}(?: [0-9]{1,10})*)\s*\Z")
# What stands for no object of its own, but says something of one.
_ABOUT = ("ACL ", "COMMENT ", "SECURITY LABEL ", "ROW SECURITY ")
_BETWEEN = ("TABLE ATTACH ", "INDEX ATTACH ", "SEQUENCE OWNED BY ")
_ROWS = ("TABLE DATA ", "MATERIALIZED VIEW DATA ", "SEQUENCE SET ", "STATISTICS DATA ")
_ALWAYS = ("ENCODING ", "STDSTRINGS ", "SEARCHPATH ")
_NEVER = ("DATABASE ",)
# One entry may hold many, and writing them again would change those that exist.
_LARGE_OBJECTS = ("BLOB ", "BLOBS ", "BLOB METADATA ")


@dataclass(frozen=True, slots=True)
class Entry:
    """`catalog` and `oid` say which object of the dumped database it is."""

    number: int
    catalog: int
    oid: int
    text: str
    needs: tuple[int, ...]

    @property
    def is_object(self) -> bool:
        others = (*_ABOUT, *_BETWEEN, *_ROWS, *_ALWAYS, *_NEVER)
        return self.catalog != 0 and not self.text.startswith(others)

    @property
    def is_large_object(self) -> bool:
        return self.text.startswith(_LARGE_OBJECTS)


def entries(listing: str) -> list[Entry]:
    found: list[Entry] = []
    for line in listing.split("\n"):
        entry, depends = _ENTRY.match(line), _DEPENDS.match(line)
        if entry:
            number, catalog, oid, text = entry.groups()
            found.append(Entry(int(number), int(catalog), int(oid), text + " ", ()))
        elif depends and found:
            last = found[-1]
            needs = tuple(map(int, depends[1].split()))
            found[-1] = Entry(last.number, last.catalog, last.oid, last.text, needs)
    return found


def missing_entries(
    all_entries: list[Entry], missing: Collection[int], *, large_objects: bool
) -> Iterator[Entry]:
    """The entries to restore where the objects numbered `missing` do not exist: they, their rows, and what is said of them.

    Whatever belongs to an object that exists stays out.
    """
    objects = {entry.number for entry in all_entries if entry.is_object}
    oids = {entry.oid for entry in all_entries if entry.number in missing}
    for entry in all_entries:
        about = [number for number in entry.needs if number in objects]
        if entry.is_large_object or (entry.text.startswith(_ABOUT) and " LARGE OBJECT" in entry.text):
            wanted = large_objects
        elif entry.text.startswith(_ALWAYS):
            wanted = True
        elif entry.text.startswith(_ROWS):
            wanted = entry.oid in oids
        elif entry.text.startswith(_BETWEEN):
            wanted = any(number in missing for number in about)
        elif entry.is_object:
            wanted = entry.number in missing
        else:
            wanted = bool(about) and all(number in missing for number in about)
        if wanted:
            yield entry
