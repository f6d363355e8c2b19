"""`create`, `mirror` and `list`."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.overview import window_figures
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.via_prefect import create_via_prefect
from pgproof.cli.waiting import wait_for
from pgproof.errors import EngineError
from pgproof.model.config import BackupMethod, BackupType, ChangeDetection, VerifyLevel
from pgproof.model.report import BackupInfo, VerificationSummary

if TYPE_CHECKING:
    from pgproof.actions.mirror import MirrorReport
    from pgproof.backup import BackupManager

_TYPES = [str(kind) for kind in BackupType]


def add_commands(commands: Subparsers) -> None:
    create_parser = add_command(commands, "create", create, "take a backup")
    create_parser.add_argument("--type", choices=_TYPES, help="full unless configured otherwise")
    create_parser.add_argument(
        "--method",
        choices=[str(method) for method in BackupMethod],
        help="physical: the whole cluster, over replication; logical: databases, by pg_dump; auto (the default): the "
        "first where the server allows it, else the second",
    )
    create_parser.add_argument(
        "--database",
        dest="databases",
        action="append",
        metavar="NAME",
        help="dump this database (may be repeated); by default all that the role may connect to",
    )
    create_parser.add_argument(
        "--table",
        dest="tables",
        action="append",
        metavar="PATTERN",
        help="dump only tables that fit, as pg_dump --table (may be repeated)",
    )
    create_parser.add_argument(
        "--exclude-table",
        dest="exclude_tables",
        action="append",
        metavar="PATTERN",
        help="leave out tables that fit, as pg_dump --exclude-table (may be repeated)",
    )
    create_parser.add_argument(
        "--max-rate", metavar="KB", type=whole_number, help="limit the server's sending, kilobytes a second"
    )
    create_parser.add_argument(
        "--change-detection",
        choices=[str(way) for way in ChangeDetection],
        help="how to find what changed: compare every page (the default), or trust the server's WAL summaries where "
        "that is safe",
    )
    create_parser.add_argument(
        "--from-standby",
        dest="standby",
        metavar="HOST[:PORT]",
        help="read the files from this standby; the connection options name its primary",
    )
    create_parser.add_argument(
        "--max-standby-lag",
        dest="max_standby_lag_mb",
        metavar="MB",
        type=whole_number,
        help="refuse a standby that is more WAL behind (1000)",
    )
    create_parser.add_argument(
        "--compression-level", metavar="N", type=whole_number, help="zstd level, 1 to 19 (3)"
    )
    create_parser.add_argument(
        "--via",
        choices=["prefect"],
        help="start the deployment backup/daily-full and wait for it; its blocks configure the run",
    )
    add_command(commands, "mirror", mirror, "copy to the bucket what it lacks of the directory's backups")
    list_parser = add_command(commands, "list", list_backups, "list the backups, newest last")
    list_parser.add_argument("--type", choices=_TYPES, help="only backups of this type")


def create(args: argparse.Namespace, screen: Screen) -> int:
    if args.via:
        return create_via_prefect(args, screen)
    manager = open_backups(args)
    with progress_bar(screen) as progress:
        info = wait_for(manager.create_backup(_type(args), mirror=False, progress=progress))
    copied = failure = None
    if manager.config.mirror_bucket:
        try:
            copied = _copy(manager, screen)
        except EngineError as error:
            error.context["committed"] = info.backup_id
            failure = error
    if failure is None:
        screen.document(info.to_json())
    way = "" if info.change_detection == "none" else f" by {info.change_detection}"
    screen.say(f"Backup {info.backup_id} is complete ({info.method}, {info.type}{way}, {info.status}).")
    rate = f", {text.size(info.size_bytes / info.seconds)}/s" if info.seconds > 0 else ""
    screen.figures(
        [
            ("size", text.size(info.size_bytes)),
            ("stored", text.size(info.stored_bytes)),
            ("duration", f"{text.duration(info.seconds)}{rate}"),
            ("server", f"PostgreSQL {info.server_version}, timeline {info.timeline}"),
            _wal(info),
        ]
    )
    for finding in info.findings:
        screen.warn(f"{finding.kind}: {finding.message}")
    if failure is not None:
        screen.warn("It is in the directory only: copying it to the mirror failed.")
        raise failure
    if copied is not None:
        screen.say(_copied_words(copied))
    return Exit.OK


def _wal(info: BackupInfo) -> tuple[str, str]:
    if info.start_lsn == info.stop_lsn:
        return "position", str(info.start_lsn)
    return "WAL", f"{info.start_lsn} to {info.stop_lsn}"


def mirror(args: argparse.Namespace, screen: Screen) -> int:
    copied = _copy(open_backups(args), screen)
    screen.document(copied.to_json())
    screen.say(_copied_words(copied))
    return Exit.OK


def _copy(manager: BackupManager, screen: Screen) -> MirrorReport:
    with progress_bar(screen) as progress:
        return wait_for(manager.copy_to_mirror(progress=progress))


def _copied_words(copied: MirrorReport) -> str:
    backups = f"{len(copied.backups)} backup" + "s" * (len(copied.backups) != 1)
    return (
        f"Mirror {copied.location}: {backups}, {copied.objects:,} objects, {text.size(copied.bytes)} copied."
    )


def list_backups(args: argparse.Namespace, screen: Screen) -> int:
    manager, kind = open_backups(args), _type(args)
    if screen.as_json:
        backups = sorted(wait_for(manager.list_backups(kind)), key=_order)
        screen.document([info.to_json() for info in backups])
        return Exit.OK
    catalog = wait_for(manager.catalog())
    backups = sorted((info for info in catalog.backups if kind in (None, info.type)), key=_order)
    if not backups:
        screen.say("No backups yet. Take one with: pgproof create")
        return Exit.OK
    screen.table(backup_table(backups, catalog.at))
    screen.say()
    screen.figures(window_figures(catalog))
    return Exit.OK


def _order(info: BackupInfo) -> tuple[datetime, str]:
    return info.finished_at, info.backup_id


def backup_table(backups: list[BackupInfo], now: datetime) -> Table:
    """The listing that people read; `now` is for the ages."""
    return Table(
        columns=[
            Column("id"),
            Column("type"),
            Column("method"),
            Column("status"),
            Column("when"),
            Column("duration", right=True),
            Column("size", right=True),
            Column("stored", right=True),
            Column("ratio", right=True),
            Column("verified"),
            Column("findings", right=True),
        ],
        rows=[
            (
                info.backup_id,
                str(info.type),
                info.method,
                status_words(info, now),
                text.when(info.finished_at, now),
                text.duration(info.seconds),
                text.size(info.size_bytes),
                text.size(info.stored_bytes),
                text.ratio(info.size_bytes, info.stored_bytes),
                verified_words(info.verified, now),
                str(len(info.findings) or "–"),
            )
            for info in backups
        ],
    )


def status_words(info: BackupInfo, now: datetime) -> str:
    """The status, of two copies the only one that has it, and whether it is pinned."""
    kinds = {finding.kind for finding in info.findings}
    pinned = ["pinned"] if info.pinned(now) else []
    where = [kind.replace("-", " ") for kind in ("local-only", "mirror-only") if kind in kinds]
    return ", ".join([info.status, *where, *pinned])


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
