"""What of a dump is needed to read one table of it."""

from __future__ import annotations

import re

from pgproof.model.table_names import TableName

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


def list_for_table(listing: str, table: TableName) -> str:
    """Out of what `pg_restore --list` printed, everything but other tables' rows.

    The list tells no two names apart that differ in line ends or in where a space is, so there may be rows of more tables;
    all rows are kept where the table has none of its own, such as the root of partitions.
    """
    name = re.sub(r"[\r\n]", " ", f"{table.schema} {table.table} ")
    # A name may hold what Python takes for the end of a line and pg_restore does not.
    entries = [line for line in listing.split("\n") if _ENTRY.match(line)]
    kept = [line for line in entries if not _what(line).startswith(_LEFT_OUT)]
    ours = [line for line in kept if _what(line).startswith(_DATA + name)]
    if ours:
        kept = [line for line in kept if not _what(line).startswith(_DATA) or line in ours]
    return "\n".join([*kept, ""])


def _what(line: str) -> str:
    found = _ENTRY.match(line)
    return found[1] if found else ""
