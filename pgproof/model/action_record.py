"""Who did what: one record for each action that changes something or reads everything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pgproof.errors import DataError


class Outcome(StrEnum):
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """`by` is the operating system's user@host, `program` what was run: "cli", "python" or a Prefect flow run.

    `subject` is what it was about (an id, a database, a directory), `error` why it failed. Neither a command line nor a
    connection string is in it, so no secret can be.
    """

    at: datetime
    seconds: float
    by: str
    pid: int
    program: str
    version: str
    command: str
    subject: str
    outcome: Outcome
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "seconds": round(self.seconds, 3),
            "by": self.by,
            "pid": self.pid,
            "program": self.program,
            "version": self.version,
            "command": self.command,
            "subject": self.subject,
            "outcome": str(self.outcome),
            "error": self.error,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises DataError for what `to_json` did not write."""
        try:
            found = cls(
                at=datetime.fromisoformat(value["at"]),
                seconds=float(value["seconds"]),
                by=str(value["by"]),
                pid=int(value["pid"]),
                program=str(value["program"]),
                version=str(value["version"]),
                command=str(value["command"]),
                subject=str(value["subject"]),
                outcome=Outcome(value["outcome"]),
                error=str(value["error"]),
            )
            if found.at.tzinfo is None or not math.isfinite(found.seconds):
                raise ValueError("not a time")
            return found
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError("the record of an action is damaged", reason=repr(error)[:200]) from error
