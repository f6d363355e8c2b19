"""What a rebuild will do, as a value that people can read and agree to. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pgproof.errors import ConflictError
from pgproof.model.rebuild_loss import Tail


class Way(StrEnum):
    """NOTHING: it streams. START: its files are good, they are led to the primary. REWIND and RESTORE overwrite them."""

    NOTHING = "nothing"
    START = "start"
    REWIND = "rewind"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """`reasons` say why this way. `backup_id` is what is restored, also where a rewind should fail, to
    `timeline`; None if there is none."""

    node: str
    primary: str
    data_dir: Path
    way: Way
    reasons: tuple[str, ...]
    slot: str
    stops: bool = False
    backup_id: str | None = None
    timeline: int | None = None
    tail: Tail | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def changes(self) -> bool:
        return self.way is not Way.NOTHING

    @property
    def overwrites(self) -> bool:
        return self.way in (Way.REWIND, Way.RESTORE)

    def refuse_another(self, found: RebuildPlan) -> None:
        """Raises ConflictError if `found` is not what somebody has agreed to with this plan.

        What overwrites less than that needs no other agreement.
        """
        if found.primary != self.primary or (found.overwrites and found.way is not self.way):
            raise ConflictError(
                "what is found now is not what was agreed to; no file was changed",
                hint="look at the plan again",
                agreed=f"{self.way}, following {self.primary}",
                found=f"{found.way}, following {found.primary}",
            )

    def lines(self) -> list[str]:
        """The plan for people, a fact per line."""
        does = {
            Way.NOTHING: "nothing: it streams",
            Way.START: "its files stay; it is led to the primary and started",
            Way.REWIND: "its files are rewound to the primary's (pg_rewind)",
            Way.RESTORE: f"its files are replaced by those of backup {self.backup_id}",
        }[self.way]
        text = [
            f"replica           {self.node}, {self.data_dir}",
            f"follows           {self.primary}",
            f"way               {does}",
            *(f"because           {reason}" for reason in self.reasons),
        ]
        if self.way is Way.NOTHING:
            return text
        text.append(f"slot              {self.slot}")
        if self.stops:
            text.append("server            it runs, and is stopped first")
        if self.way is Way.REWIND and self.backup_id:
            text.append(f"if that fails     backup {self.backup_id} is restored")
        if self.tail is not None:
            text.append(f"lost              {self.tail}")
        return text + [f"note              {note}" for note in self.notes]

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "primary": self.primary,
            "data_dir": str(self.data_dir),
            "way": str(self.way),
            "reasons": list(self.reasons),
            "slot": self.slot,
            "stops_server": self.stops,
            "backup_id": self.backup_id,
            "lost": self.tail.to_json() if self.tail else None,
            "notes": list(self.notes),
        }
