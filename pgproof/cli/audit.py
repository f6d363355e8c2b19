"""`audit`: who did what."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.model.recovery_target import parse_time

if TYPE_CHECKING:
    from pgproof.model.action_record import ActionRecord

_DESCRIPTION = """Show who did what with this cluster's backups: a line for each action that changed something or read everything.

Records are written when an action has ended, and never changed or removed."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "audit", audit, "show who did what", _DESCRIPTION)
    parser.add_argument(
        "--since", metavar="TIME", help="ISO 8601, local unless it has an offset; else everything"
    )


def audit(args: argparse.Namespace, screen: Screen) -> int:
    since = parse_time(args.since) if args.since else None
    records, damaged = wait_for(open_backups(args).list_actions(since))
    screen.document(
        {
            "actions": [record.to_json() for record in records],
            "damaged": [str(error.context.get("key", "")) for error in damaged],
        }
    )
    if records:
        screen.table(_table(records, datetime.now(UTC)))
    else:
        screen.say("Nothing was done.")
    for error in damaged:
        screen.warn(f"a record cannot be read: {error}")
    return Exit.DATA if damaged else Exit.OK


def _table(records: list[ActionRecord], now: datetime) -> Table:
    columns = [Column(each) for each in ("when", "who", "through", "command", "outcome", "what")]
    rows = [
        (
            text.when(record.at, now),
            record.by,
            record.program,
            record.command,
            str(record.outcome),
            record.subject + (f": {record.error}" if record.error else ""),
        )
        for record in records
    ]
    return Table(columns=columns, rows=rows)
