"""`restore`: a whole cluster into a data directory; databases and tables are elsewhere."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pgproof.cli import databases, rescue, text
from pgproof.cli.engine import open_recovery
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.targets import add_targets, target_of
from pgproof.cli.text import printable
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.report import RestoreReport
from pgproof.model.stop_point import shown

if TYPE_CHECKING:
    from pgproof.model.restore_plan import RestorePlan


def add_commands(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "restore",
        restore,
        "restore a cluster, a database or a table",
        "With --data-dir restore a whole cluster into an empty data directory and run its recovery there, to its end or to a "
        "point.\nWithout it restore one database, or with --table one table, into the running server.",
    )
    parser.add_argument(
        "backup_id",
        metavar="ID",
        nargs="?",
        help="backup id, the beginning of one, or 'latest'; left out, the backup that leads to the target",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="the new data directory")
    add_targets(parser, "One of them; without any, all WAL that there is is replayed.")
    parser.add_argument(
        "--tablespace",
        metavar="OLD=NEW",
        type=tablespace_mapping,
        action="append",
        default=[],
        help="put the tablespace of OLD into NEW; may be repeated; write \\= for a = in a path",
    )
    parser.add_argument(
        "--no-recover",
        dest="recover",
        action="store_false",
        help="leave the recovery to the server's first start",
    )
    parser.add_argument(
        "--standby",
        # `standby` is a setting: what sends the files of a backup.
        dest="as_standby",
        action="store_true",
        help="leave a standby of the primary, to be started by you",
    )
    parser.add_argument(
        "--primary",
        metavar="CONNINFO",
        help="how the standby reaches its primary, without a password (by default as we do)",
    )
    parser.add_argument("--slot", metavar="NAME", help="the standby's replication slot on its primary")
    parser.add_argument(
        "--delta",
        action="store_true",
        help="overwrite an older state of the same cluster, writing only what differs",
    )
    parser.add_argument("--owner", metavar="USER", help="operating system user who will own the files")
    parser.add_argument("--bin-dir", metavar="DIR", help="where PostgreSQL's programs are")
    parser.add_argument("--plan", action="store_true", help="show what would be done and stop")
    databases.add_options(parser)
    rescue.add_options(parser)


def restore(args: argparse.Namespace, screen: Screen) -> int:
    if args.table:
        databases.refuse_with_cluster(args)
        return rescue.rescue(args, screen)
    rescue.refuse_without_table(args)
    if not args.data_dir:
        return databases.restore_database(args, screen)
    databases.refuse_with_cluster(args)
    if not args.as_standby and (args.primary or args.slot):
        raise PreconditionError("a primary and a slot are for a standby", hint="add --standby")
    tablespaces = dict(args.tablespace)
    if len(tablespaces) < len(args.tablespace):
        raise PreconditionError(
            "one tablespace is mapped twice", hint="give --tablespace once for each OLD directory"
        )
    target = target_of(args)
    if args.backup_id is None and target is None:
        raise PreconditionError(
            "neither a backup nor a recovery target is named",
            hint="name one: pgproof restore latest --data-dir DIR, or add --to-time and the like",
        )
    manager = open_recovery(args)
    standby = manager.standby(args.primary, args.slot) if args.as_standby else None
    options: dict[str, Any] = {
        "tablespaces": tablespaces,
        "recover": args.recover,
        "owner": args.owner,
        "request": RecoveryRequest(target, args.timeline, standby, args.delta),
    }

    def tell(plan: RestorePlan) -> None:
        for line in plan.lines(datetime.now(UTC)):
            screen.say(line)

    if args.delta and args.yes and not args.plan:
        # Nobody is asked, so what is told is what this restore has planned itself.
        options["planned"] = tell
    elif args.plan or args.delta:
        with progress_bar(screen) as progress:
            plan = wait_for(manager.plan_restore(args.backup_id, args.data_dir, progress=progress, **options))
        if args.plan:
            screen.document(plan.to_json())
        tell(plan)
        if args.plan:
            return Exit.OK
        screen.confirm(f"Overwrite the cluster in {printable(str(plan.data_dir))}?")
    with progress_bar(screen) as progress:
        report = wait_for(
            manager.restore_cluster(args.backup_id, args.data_dir, progress=progress, **options)
        )
    screen.document(report.to_json())
    _show(report, screen)
    return Exit.OK


def _show(report: RestoreReport, screen: Screen) -> None:
    rate = f", {text.size(report.size_bytes / report.seconds)}/s" if report.seconds > 0 else ""
    recovery = f"ended at {report.end_lsn}" if report.recovered else "left to the server's first start"
    screen.say(f"Backup {report.backup_id} is restored.", "bold green")
    commit = report.last_commit
    last = [("last commit", f"transaction {commit['xid']}, {_when(commit['time'])}")] if commit else []
    screen.figures(
        [
            ("data directory", report.data_dir),
            *((f"tablespace {old}", new) for old, new in report.tablespaces.items()),
            ("size", f"{text.size(report.size_bytes)} in {report.files:,} files"),
            ("duration", f"{text.duration(report.seconds)}{rate}"),
            ("target", report.target),
            ("recovery", recovery),
            *last,
        ]
    )
    for note in report.notes:
        screen.say(f"Note: {note}")


def _when(time: str) -> str:
    return shown(datetime.fromisoformat(time), datetime.now(UTC))


def tablespace_mapping(value: str) -> tuple[str, str]:
    """Read `OLD=NEW`, the way pg_basebackup does: a `=` in a path is written `\\=`."""
    parts = [""]
    escaped = False
    for char in value:
        if escaped:
            parts[-1] += char if char == "=" else f"\\{char}"
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "=":
            parts.append("")
        else:
            parts[-1] += char
    if escaped:
        parts[-1] += "\\"
    if len(parts) != 2 or not all(part.startswith("/") for part in parts):
        raise argparse.ArgumentTypeError(f"not OLD=NEW with two absolute paths: {value!r}")
    return parts[0], parts[1]
