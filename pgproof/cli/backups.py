"""`create` and `list`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.via_prefect import create_via_prefect
from pgproof.cli.waiting import wait_for
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.report import BackupInfo, VerificationSummary

_TYPES = [str(kind) for kind in BackupType]


def add_commands(commands: Subparsers) -> None:
    create_parser = add_command(commands, "create", create, "take a backup")
    create_parser.add_argument("--type", choices=_TYPES, help="full unless configured otherwise")
    create_parser.add_argument(
        "--max-rate", metavar="KB", type=whole_number, help="limit the server's sending, kilobytes a second"
    )
    create_parser.add_argument(
        "--compression-level", metavar="N", type=whole_number, help="zstd level, 1 to 19 (3)"
    )
    create_parser.add_argument(
        "--via",
        choices=["prefect"],
        help="start the deployment backup/daily-full and wait for it; its blocks configure the run",
    )
    list_parser = add_command(commands, "list", list_backups, "list the backups, newest last")
    list_parser.add_argument("--type", choices=_TYPES, help="only backups of this type")


def create(args: argparse.Namespace, screen: Screen) -> int:
    if args.via:
        return create_via_prefect(args, screen)
    manager = open_backups(args)
    with progress_bar(screen) as progress:
        info = wait_for(manager.create_backup(_type(args), progress=progress))
    screen.document(info.to_json())
    screen.say(f"Backup {info.backup_id} is complete ({info.type}, {info.status}).")
    rate = f", {text.size(info.size_bytes / info.seconds)}/s" if info.seconds > 0 else ""
    screen.figures(
        [
            ("size", text.size(info.size_bytes)),
            ("stored", text.size(info.stored_bytes)),
            ("duration", f"{text.duration(info.seconds)}{rate}"),
            ("server", f"PostgreSQL {info.server_version}, timeline {info.timeline}"),
            ("WAL", f"{info.start_lsn} to {info.stop_lsn}"),
        ]
    )
    for finding in info.findings:
        screen.warn(f"{finding.kind}: {finding.message}")
    return Exit.OK


def list_backups(args: argparse.Namespace, screen: Screen) -> int:
    backups = wait_for(open_backups(args).list_backups(_type(args)))
    backups = sorted(backups, key=lambda info: (info.finished_at, info.backup_id))
    screen.document([info.to_json() for info in backups])
    if backups:
        screen.table(backup_table(backups, datetime.now(UTC)))
    else:
        screen.say("No backups yet. Take one with: pgproof create")
    return Exit.OK


def backup_table(backups: list[BackupInfo], now: datetime) -> Table:
    """The listing that people read; `now` is for the ages."""
    return Table(
        columns=[
            Column("id"),
            Column("type"),
            Column("status"),
            Column("when"),
            Column("duration", right=True),
            Column("size", right=True),
            Column("stored", right=True),
            Column("verified"),
            Column("findings", right=True),
        ],
        rows=[
            (
                info.backup_id,
                str(info.type),
                info.status,
                text.when(info.finished_at, now),
                text.duration(info.seconds),
                text.size(info.size_bytes),
                text.size(info.stored_bytes),
                verified_words(info.verified, now),
                str(len(info.findings) or "–"),
            )
            for info in backups
        ],
    )


def verified_words(summary: VerificationSummary | None, now: datetime) -> str:
    """`proven` only for a backup that was really started; else how far the verification went."""
    if summary is None:
        return "never"
    if not summary.ok:
        word = "FAILED"
    elif summary.level.includes(VerifyLevel.START):
        word = "proven"
    else:
        word = "passed"
    return f"{word} ({summary.level}, {text.age(summary.at, now)})"


def _type(args: argparse.Namespace) -> BackupType | None:
    return BackupType(args.type) if args.type else None
