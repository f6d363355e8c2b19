"""What of a dump is needed to read one table of it."""

from __future__ import annotations

import re

from pgproof.model.table_names import TableName
from pgproof.model.table_rescue import LeftOut

_ENTRY = re.compile(r"\d+; \d+ \d+ (.*)")
_DATA = "TABLE DATA "
# What refers to rows that are not restored, or to roles, or is of no use to a table.
_LEFT_OUT = (
    "ACL ",
    "BLOB",
    "DEFAULT ACL ",
    "EVENT TRIGGER ",
    "FK CONSTRAINT ",
    "LARGE OBJECT",
    "MATERIALIZED VIEW DATA ",
    "POLICY ",
    "PUBLICATION ",
    "PUBLICATION TABLE",
    "ROW SECURITY ",
    "SEQUENCE SET ",
    "STATISTICS DATA ",
    "SUBSCRIPTION",
)


# In the script that pg_restore prints, each command stands behind a comment that says what it is.
_COMMAND = re.compile(
    r"^-- Name: [^\n]*; Type: (FK CONSTRAINT|POLICY|ACL); [^\n]*\n--\n\n(.*?);\n+(?=--\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
_NAME = r'(?:ADD CONSTRAINT|CREATE POLICY) ("(?:[^"]|"")*"|\S+)'
_PLAIN = re.compile(r'"([a-z_][a-z0-9_]*)"\Z')
_CALLED = {"FK CONSTRAINT": "foreign key", "POLICY": "policy"}


def list_for_table(listing: str, table: TableName) -> str:
    """Out of what `pg_restore --list` printed, everything but other tables' rows.

    The list tells no two names apart that differ in line ends or in where a space is, so there may be rows of more tables;
    all rows are kept where the table has none of its own, such as the root of partitions.
    """
    name = _flat(f"{table.schema} {table.table} ")
    kept = [line for line in _entries(listing) if not _what(line).startswith(_LEFT_OUT)]
    ours = [line for line in kept if _what(line).startswith(_DATA + name)]
    if ours:
        kept = [line for line in kept if not _what(line).startswith(_DATA) or line in ours]
    return "\n".join([*kept, ""])


def list_of_the_rest(listing: str, table: TableName) -> str:
    """Out of the same, what of `list_for_table` is missing and belongs to the table itself: foreign keys, policies, rights."""
    name = _flat(f"{table.schema} {table.table} ")
    quoted = table.table.replace('"', '""')
    rights = [_flat(f"ACL {table.schema} TABLE {each} ") for each in (table.table, f'"{quoted}"')]
    beginnings = (f"FK CONSTRAINT {name}", f"POLICY {name}", *rights)
    kept = [line for line in _entries(listing) if _what(line).startswith(beginnings)]
    return "\n".join([*kept, ""])


def commands_of(script: str) -> list[LeftOut]:
    """What `pg_restore` printed as SQL for `list_of_the_rest`; text for people, which nothing here runs."""
    found = []
    for kind, command in _COMMAND.findall(script):
        named = re.search(_NAME, command)
        name = _PLAIN.sub(r"\1", named[1]) if named else ""
        what = f"{_CALLED[kind]} {name}" if kind in _CALLED else "privileges"
        found.append(LeftOut(what, command.replace("\n    ADD CONSTRAINT", " ADD CONSTRAINT", 1)))
    return found


def _entries(listing: str) -> list[str]:
    # A name may hold what Python takes for the end of a line and pg_restore does not.
    return [line for line in listing.split("\n") if _ENTRY.match(line)]


def _flat(name: str) -> str:
    return re.sub(r"[\r\n]", " ", name)


def _what(line: str) -> str:
    found = _ENTRY.match(line)
    return found[1] if found else ""
