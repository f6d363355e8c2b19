"""`find-damage`: what destroyed data, when, and how to get back to just before it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime

from pgproof.cli import text
from pgproof.cli.engine import open_recovery
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.text import printable
from pgproof.cli.waiting import wait_for
from pgproof.model.harm import DamageReport, HarmfulTransaction
from pgproof.model.relation_names import NamesFrom
from pgproof.model.stop_point import shown

_HARMS_SHOWN = 20
_DESCRIPTION = """Scan the WAL in the repository for what destroyed data: DROP, TRUNCATE, and transactions that deleted or
updated many rows. For each the restore that lands just before it is shown."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(
        commands, "find-damage", find_damage, "find what destroyed data, and when", _DESCRIPTION
    )
    parser.add_argument(
        "--from", dest="since", metavar="TIME", help="by default 24 hours before --to; ISO 8601, local time"
    )
    parser.add_argument("--to", dest="until", metavar="TIME", help="by default now")
    parser.add_argument(
        "--min-rows",
        metavar="N",
        type=whole_number,
        default=1000,
        help="rows that one transaction deleted or updated (1000)",
    )
    parser.add_argument(
        "--timeline", metavar="N", type=whole_number, help="by default the newest that can be reached"
    )
    parser.add_argument(
        "--names",
        choices=[str(source) for source in NamesFrom],
        default=str(NamesFrom.AUTO),
        help="who knows the names of relations: the server, a backup, or the one and then the other (auto)",
    )
    parser.add_argument("--bin-dir", metavar="DIR", help="where PostgreSQL's programs are")


def find_damage(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_recovery(args)
    with progress_bar(screen) as progress:
        report = wait_for(
            manager.find_damage(
                args.since,
                args.until,
                min_rows=args.min_rows,
                timeline=args.timeline,
                names=args.names,
                progress=progress,
            )
        )
    screen.document(report.to_json())
    now = datetime.now(UTC)
    for transaction in report.transactions:
        for line in lines(transaction, now):
            screen.say(line)
        screen.say("")
    screen.say(conclusion(report), "bold")
    for note in report.notes:
        screen.say(f"Note: {printable(note)}")
    return Exit.OK


def lines(transaction: HarmfulTransaction, now: datetime) -> Iterator[str]:
    """One transaction for people."""
    end = transaction.end
    yield f"{shown(end.time, now)}"
    yield f"  transaction {end.xid}, commit at {end.lsn}"
    for harm in transaction.harms[:_HARMS_SHOWN]:
        least = "at least, " if transaction.at_least and harm.rows is not None else ""
        yield f"  {least}{printable(str(harm))}"
    if len(transaction.harms) > _HARMS_SHOWN:
        yield f"  and {len(transaction.harms) - _HARMS_SHOWN} more; --json shows all"
    yield f"  {transaction.restore}"
    if transaction.prepared:
        yield "  There it will be prepared and hold its locks: end it with ROLLBACK PREPARED (see pg_prepared_xacts)."


def conclusion(report: DamageReport) -> str:
    count = len(report.transactions)
    found = f"{count} transaction{'s' if count != 1 else ''}" if count else "No transaction"
    older = f"; {report.older_left_out:,} older ones are not shown" if report.older_left_out else ""
    return (
        f"{found} found in {text.size(report.wal_bytes)} of WAL, {report.start_lsn} to {report.end_lsn} on timeline "
        f"{report.timeline} ({text.duration(report.seconds)}){older}."
    )
