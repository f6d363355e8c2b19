"""`drill`: rehearse a recovery, with a clock on each step."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.model.recovery_target import target_from
from pgproof.model.report import Check

if TYPE_CHECKING:
    from pgproof.model.drill import DrillReport

_DESCRIPTION = """Rehearse a recovery on this machine: restore to a moment drawn from all that can be restored, into a
scratch place, ask the server everything, and time each step. Nothing stays but a report in the repository.

Each file NAME.sql in --checks holds one query, which must return rows that begin with true."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "drill", drill, "rehearse a recovery and time it", _DESCRIPTION)
    parser.add_argument("--backup", metavar="ID", help="restore from this one; by default the moment decides")
    moment = parser.add_mutually_exclusive_group()
    moment.add_argument(
        "--to-time", metavar="TIME", help="this moment; ISO 8601, local unless it has an offset"
    )
    moment.add_argument("--to-lsn", metavar="LSN", help="this position in the WAL")
    parser.add_argument("--seed", metavar="N", type=whole_number, help="draw as the drill with this seed did")
    parser.add_argument(
        "--checks", metavar="DIR", help="ask every NAME.sql in it, and DATABASE/NAME.sql in that database"
    )
    parser.add_argument("--check-seconds", metavar="N", type=whole_number, default=600, help="for each (600)")
    parser.add_argument("--bin-dir", metavar="DIR", help="where PostgreSQL's programs are")
    parser.add_argument("--list", action="store_true", help="show the drills that were done, and stop")


def drill(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    if args.list:
        return _list(wait_for(manager.list_drills()), screen)
    from pgproof.model.drill import DrillRequest

    request = DrillRequest(
        args.backup,
        target_from(time=args.to_time, lsn=args.to_lsn),
        args.seed,
        Path(args.checks).absolute() if args.checks else None,
        args.check_seconds,
    )
    with progress_bar(screen) as progress:
        report = wait_for(manager.drill(request, progress=progress))
    screen.document(report.to_json())
    _show(report, screen)
    return Exit.OK if report.ok else Exit.NOT_PASSED


def _show(report: DrillReport, screen: Screen) -> None:
    commit = f", last commit {report.last_commit_at:%Y-%m-%d %H:%M:%S} UTC" if report.last_commit_at else ""
    screen.say(f"Seed {report.seed}: {report.target}{commit}; backup {report.backup_id}", "bold")
    screen.checks(
        [
            Check(step.name, step.ok, text.size(step.bytes) if step.bytes else "", "", step.seconds)
            for step in report.steps
        ]
    )
    screen.checks(report.checks)
    for note in report.notes:
        screen.warn(note)
    if report.rto_seconds is not None:
        screen.say(f"Recovered in {text.duration(report.rto_seconds)} (RTO), checks left out.")
    if report.forecast is not None:
        assumed = "; the rate of replay is assumed" if report.forecast.assumed else ""
        screen.say(
            f"A real recovery to the newest moment would take {text.duration(report.forecast.seconds)}: "
            f"{text.size(report.forecast.size_bytes)} and {text.size(report.forecast.wal_bytes)} of WAL{assumed}."
        )
    if report.ok:
        screen.say("The drill passed.", "bold green")
    else:
        screen.say(f"The drill FAILED at the step {report.failed_step}: {report.failure}", "bold red")
        if report.hint:
            screen.say(f"HINT: {report.hint}")
    screen.say(f"Again: {report.again or f'pgproof drill --seed {report.seed}'}")


def _list(reports: list[DrillReport], screen: Screen) -> int:
    screen.document([report.to_json() for report in reports])
    if not reports:
        screen.say("No drill was done yet.")
        return Exit.OK
    now = datetime.now(UTC)
    screen.table(
        Table(
            columns=[
                Column("when"),
                Column("result"),
                Column("backup"),
                Column("RTO", True),
                Column("target"),
            ],
            rows=[
                (
                    text.when(report.at, now),
                    "passed" if report.ok else f"failed: {report.failed_step}",
                    report.backup_id,
                    "" if report.rto_seconds is None else text.duration(report.rto_seconds),
                    report.target,
                )
                for report in reports
            ],
        )
    )
    return Exit.OK
