"""`wal stream`, `wal status` and `restore-point`."""

from __future__ import annotations

import argparse
import logging

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.model.wal_status import PrimaryStatus, WalLimits, WalStatus

_STREAM = """Stream the write-ahead log into the repository, for ever.

What is acknowledged to the server is durable in the repository. The open segment's new
bytes are stored every second; the whole segment replaces them. Lost connections are made
again, a promotion is followed, and a gap is told as such. One streamer runs per cluster.

Where synchronous_standby_names lists the application name, commits wait for the
repository: everything is then stored at once. SIGTERM ends it cleanly."""


def add_commands(actions: Subparsers) -> None:
    stream_parser = add_command(
        actions, "stream", stream, "stream WAL into the repository, for ever", _STREAM
    )
    stream_parser.add_argument("--slot", metavar="NAME", help="the physical replication slot (pgproof)")
    stream_parser.add_argument(
        "--create-slot",
        action="store_true",
        help="make the slot where it is missing, as after a failover, or lost",
    )
    stream_parser.add_argument(
        "--synchronous",
        action="store_true",
        help="store at once, and agree that commits wait for us where synchronous_standby_names is *",
    )
    stream_parser.add_argument(
        "--application-name", metavar="NAME", help="the name for synchronous_standby_names (pgproof_stream)"
    )
    stream_parser.add_argument(
        "--every", dest="part_seconds", metavar="SECONDS", type=seconds, help="store new bytes so often (1)"
    )
    stream_parser.add_argument(
        "--every-bytes",
        dest="part_bytes",
        metavar="N",
        type=whole_number,
        help="or when they are so many (16777216)",
    )

    status_parser = add_command(
        actions,
        "status",
        status,
        "show how far WAL is stored, lag, the slot and what can be restored",
        "Show the stored WAL by timeline with its gaps, the lag behind the server, the health of\n"
        "the slot, and the moments that can be restored. Exit status 7 if there is a problem.",
    )
    status_parser.add_argument("--slot", metavar="NAME", help="the streamer's replication slot (pgproof)")
    status_parser.add_argument(
        "--max-lag-seconds", metavar="N", type=seconds, help="so much lag is a problem (60)"
    )
    status_parser.add_argument(
        "--max-lag-bytes", metavar="N", type=whole_number, help="and so much (268435456)"
    )
    status_parser.add_argument(
        "--free-bytes",
        metavar="N",
        type=whole_number,
        help="free space of the server's WAL disk, if it is another machine",
    )


def add_restore_point(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "restore-point",
        restore_point,
        "name the present place in the WAL",
        "Name the present place in the server's WAL, so that `restore --to-name NAME` goes there.",
    )
    parser.add_argument("name", metavar="NAME", help="such as before-the-migration, at most 63 bytes")


def seconds(given: str) -> float:
    try:
        return float(given)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {given!r}") from None


def stream(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    from pgproof.model.wal_stream import StreamOptions

    given = {
        name: getattr(args, name)
        for name in ("slot", "application_name", "part_seconds", "part_bytes")
        if getattr(args, name) is not None
    }
    options = StreamOptions(create_slot=args.create_slot, synchronous=args.synchronous, **given)
    # Whoever looks after a service wants to see that it began, and each timeline and reconnect.
    logger = logging.getLogger("pgproof")
    logger.setLevel(min(logger.level, logging.INFO))
    report = wait_for(manager.stream_wal(options))
    screen.document(report.to_json())
    return Exit.OK


def status(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    usual = WalLimits()
    limits = WalLimits(
        lag_bytes=usual.lag_bytes if args.max_lag_bytes is None else args.max_lag_bytes,
        lag_seconds=usual.lag_seconds if args.max_lag_seconds is None else args.max_lag_seconds,
    )
    found = wait_for(manager.wal_status(slot=args.slot, limits=limits, free_bytes=args.free_bytes))
    screen.document(found.to_json())
    screen.table(timeline_table(found))
    for gap in found.gaps:
        bridged = " (a later backup leads past it)" if gap.bridged else ""
        screen.say(f"Gap on timeline {gap.timeline}: {gap.start} to {gap.end}{bridged}")
    screen.figures(_figures(found))
    for problem in found.problems:
        screen.say(f"✗ {problem.kind}: {problem.message}", "bold red")
        screen.say(f"  HINT: {problem.hint}")
    if found.ok:
        screen.say("✓ All of the server's WAL is being stored.", "green")
    return Exit.OK if found.ok else Exit.NOT_PASSED


def timeline_table(found: WalStatus) -> Table:
    return Table(
        columns=[
            Column("timeline", right=True),
            Column("begins"),
            Column("from"),
            Column("to"),
            Column("size", right=True),
        ],
        rows=[
            (
                str(each.timeline),
                "–" if each.begin is None else f"{each.begin} of {each.parent}",
                str(stretch.start),
                str(stretch.end),
                text.size(stretch.end - stretch.start),
            )
            for each in found.timelines
            for stretch in each.stretches
        ],
    )


def _figures(found: WalStatus) -> list[tuple[str, str]]:
    figures = []
    if found.restorable is not None:
        window = found.restorable
        figures += [
            ("oldest moment", f"{text.when(window.oldest, found.at)}, {window.oldest_lsn}"),
            (
                "newest moment",
                f"{text.when(window.newest, found.at)}, {window.newest_lsn} of timeline {window.timeline}",
            ),
        ]
    if found.primary is not None:
        figures += _server_figures(found.primary)
    for standby in found.standbys:
        if standby.slot is not None and standby.behind_bytes is not None:
            figures.append(
                (f"standby {standby.server}", f"keeps {text.size(standby.behind_bytes)} of stored WAL")
            )
    return figures


def _server_figures(primary: PrimaryStatus) -> list[tuple[str, str]]:
    behind = [
        *([text.size(primary.lag_bytes)] if primary.lag_bytes is not None else []),
        *([text.duration(primary.lag_seconds)] if primary.lag_seconds is not None else []),
    ]
    figures = [
        ("server", f"PostgreSQL {primary.version}, timeline {primary.timeline}, {primary.position}"),
        ("behind it", ", ".join(behind) or "unknown"),
    ]
    if primary.slot is not None:
        slot = primary.slot
        words = ["active" if slot.active else "NOT active", f"WAL {slot.wal_status}"]
        if slot.retained_bytes is not None:
            words.append(f"keeps {text.size(slot.retained_bytes)}")
        words.append("no limit" if slot.safe_bytes is None else f"{text.size(slot.safe_bytes)} to its limit")
        figures.append((f"slot {slot.name}", ", ".join(words)))
    if primary.bytes_per_second is not None:
        figures.append(("WAL written", f"{text.size(primary.bytes_per_second)}/s"))
    if primary.seconds_to_lost is not None:
        figures.append(("slot lost in", f"{text.duration(primary.seconds_to_lost)} without a streamer"))
    full = primary.seconds_to_full
    figures.append(
        ("disk full in", f"{text.duration(full)} without a streamer")
        if full is not None
        else ("disk full in", "unknown: give --free-bytes" if primary.free_bytes is None else "unknown yet")
    )
    return figures


def restore_point(args: argparse.Namespace, screen: Screen) -> int:
    point = wait_for(open_backups(args).create_restore_point(args.name))
    screen.document(point.to_json())
    screen.say(f"Restore point {point.name} is at {point.lsn}.")
    return Exit.OK
