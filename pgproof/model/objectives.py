"""What a cluster's backups shall achieve, how they stand, and what of it is broken. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgproof.errors import PreconditionError

NAMES = ("backup_max_age_hours", "proof_max_age_days", "rpo_minutes", "rto_minutes")
_LONGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Objectives:
    """What is None is not judged."""

    backup_max_age_hours: int | None = None
    proof_max_age_days: int | None = None
    rpo_minutes: int | None = None
    rto_minutes: int | None = None

    def __post_init__(self) -> None:
        for name in NAMES:
            value = getattr(self, name)
            if value is not None and not 1 <= value <= _LONGEST:
                raise PreconditionError(
                    "not an objective", hint=f"set {name} to a whole number from 1 to {_LONGEST}", value=value
                )

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in NAMES}


@dataclass(frozen=True, slots=True)
class Broken:
    """An alarm: `key` names it for good, `text` says what is wrong, `hint` what to do."""

    key: str
    text: str
    hint: str

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "text": self.text, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a cluster stood `at` one moment, as far as the repository, and the server if it answered, could tell.

    `backup_at` is the moment that the newest good backup holds, `proof_at` when a backup was last restored and
    started, and `proof_seconds` how long that took; `drill_seconds` is what the newest drill that passed forecasts for a
    recovery to the newest moment. `oldest` to `newest` can be restored by point in time.
    `lag_seconds` is how much is not stored yet, by the server's word. `flawed` are what is wrong with the newest backups.
    """

    cluster: str
    at: datetime
    backups: int = 0
    backup_id: str = ""
    backup_at: datetime | None = None
    proven_id: str = ""
    proof_at: datetime | None = None
    proof_seconds: float | None = None
    drill_seconds: float | None = None
    oldest: datetime | None = None
    newest: datetime | None = None
    lag_seconds: float | None = None
    server_problem: str = ""
    gaps: tuple[str, ...] = ()
    flawed: tuple[str, ...] = ()
    cleanup_since: datetime | None = None

    @property
    def backup_age(self) -> timedelta | None:
        return None if self.backup_at is None else self.at - self.backup_at

    @property
    def proof_age(self) -> timedelta | None:
        return None if self.proof_at is None else self.at - self.proof_at

    @property
    def at_risk(self) -> timedelta | None:
        """How much would be lost if the server were gone now; None if nothing can be restored."""
        newest = max((each for each in (self.newest, self.backup_at) if each is not None), default=None)
        if newest is None:
            return None
        if self.lag_seconds is not None and not self.gaps:  # what is stored behind a gap cannot be restored
            return timedelta(seconds=self.lag_seconds)
        return max(timedelta(0), self.at - newest)

    @property
    def recovery_time(self) -> timedelta | None:
        """By a drill, which recovers as far as one would; else a restore that proved a backup has to do."""
        seconds = self.proof_seconds if self.drill_seconds is None else self.drill_seconds
        return None if seconds is None else timedelta(seconds=seconds)

    def to_json(self) -> dict[str, Any]:
        def time(value: datetime | None) -> str | None:
            return None if value is None else value.isoformat()

        def seconds(value: timedelta | None) -> float | None:
            return None if value is None else round(value.total_seconds(), 3)

        return {
            "cluster": self.cluster,
            "at": self.at.isoformat(),
            "backups": self.backups,
            "newest_good": self.backup_id or None,
            "newest_good_at": time(self.backup_at),
            "backup_age_seconds": seconds(self.backup_age),
            "newest_proven": self.proven_id or None,
            "proof_at": time(self.proof_at),
            "proof_age_seconds": seconds(self.proof_age),
            "measured_rto_seconds": seconds(self.recovery_time),
            "restorable_from": time(self.oldest),
            "restorable_to": time(self.newest),
            "at_risk_seconds": seconds(self.at_risk),
            "server_problem": self.server_problem or None,
            "gaps": list(self.gaps),
            "flawed": list(self.flawed),
            "cleanup_broken_off": time(self.cleanup_since),
        }


def broken_objectives(standing: Standing, objectives: Objectives) -> tuple[Broken, ...]:
    """What is broken, the worst first: in any case, and by the objectives that are set."""
    return (*always_broken(standing), *_by_objective(standing, objectives))


