"""A table that was brought back beside the live one, and what the two differ in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.table_names import TableName
from pgproof.model.table_shape import Common


class Kind(StrEnum):
    """How a row differs. Missing rows are in the backup only, new ones in the live table only."""

    MISSING = "missing"
    CHANGED = "changed"
    NEW = "new"


class Merge(StrEnum):
    """Which rows are put back into the live table."""

    MISSING = "missing"
    CHANGED = "changed"
    BOTH = "both"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.MISSING, Kind.CHANGED) if self is Merge.BOTH else (Kind(self),)


Row = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class DifferingRow:
    """The values of both sides as text, long ones cut; None for a side that has no such row."""

    kind: Kind
    backup: Row | None
    live: Row | None

    def to_json(self) -> dict[str, Any]:
        return {
            "difference": str(self.kind),
            "backup": list(self.backup) if self.backup is not None else None,
            "live": list(self.live) if self.live is not None else None,
        }


@dataclass(frozen=True, slots=True)
class Violation:
    """Rows that cannot be put back, because what they refer to is not there."""

    constraint: str
    kind: Kind
    rows: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.examples)
        return f"{self.rows:,} {self.kind} row{'s' if self.rows != 1 else ''} would violate {self.constraint}: {shown}"

    def to_json(self) -> dict[str, Any]:
        return {
            "constraint": self.constraint,
            "difference": str(self.kind),
            "rows": self.rows,
            "examples": list(self.examples),
        }


@dataclass(frozen=True, slots=True)
class TableComparison:
    """`writers` are the transactions that wrote the changed rows last, those with the most rows first."""

    live: TableName
    common: Common
    missing: int
    changed: int
    new: int
    first: tuple[DifferingRow, ...] = ()
    writers: tuple[tuple[int, int], ...] = ()
    violations: tuple[Violation, ...] = ()
    triggers: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return not (self.missing or self.changed or self.new)

    def count(self, merge: Merge) -> int:
        """The rows that would be put back."""
        counts = {Kind.MISSING: self.missing, Kind.CHANGED: self.changed}
        return sum(counts[kind] for kind in merge.kinds)

    def summary(self) -> str:
        if self.same:
            return "the live table holds the same rows"
        return f"{self.missing:,} rows missing, {self.changed:,} changed, {self.new:,} new since"

    def to_json(self) -> dict[str, Any]:
        return {
            "table": str(self.live),
            "columns": list(self.common.columns),
            "key": list(self.common.key) or None,
            "missing": self.missing,
            "changed": self.changed,
            "new": self.new,
            "first": [row.to_json() for row in self.first],
            "changed_by": [{"xid": xid, "rows": rows} for xid, rows in self.writers],
            "violations": [each.to_json() for each in self.violations],
            "triggers": list(self.triggers),
            "notes": list(self.common.notes),
        }


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of the table that the rescued one lacks; `statement` makes it on the original table."""

    what: str
    statement: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "statement": self.statement, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class RescueReport:
    """`comparison` is None where there is no live table any more."""

    database: str
    table: TableName
    rescued: TableName
    backup_id: str
    target: str
    end_lsn: str
    rows: int
    seconds: float
    comparison: TableComparison | None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    csv: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "table": str(self.table),
            "rescued": str(self.rescued),
            "backup_id": self.backup_id or None,
            "target": self.target,
            "end_lsn": self.end_lsn or None,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "comparison": self.comparison.to_json() if self.comparison else None,
            "left_out": [each.to_json() for each in self.left_out],
            "csv": self.csv,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class MergeReport:
    """`differ_still` counts rows that were put back and are not as they were in the backup, because of triggers."""

    table: TableName
    rescued: TableName
    merge: Merge
    inserted: int
    updated: int
    seconds: float
    differ_still: int = 0
    written_by: tuple[int, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        return {
            "table": str(self.table),
            "rescued": str(self.rescued),
            "merge": str(self.merge),
            "inserted": self.inserted,
            "updated": self.updated,
            "differ_still": self.differ_still,
            "written_by": list(self.written_by),
            "seconds": round(self.seconds, 3),
        }


def refuse_merge(common: Common, merge: Merge, violations: Iterable[Violation]) -> None:
    """Raises PreconditionError where these rows cannot be put back."""
    if Kind.CHANGED in merge.kinds and not common.key:
        raise PreconditionError(
            "which rows were changed cannot be told without a primary key; nothing was merged",
            hint="`--merge missing` adds the rows of the backup that the live table lacks; the changed ones stay "
            "beside them, and are listed as new",
        )
    in_the_way = [each for each in violations if each.kind in merge.kinds]
    if in_the_way:
        raise PreconditionError(
            "rows cannot be put back, because what they refer to is not there; nothing was merged",
            hint="rescue the table that they refer to first: " + "; ".join(map(str, in_the_way)),
        )
