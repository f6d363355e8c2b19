"""What is wrong with a cluster's WAL, and what somebody has to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from pgproof.model.wal_status import PrimaryStatus, Problem, StandbyStatus, WalLimits, WalStatus


def problems_of(status: WalStatus, limits: WalLimits) -> tuple[Problem, ...]:
    """What is wrong, the worst first."""
    at_standbys = [found for each in status.standbys for found in _about_a_standby(each, limits)]
    return (*_in_the_repository(status), *_at_the_server(status, limits), *at_standbys)


def _in_the_repository(status: WalStatus) -> Iterator[Problem]:
    for gap in status.gaps:
        if not gap.bridged:
            what = "was written with wal_level = minimal" if gap.minimal else "is missing"
            yield Problem(
                "gap",
                f"the WAL of timeline {gap.timeline} {what} from {gap.start} to {gap.end}, and no backup begins "
                "behind it: nothing newer can be restored",
                "take a full backup now: pgproof create --type full",
            )
    if status.restorable is None:
        yield Problem(
            "no-backup",
            "there is no backup from which the stored WAL could be replayed",
            "take one: pgproof create --type full",
        )


def _at_the_server(status: WalStatus, limits: WalLimits) -> Iterator[Problem]:
    primary = status.primary
    if primary is None:
        yield Problem("server", f"the server was not asked: {status.server_problem}", "mend the connection")
        return
    yield from _about_the_slot(primary)
    if not primary.full_page_writes:
        yield Problem(
            "full-page-writes",
            "full_page_writes is off at the server: pages that are torn in a crash or a restore cannot be mended",
            "set full_page_writes = on, reload, and take a full backup",
        )
    if primary.lag_bytes is None:
        yield Problem(
            "nothing-stored",
            f"nothing is stored of the server's timeline {primary.timeline}",
            "start pgproof wal stream, or see its log",
        )
    elif primary.lag_bytes > limits.lag_bytes:
        yield Problem(
            "lag",
            f"{primary.lag_bytes / 1e6:,.1f} MB of the server's WAL are not in the repository yet",
            "see the streamer's log; a slow store or network holds it up",
        )
    elif primary.lag_seconds is not None and primary.lag_seconds > limits.lag_seconds:
        yield Problem(
            "lag",
            f"the repository is {primary.lag_seconds:,.0f} s behind the server",
            "see whether the streamer runs and its log",
        )
    full = primary.seconds_to_full
    streaming = primary.slot is not None and primary.slot.active
    if full is not None and not streaming and full < 3600 * limits.hours_to_full:
        yield Problem(
            "disk-full",
            f"the server's WAL disk is full in about {full / 3600:.1f} h if nothing is streamed",
            "start the streamer, or drop the slot and take a full backup afterwards",
        )


def _about_the_slot(primary: PrimaryStatus) -> Iterator[Problem]:
    slot = primary.slot
    if slot is None:
        yield Problem(
            "slot-missing",
            f"the server has no replication slot {primary.slot_name}: it removes WAL that is not stored yet",
            "run pgproof wal stream --create-slot",
        )
        return
    if slot.lost:
        reason = slot.invalidation_reason or "wal_removed"
        yield Problem(
            "slot-lost",
            f"the server has given the replication slot {slot.name} up ({reason}): WAL may be missing for ever",
            "run pgproof wal stream --create-slot, and take a full backup",
        )
        return
    if slot.wal_status == "unreserved" or (slot.limit_used or 0.0) > 0.5:
        used = "" if slot.limit_used is None else f", {100 * slot.limit_used:.0f} % of its limit is used"
        yield Problem(
            "slot-in-danger",
            f"the server will soon give the replication slot {slot.name} up (wal_status {slot.wal_status}{used})",
            "see why the streamer is behind, or raise max_slot_wal_keep_size meanwhile",
        )
    if not slot.active:
        since = f" since {slot.inactive_since}" if slot.inactive_since else ""
        yield Problem(
            "not-streaming",
            f"nobody streams from the replication slot {slot.name}{since}",
            "start pgproof wal stream",
        )


def _about_a_standby(standby: StandbyStatus, limits: WalLimits) -> Iterator[Problem]:
    """What would make a gap if this standby were promoted now, or fill its disk."""
    server, slot = standby.server, standby.slot
    promoted = "were it promoted now, WAL could be missing"
    if standby.problem:
        yield Problem(
            "standby-unknown",
            f"the standby {server} was not asked: {standby.problem}",
            "mend the connection, or take it off the list of hosts",
        )
    elif slot is None or slot.lost or slot.restart is None:
        yield Problem(
            "standby-slot-missing",
            f"the standby {server} keeps no WAL for us: {promoted}",
            "run pgproof wal stream --create-slot with it on the list of hosts, and see its log",
        )
    elif standby.behind_bytes is not None and standby.behind_bytes > limits.lag_bytes:
        yield Problem(
            "standby-slot-behind",
            f"the standby {server} keeps {standby.behind_bytes / 1e6:,.1f} MB of WAL that are stored already",
            "see whether it is behind the primary, and the streamer's log",
        )
