"""`--fail-if`: what a cron job or a monitor wants to hear about. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from pgproof.errors import PreconditionError
from pgproof.model.objectives import (
    Broken,
    Objectives,
    Standing,
    broken_objectives,
    cleanup_in,
    flaw_in,
    gap_in,
    too_old,
)

MEASURED = ("backup-age", "proof-age", "wal-lag", "rpo", "rto")
PLAIN = ("gap", "degraded", "cleanup", "server", "objective")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MEASURED = re.compile(rf"({'|'.join(MEASURED)})\s*>\s*([0-9]{{1,9}})([smhd])\Z")


@dataclass(frozen=True, slots=True)
class Condition:
    """`limit` is None for a condition that is just there or not."""

    name: str
    limit: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Condition:
        if text in PLAIN:
            return cls(text)
        found = _MEASURED.match(text)
        if found is None:
            raise PreconditionError(
                "not a condition",
                hint=f"write {', '.join(f'{each}>26h' for each in MEASURED)} (units s, m, h, d), or {', '.join(PLAIN)}",
                condition=text,
            )
        name, number, unit = found.groups()
        return cls(name, timedelta(seconds=int(number) * _UNITS[unit]))


def failing(conditions: Iterable[Condition], standing: Standing, objectives: Objectives) -> list[Broken]:
    """What of the conditions holds, each once."""
    found = {broken.key: broken for each in conditions for broken in _judge(each, standing, objectives)}
    return list(found.values())


def _judge(condition: Condition, standing: Standing, objectives: Objectives) -> Iterator[Broken]:
    if condition.limit is not None:
        yield from too_old(condition.name, standing, condition.limit)
    elif condition.name == "objective":
        yield from broken_objectives(standing, objectives)
    elif condition.name == "gap" and standing.gaps:
        yield gap_in(standing)
    elif condition.name == "degraded" and standing.flawed:
        yield flaw_in(standing)
    elif condition.name == "cleanup" and standing.cleanup_since is not None:
        yield cleanup_in(standing)
    elif condition.name == "server" and standing.server_problem:
        yield Broken("server", f"the server was not asked: {standing.server_problem}", "mend the connection")
