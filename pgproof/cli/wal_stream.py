"""`wal stream`: the long-running replication client."""

from __future__ import annotations

import argparse
import logging

from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for

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


def seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}") from None


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
