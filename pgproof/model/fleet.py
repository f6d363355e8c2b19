"""Many clusters, one after another and side by side: which of them may begin now. No I/O, no clock."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Target:
    """One cluster of a fleet, and what it shares with others: a database `host` and the `store` its backups go to."""

    name: str
    host: str
    store: str


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """How many backups may run at once: in all, of one host, into one store. Their starts are spread over `spread`."""

    at_once: int
    per_host: int
    per_store: int
    spread: timedelta


def stagger(name: str, spread: timedelta) -> timedelta:
    """How long after the common start `name` has its turn: always the same for a name, and even over many."""
    part = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return spread * part


def may_start(
    waiting: Iterable[Target], running: Sequence[Target], limits: FleetLimits, elapsed: timedelta
) -> list[Target]:
    """Those of `waiting` that may begin `elapsed` after the common start, beside `running`; who has waited longest first."""
    hosts = Counter(each.host for each in running)
    stores = Counter(each.store for each in running)
    free = limits.at_once - len(running)
    chosen: list[Target] = []
    for each in sorted(waiting, key=lambda target: (stagger(target.name, limits.spread), target.name)):
        if len(chosen) >= free or stagger(each.name, limits.spread) > elapsed:
            break
        if hosts[each.host] < limits.per_host and stores[each.store] < limits.per_store:
            hosts[each.host] += 1
            stores[each.store] += 1
            chosen.append(each)
    return chosen


def select(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that one of `patterns` fits (`*` and `?`), each once, sorted; a pattern that is a name stands for itself.

    A plain name that is not there is kept: somebody counts on it, so it must fail and not be left out.
    """
    known = set(names)
    plain = {pattern for pattern in patterns if not set("*?[") & set(pattern)}
    return sorted(plain | {name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)})
