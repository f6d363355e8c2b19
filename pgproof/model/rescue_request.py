"""Which table is to be brought back, as it was when, and where to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import PreconditionError
from pgproof.model.recovery_request import EVERYTHING, RecoveryRequest
from pgproof.model.table_names import TableName

_MOST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class RescueRequest:
    """`backup_id` None picks the backup that leads to the target. `into` None makes a name of the table's and the time.
    `csv` gets all differing rows, and the report the first `rows_shown` of each kind."""

    table: TableName
    backup_id: str | None = None
    recovery: RecoveryRequest = EVERYTHING
    into: TableName | None = None
    csv: Path | None = None
    rows_shown: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.rows_shown <= _MOST_ROWS:
            raise PreconditionError(
                "too many rows to show",
                hint=f"show up to {_MOST_ROWS}; a CSV file holds all",
                rows=self.rows_shown,
            )
        if self.recovery.standby is not None or self.recovery.delta:
            raise PreconditionError(
                "a table is rescued from a scratch server", hint="leave --standby and --delta out"
            )
