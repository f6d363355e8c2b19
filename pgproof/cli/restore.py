"""`restore`: a whole cluster into a data directory."""

from __future__ import annotations

import argparse

from pgproof.cli import text
from pgproof.cli.engine import open_recovery
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError
from pgproof.model.report import RestoreReport


def add_commands(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "restore",
        restore,
        "restore a backup into a data directory",
        "Restore a whole cluster into an empty data directory and run its recovery there.",
    )
    parser.add_argument("backup_id", metavar="ID", help="backup id, the beginning of one, or 'latest'")
    parser.add_argument("--data-dir", metavar="DIR", help="the new data directory")
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
    parser.add_argument("--owner", metavar="USER", help="operating system user who will own the files")
    parser.add_argument("--bin-dir", metavar="DIR", help="where PostgreSQL's programs are")
    parser.add_argument("--plan", action="store_true", help="show what would be done and stop")


def restore(args: argparse.Namespace, screen: Screen) -> int:
    if not args.data_dir:
        raise PreconditionError(
            "restoring over a database in the running server is not available in this version",
            hint=f"restore the whole cluster: pgproof restore {args.backup_id} --data-dir DIR",
        )
    tablespaces = dict(args.tablespace)
    if len(tablespaces) < len(args.tablespace):
        raise PreconditionError(
            "one tablespace is mapped twice", hint="give --tablespace once for each OLD directory"
        )
    manager = open_recovery(args)
    if args.plan:
        plan = wait_for(
            manager.plan_restore(
                args.backup_id,
                args.data_dir,
                tablespaces=tablespaces,
                recover=args.recover,
                owner=args.owner,
            )
        )
        screen.document(plan.to_json())
        for line in plan.lines():
            screen.say(line)
        return Exit.OK
    with progress_bar(screen) as progress:
        report = wait_for(
            manager.restore_cluster(
                args.backup_id,
                args.data_dir,
                tablespaces=tablespaces,
                recover=args.recover,
                owner=args.owner,
                progress=progress,
            )
        )
    screen.document(report.to_json())
    _show(report, screen)
    return Exit.OK


def _show(report: RestoreReport, screen: Screen) -> None:
    rate = f", {text.size(report.size_bytes / report.seconds)}/s" if report.seconds > 0 else ""
    recovery = f"ended at {report.end_lsn}" if report.recovered else "left to the server's first start"
    screen.say(f"Backup {report.backup_id} is restored.", "bold green")
    screen.figures(
        [
            ("data directory", report.data_dir),
            *((f"tablespace {old}", new) for old, new in report.tablespaces.items()),
            ("size", f"{text.size(report.size_bytes)} in {report.files:,} files"),
            ("duration", f"{text.duration(report.seconds)}{rate}"),
            ("recovery", recovery),
        ]
    )
    for note in report.notes:
        screen.say(f"Note: {note}")


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
