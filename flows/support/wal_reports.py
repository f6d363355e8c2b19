"""The state of the WAL as rows of a table and as a message. Pure: values in, text out."""

from __future__ import annotations

from datetime import timedelta

from flows.support.reports import human_duration, human_rate, human_size, human_time
from pgproof.model.objectives import in_words
from pgproof.model.wal_status import PrimaryStatus, WalStatus


def wal_rows(status: WalStatus) -> list[dict[str, str]]:
    """What is wrong first, then what can be restored, the server, and what is stored."""
    rows = [(f"✗ {problem.kind}", f"{problem.message}. {problem.hint}") for problem in status.problems]
    if status.ok:
        rows.append(("✓ ok", "all of the server's WAL is being stored"))
    if status.restorable is not None:
        window = status.restorable
        rows.append(("Oldest moment", f"{human_time(window.oldest)} ({window.oldest_lsn})"))
        rows.append(("Newest moment", f"{human_time(window.newest)} ({window.newest_lsn})"))
    if status.primary is not None:
        rows += _server(status.primary)
    for timeline in status.timelines:
        for stretch in timeline.stretches:
            stored = f"{stretch.start} to {stretch.end}, {human_size(stretch.end - stretch.start)}"
            rows.append((f"Stored on timeline {timeline.timeline}", stored))
    for gap in status.gaps:
        bridged = "; a later backup leads past it" if gap.bridged else ""
        rows.append((f"Gap on timeline {gap.timeline}", f"{gap.start} to {gap.end}{bridged}"))
    return [{"What": what, "State": state} for what, state in rows]


def wal_message(status: WalStatus) -> str:
    """One line for each thing that is wrong, fit for a notification."""
    if status.ok:
        return f"the WAL of {status.cluster} is stored without a gap"
    lines = [f"{problem.kind}: {problem.message} ({problem.hint})" for problem in status.problems]
    return "\n".join([f"the WAL of {status.cluster} needs attention", *lines])


def _server(primary: PrimaryStatus) -> list[tuple[str, str]]:
    rows = [("Server", f"PostgreSQL {primary.version}, timeline {primary.timeline}, {primary.position}")]
    if primary.lag_bytes is not None and primary.lag_seconds is not None:
        behind = f"{human_size(primary.lag_bytes)}, {human_duration(primary.lag_seconds)}"
        rows.append(("Not stored yet", behind if primary.lag_bytes else "nothing"))
    if primary.slot is not None:
        slot = primary.slot
        words = ["active" if slot.active else "not active", f"wal_status {slot.wal_status}"]
        if slot.safe_bytes is not None:
            words.append(f"{human_size(max(0, slot.safe_bytes))} to its limit")
        rows.append((f"Slot {slot.name}", ", ".join(words)))
    if primary.bytes_per_second is not None:
        rows.append(("WAL written", human_rate(round(primary.bytes_per_second), 1)))
    for what, seconds in (("WAL disk full", primary.seconds_to_full), ("Slot lost", primary.seconds_to_lost)):
        if seconds is not None:
            rows.append((what, f"in {in_words(timedelta(seconds=seconds))} if nothing is streamed"))
    return rows
