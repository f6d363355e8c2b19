"""What `find-damage` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgproof.errors import PreconditionError
from pgproof.model.relation_names import NamesFrom


@dataclass(frozen=True, slots=True)
class Question:
    """Which damage is looked for. Without `since` in the 24 hours before `until`, or before now."""

    since: datetime | None = None
    until: datetime | None = None
    min_rows: int = 1000
    timeline: int | None = None
    names: NamesFrom = NamesFrom.AUTO

    def __post_init__(self) -> None:
        if self.min_rows < 1:
            raise PreconditionError(
                "too few rows", hint="give at least 1, which shows every change", min_rows=self.min_rows
            )
        if self.since is not None and self.until is not None and self.until < self.since:
            raise PreconditionError("the time ends before it begins", hint="exchange --from and --to")
