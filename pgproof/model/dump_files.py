"""Where the files of a logical backup lie: `globals.sql`, and what pg_dump wrote in `databases/<oid>/`."""

from __future__ import annotations

import re

from pgproof.errors import DataError
from pgproof.model.filemap import printable

GLOBALS = b"globals.sql"
DATABASES = b"databases"
TOC = b"toc.dat"
# What pg_dump calls its files. Other names lead nowhere outside of their directory either.
_NAME = re.compile(rb"[A-Za-z0-9_]{1,64}\.[a-z]{1,16}\Z")


def directory_of(oid: int) -> bytes:
    return b"%s/%d" % (DATABASES, oid)


def dump_path(oid: int, name: bytes) -> bytes:
    """The path of a file of pg_dump. Raises DataError for a name that it does not use."""
    check_name(name)
    return b"%s/%s" % (directory_of(oid), name)


def check_name(name: bytes) -> None:
    if not _NAME.match(name):
        raise DataError("a dump has a file with a name that pg_dump does not use", file=printable(name[:200]))
