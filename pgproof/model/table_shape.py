"""What a table is made of, and what of two versions of it can be compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgproof.model.table_names import TableName

_DEFAULT_COLLATION = 'pg_catalog."default"'


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is complete, as SQL writes it, with its schema and modifier; so is `collation`, empty for the type's own.
    `generated` columns are computed; `identity` is "a" for ALWAYS, "d" for BY DEFAULT, else empty."""

    name: str
    type: str
    collation: str = ""
    not_null: bool = False
    generated: bool = False
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Addition:
    """Something of a table that is made by a command of its own.

    `what` names it for people; `statement` is the command that makes it on the original table. `before` and `after`
    are what stands on both sides of the table's name in the command for another table; both are empty where it shall
    not be made there.
    """

    what: str
    statement: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class TableShape:
    """`partitioned` is a root: its rows lie in its partitions. `triggers` are those that fire for rows that are
    inserted or updated, rules among them."""

    name: TableName
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    partitioned: bool = False
    additions: tuple[Addition, ...] = ()
    triggers: tuple[str, ...] = ()
    unlogged: bool = False


@dataclass(frozen=True, slots=True)
class Common:
    """What the live table and the rescued one have in common.

    `columns` are those that can be put back, `key` those of them that name a row; without a key whole rows are
    compared. `kept` are neither compared nor changed in a row that is there. `casts` is the SQL that makes the live type
    or collation of a value that had another one. With `overriding` a value for an identity column has to be forced.
    """

    columns: tuple[str, ...]
    key: tuple[str, ...]
    kept: tuple[str, ...] = ()
    casts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    overriding: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """The columns by which a row may differ from itself."""
        return tuple(column for column in self.columns if column not in self.key and column not in self.kept)


def in_common(live: TableShape, rescued: TableShape) -> Common:
    """`rescued` has the shape of the table as it was in the backup, its primary key included."""
    before = {column.name: column for column in rescued.columns}
    now = {column.name: column for column in live.columns}
    notes = []
    added = [name for name in now if name not in before]
    dropped = [name for name in before if name not in now]
    if added:
        notes.append(f"columns that were added since are not compared: {_listed(added)}")
    if dropped:
        notes.append(f"columns that were dropped since are not compared: {_listed(dropped)}")
    key = live.primary_key if set(live.primary_key) == set(rescued.primary_key) else ()
    computed = [name for name, column in now.items() if column.generated and name in before]
    columns = tuple(name for name in now if name in before and name not in computed)
    if any(name not in columns for name in key):
        key = ()
    # Only DEFAULT may be assigned to it, so a row that is there keeps the one that it has.
    identities = [name for name in columns if now[name].identity == "a"]
    kept = [name for name in identities if name not in key] if key else []
    if computed:
        notes.append(f"computed columns are not compared: {_listed(computed)}")
    if kept:
        notes.append(f"identity columns are not compared: {_listed(kept)}")
    if not key:
        notes.append(
            "whole rows are compared, because the table has no primary key now"
            if not live.primary_key
            else "whole rows are compared, because the table had another primary key or none"
        )
    casts = {}
    for name in columns:
        if now[name].type != before[name].type:
            casts[name] = f"::{now[name].type}"
            notes.append(f"column {name} was {before[name].type} and is {now[name].type} now")
        elif now[name].collation != before[name].collation:
            casts[name] = f" COLLATE {now[name].collation or _DEFAULT_COLLATION}"
    return Common(columns, key, tuple(kept), casts, tuple(notes), overriding=bool(identities))


def _listed(names: list[str]) -> str:
    return ", ".join(names)
