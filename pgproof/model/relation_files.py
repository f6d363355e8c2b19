"""Which relation a file of the data directory belongs to."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

DEFAULT_TABLESPACE, GLOBAL_TABLESPACE = 1663, 1664
MAIN, FSM, VM, INIT = range(4)
_FORKS = {None: MAIN, b"fsm": FSM, b"vm": VM, b"init": INIT}
_PREFIX = b"INCREMENTAL."
# Object ids have at most ten digits; a segment's number is at most 2^32 blocks over the smallest segment.
_FILE = re.compile(
    rb"(?:base/(?P<db>[0-9]{1,10})|(?P<shared>global)|pg_tblspc/(?P<spc>[0-9]{1,10})/[^/]+/(?P<spcdb>[0-9]{1,10}))"
    rb"/(?P<rel>[0-9]{1,10})(?:_(?P<fork>fsm|vm|init))?(?:\.(?P<segment>[0-9]{1,10}))?\Z"
)


class Relation(NamedTuple):
    """A relation by its tablespace, database (0 for shared ones) and file number (0: the whole database)."""

    tablespace: int
    database: int
    number: int


class RelationFile(NamedTuple):
    """One segment of one fork of a relation."""

    relation: Relation
    fork: int
    segment: int


@lru_cache(16)  # of one file it is asked more than once
def relation_file(path: bytes) -> RelationFile | None:
    """What `path` holds, or None for anything but a relation's file."""
    found = _FILE.match(path)
    if found is None:
        return None
    if found["shared"]:
        tablespace, database = GLOBAL_TABLESPACE, 0
    elif found["db"]:
        tablespace, database = DEFAULT_TABLESPACE, int(found["db"])
    else:
        tablespace, database = int(found["spc"]), int(found["spcdb"])
    relation = Relation(tablespace, database, int(found["rel"]))
    return RelationFile(relation, _FORKS[found["fork"]], int(found["segment"] or 0))


def without_prefix(path: bytes) -> bytes | None:
    """The file that `…/INCREMENTAL.16384` has the changed blocks of, or None for what is no such file."""
    folder, slash, name = path.rpartition(b"/")
    whole = folder + slash + name.removeprefix(_PREFIX)
    return whole if name.startswith(_PREFIX) and relation_file(whole) is not None else None


def map_coverage(page_size: int) -> int:
    """How many blocks of a heap one page of its visibility map covers: two bits each, behind the page's header."""
    return (page_size - 24) * 4
