"""A restore drill: which moment it goes to, and what it found and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Self

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_choice import Reach
from pgproof.model.recovery_target import RecoveryTarget
from pgproof.model.report import Check
from pgproof.model.rto import RtoForecast

CHECK_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """What a user may fix; the rest is drawn. `target` is a time or an LSN, `checks_dir` a folder of *.sql files, each of
    which may take `check_seconds`."""

    backup_id: str | None = None
    target: RecoveryTarget | None = None
    seed: int | None = None
    checks_dir: Path | None = None
    check_seconds: float = CHECK_SECONDS


@dataclass(frozen=True, slots=True)
class Moment:
    """A drawn position; with `compared` the fingerprints of the source that were taken exactly there are to be compared."""

    lsn: Lsn
    compared: bool = False


def draw_moment(seed: int, reaches: Sequence[Reach], fingerprints: Sequence[Lsn]) -> Moment:
    """Each byte of WAL that can be reached is as likely as any other; the fingerprints there are taken in half of the draws.

    `reaches` is not empty. The same arguments give the same moment.
    """
    chance = Random(seed)
    coin, which, place = chance.random(), chance.random(), chance.random()
    # Exactly at the end there is no record that would prove the point.
    known = sorted({lsn for lsn in fingerprints if any(each.start <= lsn < each.end for each in reaches)})
    if known and coin < 0.5:
        return Moment(known[int(which * len(known))], compared=True)
    left = int(place * sum(each.end - each.start + 1 for each in reaches))
    for reach in reaches:
        length = reach.end - reach.start + 1
        if left < length:
            return Moment(reach.start + left)
        left -= length
    raise AssertionError("the place lies in one of the reaches")


@dataclass(frozen=True, slots=True)
class DrillStep:
    """A part of a recovery and how long it took; `bytes` is what it moved, 0 where that says nothing."""

    name: str
    ok: bool
    seconds: float
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "seconds": round(self.seconds, 3), "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class DrillReport:
    """`rto_seconds` is what recovery took, checks left out, and None unless it ended; `forecast` is what it would take now
    for the newest moment. `end_lsn` is where recovery really ended, `last_commit_at` the newest commit before it that
    was seen. `failure` says why `failed_step` did not pass; both are empty if all did. `again` is the command that goes to
    the same moment, whatever has come since."""

    cluster: str
    at: datetime
    by: str
    seed: int
    backup_id: str
    target: str
    again: str
    seconds: float
    failed_step: str = ""
    failure: str = ""
    hint: str = ""
    steps: tuple[DrillStep, ...] = ()
    checks: tuple[Check, ...] = ()
    end_lsn: Lsn | None = None
    last_commit_at: datetime | None = None
    size_bytes: int = 0
    rto_seconds: float | None = None
    forecast: RtoForecast | None = None
    sandbox: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failed_step

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "at": self.at.isoformat(),
            "by": self.by,
            "ok": self.ok,
            "seed": self.seed,
            "backup_id": self.backup_id,
            "target": self.target,
            "again": self.again,
            "end_lsn": str(self.end_lsn) if self.end_lsn else None,
            "last_commit_at": self.last_commit_at.isoformat() if self.last_commit_at else None,
            "seconds": round(self.seconds, 3),
            "size_bytes": self.size_bytes,
            "rto_seconds": None if self.rto_seconds is None else round(self.rto_seconds, 3),
            "forecast": self.forecast.to_json() if self.forecast else None,
            "failed_step": self.failed_step,
            "failure": self.failure,
            "hint": self.hint,
            "steps": [step.to_json() for step in self.steps],
            "checks": [check.to_json() for check in self.checks],
            "sandbox": self.sandbox,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises DataError for what `to_json` did not write."""
        try:
            end, commit, forecast = value["end_lsn"], value["last_commit_at"], value["forecast"]
            rto = value["rto_seconds"]
            found = cls(
                cluster=str(value["cluster"]),
                at=_aware(value["at"]),
                by=str(value["by"]),
                seed=int(value["seed"]),
                backup_id=str(value["backup_id"]),
                target=str(value["target"]),
                again=str(value["again"]),
                seconds=float(value["seconds"]),
                failed_step=str(value["failed_step"]),
                failure=str(value["failure"]),
                hint=str(value["hint"]),
                steps=tuple(
                    DrillStep(str(s["name"]), s["ok"] is True, float(s["seconds"]), int(s["bytes"]))
                    for s in value["steps"]
                ),
                checks=tuple(
                    Check(str(c["name"]), c["ok"], str(c["detail"]), str(c["hint"]), float(c["seconds"]))
                    for c in value["checks"]
                ),
                end_lsn=Lsn.parse(end) if end else None,
                last_commit_at=_aware(commit) if commit else None,
                size_bytes=int(value["size_bytes"]),
                rto_seconds=None if rto is None else float(rto),
                forecast=RtoForecast.from_json(forecast) if forecast else None,
                sandbox=str(value["sandbox"]),
                notes=tuple(str(note) for note in value["notes"]),
            )
            if not math.isfinite(found.seconds) or not math.isfinite(found.rto_seconds or 0):
                raise ValueError("not a duration")
            return found
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError("the record of a drill is damaged", reason=repr(error)[:200]) from error


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment
