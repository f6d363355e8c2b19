"""Whether a directory is on its primary's way, and what stands in the way of a rewind if it is not. Pure.

PostgreSQL follows a primary only from a position on that primary's own way: on its timeline, or on one before it up to
where that was left.
"""

from __future__ import annotations

from pgproof.model.rebuild_evidence import Directory, Primary
from pgproof.model.rebuild_loss import left_at


def diverged(directory: Directory, primary: Primary) -> str:
    """Why the directory is not on the primary's way; empty if it is."""
    control, timeline, history = directory.control, directory.timeline, primary.history
    assert control is not None
    if other_timeline(directory, primary):
        return f"its timeline {timeline} is another one than the primary's of this number"
    if timeline == history.timeline:
        if not directory.was_standby:
            return f"it was itself a primary on timeline {timeline}"
        if directory.position > primary.position:
            return f"it is at {directory.position}, ahead of the primary"
        return ""
    branch = left_at(history, timeline)
    if branch is None:
        return f"its timeline {timeline} is not on the way to the primary's timeline {history.timeline}"
    if directory.was_standby:
        if directory.position > branch:
            return f"it replayed timeline {timeline} beyond {branch}, where the primary left it"
    elif directory.running:
        return f"it is a primary on timeline {timeline}, which the primary left at {branch}"
    elif control.state != "shut down":
        return (
            f"it was a primary on timeline {timeline} and did not end well; the primary left that at {branch}"
        )
    elif control.checkpoint_lsn >= branch:
        return f"it wrote on on timeline {timeline} beyond {branch}, where the primary left it"
    return ""


def rewind_obstacles(directory: Directory, primary: Primary) -> tuple[str, ...]:
    """What stands in the way of pg_rewind."""
    control = directory.control
    assert control is not None
    found = []
    if not control.data_checksum_version and not control.wal_log_hints:
        found.append("the cluster has neither data checksums nor wal_log_hints, so it cannot be rewound")
    if directory.timeline == primary.history.timeline or other_timeline(directory, primary):
        found.append("pg_rewind tells two timelines of one number not apart")
    if directory.fixed:
        found.append(directory.fixed)
    return (*found, *primary.cannot_rewind)


def other_timeline(directory: Directory, primary: Primary) -> bool:
    """Two servers that were promoted from one may have chosen the same number."""
    own, history = directory.history, primary.history
    if own is None or own.timeline not in (*(each.timeline for each in history.switches), history.timeline):
        return False
    way = [each for each in history.switches if each.timeline < own.timeline]
    return list(own.switches) != way
