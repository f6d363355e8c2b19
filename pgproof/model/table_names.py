"""Names of tables as people write them, and names for what is rescued."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pgproof.errors import PreconditionError

_MAX_BYTES = 63
_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)', re.DOTALL)
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*\Z")


@dataclass(frozen=True, slots=True)
class TableName:
    schema: str
    table: str

    def __post_init__(self) -> None:
        for part in (self.schema, self.table):
            if not part or "\0" in part or len(part.encode(errors="surrogateescape")) > _MAX_BYTES:
                raise PreconditionError("not the name of a table", hint="a name has 1 to 63 bytes", name=part)

    def __str__(self) -> str:
        return f"{_quoted(self.schema)}.{_quoted(self.table)}"


def _quoted(part: str) -> str:
    escaped = part.replace('"', '""')
    return part if _PLAIN.match(part) else f'"{escaped}"'


def parse_table_name(text: str, schema: str = "") -> TableName:
    """Read `SCHEMA.TABLE`; a part with a dot in it is written in double quotes, as in SQL, others may be. Capital
    letters count. `schema` is taken where none is written. Raises PreconditionError for anything else."""
    parts, at = list[str](), 0
    while found := _PART.match(text, at):
        parts.append(found[1].replace('""', '"') if found[1] is not None else found[2])
        at = found.end()
        if text[at : at + 1] != ".":
            break
        at += 1
    if (
        at != len(text)
        or text.endswith(".")
        or not parts
        or len(parts) > 2
        or (len(parts) < 2 and not schema)
    ):
        raise PreconditionError(
            "not the name of a table",
            hint="write SCHEMA.TABLE, such as public.orders; a name with a dot or a quote in double quotes",
            name=text,
        )
    return TableName(*parts) if len(parts) == 2 else TableName(schema, parts[0])


def rescued_name(table: TableName, now: datetime) -> TableName:
    """`orders_rescued_20261125140000` beside `orders`; a long name is cut, not in the middle of a character."""
    suffix = f"_rescued_{now.astimezone(UTC):%Y%m%d%H%M%S}"
    room = _MAX_BYTES - len(suffix)
    return TableName(table.schema, table.table.encode()[:room].decode(errors="ignore") + suffix)
