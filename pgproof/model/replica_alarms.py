"""Which problems of replicas count as open by the looks that are remembered: with hysteresis, to be told once. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pgproof.model.objectives import Broken
from pgproof.model.replica_history import Look
from pgproof.model.replica_problems import LAG_KINDS, URGENT
from pgproof.model.replica_status import ReplicaStatus, Role

IN_A_ROW = 2


def alarms(status: ReplicaStatus, looks: Sequence[Look], in_a_row: int = IN_A_ROW) -> tuple[Broken, ...]:
    """What is open after these looks, that of `status` the newest."""
    now = {problem.key: problem for problem in status.problems}
    found = []
    for key in open_keys(looks, in_a_row):
        problem = now.get(key)
        if problem is not None:
            found.append(Broken(key, problem.message, problem.hint))
        else:
            found.append(
                Broken(key, "it is better, and not yet for long enough or by enough", "see whether it stays")
            )
    return tuple(found)


def open_keys(looks: Sequence[Look], in_a_row: int = IN_A_ROW) -> tuple[str, ...]:
    """The keys of the problems that are open after these looks, the oldest look first.

    A problem opens when `in_a_row` looks after each other have it, an urgent one at once. It closes when as many do not have
    it; a lag only when it was below half of its limit in all of them. A look at which a lag was not known changes nothing
    of it.
    """
    found = []
    for key in dict.fromkeys(key for look in looks for key in look.problems):
        kind, _, node = key.partition(" ")
        needed = 1 if kind in URGENT else in_a_row
        is_open, bad, good = False, 0, 0
        for look in looks:
            if key in look.problems:
                bad, good = bad + 1, 0
            elif kind in LAG_KINDS and (key in look.near or not _lag_known(look, kind, node)):
                bad, good = 0, 0 if key in look.near else good
            else:
                bad, good = 0, good + 1
            is_open = bad >= needed or (is_open and good < in_a_row)
        if is_open:
            found.append(key)
    return tuple(found)


def _lag_known(look: Look, kind: str, node: str) -> bool:
    seen = look.nodes.get(node)
    # A node that is no longer configured, or no standby any more, has no lag that could last.
    if seen is None or seen.role not in (Role.DOWN, Role.STANDBY):
        return True
    return (seen.lag_bytes if kind == "lag-bytes" else seen.lag_seconds) is not None