def always_broken(standing: Standing) -> Iterator[Broken]:
    if standing.backup_at is None:
        yield Broken(
            "no-backup",
            "there is no good backup" + (" among those that exist" if standing.backups else ""),
            "take one now: pgproof create --type full",
        )
    if standing.gaps:
        yield gap_in(standing)
    if standing.flawed:
        yield flaw_in(standing)
    if standing.cleanup_since is not None:
        yield cleanup_in(standing)


def gap_in(standing: Standing) -> Broken:
    return Broken("gap", "; ".join(standing.gaps), "take a full backup now: pgproof create --type full")


def flaw_in(standing: Standing) -> Broken:
    return Broken(
        "degraded",
        "; ".join(standing.flawed),
        "see pgproof list and pgproof verify; the next full backup takes its place when the cause is mended",
    )


def cleanup_in(standing: Standing) -> Broken:
    return Broken(
        "cleanup",
        f"a cleanup was broken off at {standing.cleanup_since:%Y-%m-%d %H:%M} UTC, and backups may be refused meanwhile",
        "run it again: pgproof cleanup",
    )


def cannot_open(message: str, hint: str) -> Broken:
    return Broken("repository", f"the repository cannot be read: {message}", hint or "mend the repository")


def _by_objective(standing: Standing, objectives: Objectives) -> Iterator[Broken]:
    backup, proof = objectives.backup_max_age_hours, objectives.proof_max_age_days
    if backup is not None and standing.backup_at is not None:
        yield from too_old("backup-age", standing, timedelta(hours=backup))
    if proof is not None:
        yield from too_old("proof-age", standing, timedelta(days=proof))
    if objectives.rpo_minutes is not None and standing.backup_at is not None:
        yield from too_old("rpo", standing, timedelta(minutes=objectives.rpo_minutes))
    if objectives.rto_minutes is not None and standing.recovery_time is not None:
        yield from too_old("rto", standing, timedelta(minutes=objectives.rto_minutes))


# What is measured, in words, what a missing value means, and what to do about it.
_MEASURES = {
    "backup-age": (
        "the newest good backup is {} old",
        "there is no good backup",
        "see why the scheduled backups fail or do not run, and take one: pgproof create",
    ),
    "proof-age": (
        "the last proof that a backup restores is {} old",
        "no backup was ever proven by restoring it",
        "prove one: pgproof verify latest --level start",
    ),
    "wal-lag": (
        "changes of {} are not in the repository yet",
        "no change can be restored",
        "see pgproof wal status and the streamer's log",
    ),
    "rpo": (
        "were the server gone now, changes of {} would be lost",
        "were the server gone now, everything would be lost",
        "see pgproof wal status; without streamed WAL only backups count",
    ),
    "rto": (
        "a recovery takes {}, by the newest drill or proof",
        "no restore was ever timed",
        "restore with more jobs, nearer to the repository, or take full backups more often",
    ),
}


def too_old(key: str, standing: Standing, limit: timedelta) -> Iterator[Broken]:
    """The alarm `key` if what it measures is above the limit or not there at all."""
    value = {
        "backup-age": standing.backup_age,
        "proof-age": standing.proof_age,
        "wal-lag": standing.at_risk,
        "rpo": standing.at_risk,
        "rto": standing.recovery_time,
    }[key]
    words, missing, hint = _MEASURES[key]
    if value is None:
        yield Broken(key, missing, hint)
    elif value > limit:
        yield Broken(key, f"{words.format(in_words(value))}; the limit is {in_words(limit)}", hint)


def loss_in_words(risk: timedelta | None) -> str:
    """What a loss of the server would cost; None if nothing can be restored."""
    if risk is None:
        return "everything"
    return "less than a second" if risk < timedelta(seconds=1) else f"changes of {in_words(risk)}"


def in_words(length: timedelta) -> str:
    """Two digits or more of the largest unit that gives them: `26 h`, `90 min`, `8 d`."""
    seconds = length.total_seconds()
    for unit, name, least in ((86400, "d", 3), (3600, "h", 3), (60, "min", 3)):
        if seconds >= least * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
