"""What a failover did, how long each step took, and whether the plan's promise was kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pgproof.model.failover_plan import FailoverPlan, Kind
from pgproof.model.lsn import Lsn


class Outcome(StrEnum):
    """Of a standby: it streams from the new primary; it will when it has replayed what it holds (it is paused, or behind on
    purpose); it was led there and does not stream; it has WAL that the new timeline lacks and must be made again; or a person
    must do something first."""

    STREAMING = "streaming"
    LATER = "later"
    NOT_STREAMING = "not streaming"
    REBUILD = "rebuild"
    BY_HAND = "by hand"


@dataclass(frozen=True, slots=True)
class Follower:
    node: str
    outcome: Outcome
    detail: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "outcome": str(self.outcome),
            "detail": self.detail,
            "hint": self.hint or None,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """`ok` is None for what could not be done, and is no failure of the whole."""

    name: str
    seconds: float
    ok: bool | None = True
    detail: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "ok": self.ok,
            "detail": self.detail,
            "hint": self.hint or None,
        }


@dataclass(frozen=True, slots=True)
class FailoverReport:
    """`branched_at` is where the new timeline begins: everything before it is kept. `unwritable_seconds` is from the first step
    that ends the old primary to the first write on the new one."""

    plan: FailoverPlan
    node: str
    timeline: int
    old_timeline: int
    branched_at: Lsn | None
    steps: tuple[Step, ...]
    followers: tuple[Follower, ...]
    unwritable_seconds: float | None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that was looked at in the end is as it should be; what a person has to do yet does not count."""
        return all(step.ok is not False for step in self.steps) and not any(
            each.outcome is Outcome.NOT_STREAMING for each in self.followers
        )

    @property
    def promised(self) -> Lsn | None:
        """What the plan promised to keep."""
        return None if self.plan.loss is None or self.plan.kind is Kind.FINISH else self.plan.loss.kept

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "kind": str(self.plan.kind),
            "node": self.node,
            "timeline": self.timeline,
            "old_timeline": self.old_timeline,
            "promised_lsn": None if self.promised is None else str(self.promised),
            "branched_at_lsn": None if self.branched_at is None else str(self.branched_at),
            "unwritable_seconds": None
            if self.unwritable_seconds is None
            else round(self.unwritable_seconds, 3),
            "steps": [each.to_json() for each in self.steps],
            "followers": [each.to_json() for each in self.followers],
            "notes": list(self.notes),
            "plan": self.plan.to_json(),
        }
