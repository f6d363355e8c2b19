"""The options of a point to recover to."""

from __future__ import annotations

import argparse

from pgproof.cli.options import whole_number
from pgproof.model.recovery_target import RecoveryTarget, target_from


def add_targets(parser: argparse.ArgumentParser, about: str) -> None:
    group = parser.add_argument_group("recovery target", about)
    group.add_argument("--to-time", metavar="TIME", help="ISO 8601; local time unless it has an offset")
    group.add_argument("--to-lsn", metavar="LSN", help="a position in the WAL")
    group.add_argument("--to-xid", metavar="XID", help="the end of a transaction")
    group.add_argument("--to-name", metavar="NAME", help="a restore point")
    group.add_argument("--to-backup-end", action="store_true", help="as early as the backup allows")
    group.add_argument("--exclusive", action="store_true", help="stop before the target and not behind it")
    group.add_argument(
        "--timeline", metavar="N", type=whole_number, help="by default the newest that can be reached"
    )


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def target_of(args: argparse.Namespace) -> RecoveryTarget | None:
    return target_from(
        time=args.to_time,
        lsn=args.to_lsn,
        xid=args.to_xid,
        name=args.to_name,
        backup_end=args.to_backup_end,
        inclusive=not args.exclusive,
    )
