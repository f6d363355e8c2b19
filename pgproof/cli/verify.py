"""`verify`: prove a backup, or find out how far it can be trusted."""

from __future__ import annotations

import argparse

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError
from pgproof.model.config import VerifyLevel
from pgproof.model.report import VerificationReport

_DESCRIPTION = """Verify a backup. Each level includes the ones before it:
  objects  everything the backup names is present
  frames   every stored frame is read, opened and checked
  start    restored, started and recovered on a private scratch server: proven
  full     and then checksums, indexes, visibility maps and a dump of every database"""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "verify", verify, "verify a backup by restoring it", _DESCRIPTION)
    parser.add_argument("backup_id", metavar="ID", help="backup id, the beginning of one, or 'latest'")
    parser.add_argument(
        "--level",
        choices=[str(level) for level in VerifyLevel],
        default=str(VerifyLevel.START),
        help="how far to go (start)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--against-source",
        action="store_true",
        help="with --level full: compare every table with the running server's, at exactly one point of its WAL",
    )
    group.add_argument(
        "--against-fingerprint",
        metavar="LSN",
        help="the same with fingerprints that were taken before; 'latest' are the newest",
    )
    parser.add_argument("--bin-dir", metavar="DIR", help="where PostgreSQL's programs are")


def verify(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    level, against = VerifyLevel(args.level), args.against_fingerprint or ""
    if (args.against_source or against) and level is not VerifyLevel.FULL:
        raise PreconditionError("only a full verification compares with the source", hint="add --level full")
    with progress_bar(screen) as progress:
        if args.against_source:
            against = str(wait_for(manager.fingerprint_source(progress=progress)).lsn)
        report = wait_for(manager.verify_backup(args.backup_id, level, against=against, progress=progress))
    screen.document(report.to_json())
    screen.checks(report.checks)
    for damage in report.damage:
        screen.say(f"✗ {damage}", "bold red")
    screen.say(conclusion(report), "bold green" if report.ok else "bold red")
    if report.sandbox:
        screen.say(f"Scratch server: {report.sandbox}")
    return Exit.OK if report.ok else Exit.NOT_PASSED


def conclusion(report: VerificationReport) -> str:
    """What the verification says, in one sentence."""
    spent = f"{text.duration(report.seconds)}, {text.size(report.bytes_read)} read"
    if not report.ok:
        return f"Backup {report.backup_id} did NOT pass at level {report.level} ({spent})."
    if report.proven:
        return f"Backup {report.backup_id} is proven: it was restored and started ({report.level}, {spent})."
    return f"Backup {report.backup_id} passed at level {report.level}, but was not started ({spent})."
