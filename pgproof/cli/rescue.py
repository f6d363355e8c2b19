"""`restore --table`: one table beside the live one, what the two differ in, and rows put back."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

from pgproof.cli import text
from pgproof.cli.engine import open_recovery
from pgproof.cli.exits import Exit
from pgproof.cli.options import Parser, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.targets import option, target_of
from pgproof.cli.text import Column, Table, printable
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.table_rescue import (
    DifferingRow,
    Merge,
    MergeReport,
    RescueReport,
    TableComparison,
    refuse_merge,
)

_OPTIONS = ("into", "rescued", "csv", "merge", "written_by", "rows")
_NOT_FOR_TABLES = ("data_dir", "tablespace", "standby", "primary", "slot", "delta", "owner", "plan")
_CELL = 30


def add_options(parser: Parser) -> None:
    group = parser.add_argument_group(
        "one table", "It comes from the database that is connected to (--dbname), and back into it."
    )
    group.add_argument(
        "--table", metavar="SCHEMA.TABLE", help="bring this table back beside the live one, and compare them"
    )
    group.add_argument("--into", metavar="NAME", help="the name of the table that is made")
    group.add_argument(
        "--rescued", metavar="NAME", help="restore nothing: compare with this table, which was rescued before"
    )
    group.add_argument("--csv", metavar="FILE", help="write all differing rows into a new file")
    group.add_argument("--rows", metavar="N", type=whole_number, help="rows of each kind that are shown (5)")
    group.add_argument(
        "--merge", choices=[str(merge) for merge in Merge], help="put these rows back, after asking"
    )
    group.add_argument(
        "--written-by",
        metavar="XID",
        type=whole_number,
        action="append",
        help="only changed rows that this transaction wrote last; may be repeated",
    )


def refuse_without_table(args: argparse.Namespace) -> None:
    for name in _OPTIONS:
        if getattr(args, name) not in (None, []):
            raise PreconditionError(
                "this option is for one table", hint="add --table SCHEMA.TABLE", option=option(name)
            )


def rescue(args: argparse.Namespace, screen: Screen) -> int:
    _refuse(args)
    if args.merge:
        screen.refuse_unanswered()
    manager = open_recovery(args)
    shown = 5 if args.rows is None else args.rows
    with progress_bar(screen) as progress:
        if args.rescued:
            report = None
            comparison: TableComparison | None = wait_for(
                manager.compare_rescued(
                    args.table, args.rescued, csv=args.csv, rows_shown=shown, progress=progress
                )
            )
        else:
            report = wait_for(
                manager.rescue_table(
                    args.table,
                    args.backup_id,
                    request=RecoveryRequest(target_of(args), args.timeline),
                    into=args.into,
                    csv=args.csv,
                    rows_shown=shown,
                    progress=progress,
                )
            )
            comparison = report.comparison
    rescued = str(report.rescued) if report else args.rescued
    if report:
        show_rescue(report, screen)
    if comparison:
        show_comparison(comparison, screen)
    if args.csv and comparison:
        screen.say(f"All differing rows are in {printable(args.csv)}.")
    document = report.to_json() if report else {"rescued": rescued, "comparison": _json(comparison)}
    merged = None
    if args.merge and comparison:
        merged = _merge(args, screen, comparison, rescued)
    elif args.merge:
        screen.say("There is no live table to merge with; rename the rescued one.")
    elif comparison and not comparison.same:
        screen.say(f"To put rows back: {printable(_merge_command(args, comparison, rescued))}")
    screen.document({**document, "merge": merged.to_json() if merged else None})
    return Exit.OK


def _merge(
    args: argparse.Namespace, screen: Screen, comparison: TableComparison, rescued: str
) -> MergeReport | None:
    merge, written_by = Merge(args.merge), args.written_by or ()
    refuse_merge(comparison.common, merge, comparison.violations)
    count = comparison.count(merge)
    if not count:
        screen.say("There is nothing to put back.")
        return None
    for name in comparison.triggers:
        screen.say(f"The trigger {printable(name)} will fire for the rows that are put back.")
    only = (
        f", of the changed ones only those written by {', '.join(map(str, written_by))}" if written_by else ""
    )
    screen.confirm(
        f"Put {count:,} rows back into {printable(str(comparison.live))} ({_counts(comparison, merge)}){only}?"
    )
    manager = open_recovery(args)
    with progress_bar(screen) as progress:
        report = wait_for(
            manager.merge_rescued(comparison.live, rescued, merge, written_by=written_by, progress=progress)
        )
    screen.say(
        f"{report.inserted:,} rows were put back and {report.updated:,} overwritten "
        f"({text.duration(report.seconds)}).",
        "bold green",
    )
    if report.differ_still:
        screen.say(f"Note: {report.differ_still:,} of them differ still, because a trigger changed them")
    screen.say(f"If nobody needs the rescued table any more: DROP TABLE {printable(rescued)}")
    return report


def show_rescue(report: RescueReport, screen: Screen) -> None:
    screen.say(f"{printable(str(report.table))} is back as {printable(str(report.rescued))}.", "bold green")
    screen.figures(
        [
            ("database", printable(report.database)),
            ("backup", report.backup_id),
            ("target", report.target),
            ("recovery", f"ended at {report.end_lsn}" if report.end_lsn else "none"),
            ("rows", f"{report.rows:,}"),
            ("duration", text.duration(report.seconds)),
        ]
    )
    for note in report.notes:
        screen.say(f"Note: {printable(note)}")
    if report.left_out:
        what = ", ".join(each.what for each in report.left_out)
        screen.say(f"Not made for it: {printable(what)} (--json has the commands)")
    if report.comparison is None:
        screen.say("There is no live table of this name to compare it with.")


def show_comparison(comparison: TableComparison, screen: Screen) -> None:
    summary = comparison.summary()
    screen.say(f"{summary[0].upper()}{summary[1:]}.", "bold")
    if comparison.first:
        screen.table(_table(comparison))
    for xid, rows in comparison.writers:
        screen.say(
            f"{rows:,} of the changed rows were written last by transaction {xid} (--written-by {xid})"
        )
    for violation in comparison.violations:
        screen.say(f"! {printable(str(violation))}", "bold red")
    for note in comparison.common.notes:
        screen.say(f"Note: {printable(note)}")


def _table(comparison: TableComparison) -> Table:
    columns = [
        Column("difference"),
        Column("side"),
        *(Column(_cell(name)) for name in comparison.common.columns),
    ]
    return Table(columns, [row for each in comparison.first for row in _rows(each)])


def _rows(row: DifferingRow) -> Iterator[list[str]]:
    for side, values in (("backup", row.backup), ("live", row.live)):
        if values is not None:
            yield [str(row.kind), side, *("∅" if value is None else _cell(value) for value in values)]


def _cell(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= _CELL else f"{line[: _CELL - 1]}…"


def _counts(comparison: TableComparison, merge: Merge) -> str:
    counts = {"missing": comparison.missing, "changed": comparison.changed}
    return ", ".join(f"{counts[str(kind)]:,} {kind}" for kind in merge.kinds)


def _merge_command(args: argparse.Namespace, comparison: TableComparison, rescued: str) -> str:
    named = ["--dbname", args.dbname] if args.dbname else []
    merge = Merge.BOTH if comparison.common.key else Merge.MISSING
    return shlex.join(
        ["pgproof", "restore", "--table", args.table, "--rescued", rescued, *named, "--merge", merge]
    )


def _json(comparison: TableComparison | None) -> object:
    return comparison.to_json() if comparison else None


def _refuse(args: argparse.Namespace) -> None:
    for name in _NOT_FOR_TABLES:
        if getattr(args, name, None):
            raise PreconditionError(
                "this option is for whole clusters", hint="leave it out, or --table", option=option(name)
            )
    if not args.recover:
        raise PreconditionError(
            "a table comes from a recovered server", hint="leave --no-recover out", option="--no-recover"
        )
    if args.rescued and (args.backup_id or args.into or target_of(args)):
        raise PreconditionError(
            "nothing is restored with --rescued", hint="leave out the backup, --into and the recovery target"
        )
    if not args.rescued and args.backup_id is None and target_of(args) is None:
        raise PreconditionError(
            "neither a backup nor a recovery target is named",
            hint="name one: pgproof restore latest --table SCHEMA.TABLE, or add --to-time and the like",
        )
    if args.written_by and args.merge == Merge.MISSING:
        raise PreconditionError("missing rows have no writer", hint="leave --written-by out")
