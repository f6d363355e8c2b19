"""`cleanup` and `keep`: which backups stay, and the removal of the others."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.model.pin import Pin
from pgproof.model.recovery_target import parse_time

if TYPE_CHECKING:
    from pgproof.model.cleanup_report import CleanupPlan, CleanupReport
    from pgproof.model.compaction import CompactionPlan, CompactionReport

_DESCRIPTION = """Remove the backups that no rule keeps, and then what nobody names any more.

Without any rule all backups of 24 hours stay, and one for each of 30 days, 52 weeks and 84 months.
The newest good, the newest proven and pinned backups stay whatever the rules say."""

_WORDS = {"packs": "of packs", "maps": "of maps", "wal": "of WAL", "small": "of other objects"}


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "cleanup", cleanup, "remove old backups", _DESCRIPTION)
    parser.add_argument("--plan", action="store_true", help="show what would be removed, and why, and stop")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="also rewrite packs of which less than half is needed; a cleanup two days later frees the space",
    )
    rules = parser.add_argument_group("rules", "A backup stays if one of them keeps it.")
    for name, words in (
        ("--retention-days", "keep all of so many days"),
        ("--keep-last", "keep the newest so many"),
        ("--keep-hours", "keep all of so many hours"),
        ("--keep-daily", "keep one for each of so many days"),
        ("--keep-weekly", "keep one for each of so many weeks"),
        ("--keep-monthly", "keep one for each of so many months"),
        ("--keep-at-least", "good backups that stay in any case (2)"),
        ("--pitr-days", "days of which every moment can be restored (7)"),
    ):
        rules.add_argument(name, metavar="N", type=whole_number, help=words)
    pin = add_command(commands, "keep", keep, "pin a backup, so that no cleanup removes it")
    pin.add_argument("backup_id", metavar="ID", help="backup id, the beginning of one, or 'latest'")
    group = pin.add_mutually_exclusive_group()
    group.add_argument("--until", metavar="TIME", help="ISO 8601; without it until it is released")
    group.add_argument("--remove", action="store_true", help="release it: the rules decide again")
    pin.add_argument("--why", default="", metavar="TEXT", help="shown in every plan")


def cleanup(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    with progress_bar(screen) as progress:
        prepared = wait_for(manager.plan_cleanup(compact=args.compact, progress=progress))
    plan = prepared.plan
    if args.plan:
        screen.document(plan.to_json())
        show_plan(plan, screen)
        return Exit.OK
    if plan.large:
        if not args.yes:
            show_plan(plan, screen)
        screen.confirm(f"This removes {_count(len(plan.retention.removed), 'backup')}. Go on?")
    with progress_bar(screen) as progress:
        report = wait_for(manager.cleanup(prepared, approved=True, progress=progress))
    screen.document(report.to_json())
    _show_report(report, screen)
    return Exit.OK if report.ok else Exit.NOT_PASSED


def show_plan(plan: CleanupPlan, screen: Screen) -> None:
    """A line for every backup with the strongest reason, and what would be freed."""
    screen.say(
        f"Kept of {plan.cluster}: {plan.policy}; every moment of {plan.policy.pitr_days} days.", "bold"
    )
    if plan.retention.verdicts:
        screen.table(plan_table(plan))
    else:
        screen.say("There are no backups.")
    removed = len(plan.retention.removed)
    screen.say(f"{_count(removed, 'backup')} of {len(plan.retention.verdicts)} would be removed.")
    for copy in plan.copies:
        parts = ", ".join(f"{text.size(count)} {_WORDS[what]}" for what, count in copy.bytes.items() if count)
        screen.say(
            f"{copy.location}: {text.size(copy.freed_bytes)} of {text.size(copy.stored_bytes)} would be freed"
            + (f" ({parts})" if parts else "")
        )
        if copy.locked:
            screen.say(
                f"{copy.location}: Object Lock still holds {_count(copy.locked, 'object')} that nobody needs"
            )
    if plan.compaction is not None:
        screen.say(_compaction(plan.compaction))
    for run in plan.dead_runs:
        screen.say(f"{run} was broken off, and what it stored is removed")
    for run in plan.running:
        screen.say(f"{run} is at work or was broken off lately, and is left alone")
    for note in plan.notes:
        screen.warn(note)
    if plan.large:
        screen.warn("This is more than half of what the backups have stored: it will have to be confirmed.")


def _compaction(plan: CompactionPlan) -> str:
    if not plan.looked_at:
        return "There is nothing to rewrite: no backup holds packs of others that are gone."
    if not plan.packs:
        packs = _count(plan.looked_at, "pack")
        return f"There is nothing to rewrite: of {packs} of backups that are gone half or more is needed."
    return (
        f"{_count(plan.packs, 'pack')} would be rewritten, {text.size(plan.size_bytes)} as {text.size(plan.live_bytes)}; "
        "a cleanup two days later removes the old ones"
    )


def plan_table(plan: CleanupPlan) -> Table:
    """The plan that people read, newest last."""
    return Table(
        columns=[Column(""), Column("id"), Column("method"), Column("when"), Column("why")],
        rows=[
            (
                "keep" if verdict.keep else "remove",
                verdict.backup_id,
                verdict.candidate.method,
                text.when(verdict.candidate.finished_at, plan.at),
                verdict.reasons[0],
            )
            for verdict in plan.retention.verdicts
        ],
    )


def _show_report(report: CleanupReport, screen: Screen) -> None:
    for backup_id in report.removed:
        screen.say(f"removed {backup_id}: {report.plan.retention.of(backup_id).reasons[0]}")
    for backup_id in report.spared:
        screen.warn(f"{backup_id} was not removed: it got a pin meanwhile, or the store does not let it go")
    for copy in report.copies:
        for refused in copy.refused[:5]:
            screen.warn(f"not deleted: {refused}")
        if len(copy.refused) > 5:
            screen.warn(f"not deleted: {len(copy.refused) - 5:,} more")
    for note in report.plan.notes:
        screen.warn(note)
    if report.compaction is not None:
        _show_compaction(report.compaction, screen)
    freed = " and ".join(f"{text.size(copy.freed_bytes)} in {copy.location}" for copy in report.copies)
    screen.say(
        f"{_count(len(report.removed), 'backup')} removed, {len(report.plan.retention.kept)} kept; freed {freed} "
        f"({text.duration(report.seconds)})."
    )


def _show_compaction(done: CompactionReport, screen: Screen) -> None:
    for failed in done.failed[:5]:
        screen.warn(f"not rewritten: {failed}")
    screen.say(
        f"{_count(done.packs, 'pack')} rewritten, {text.size(done.size_bytes)} as {text.size(done.stored_bytes)}"
        + (
            f"; the old ones go with a cleanup after {done.frees_at:%Y-%m-%d %H:%M} UTC."
            if done.packs
            else "."
        )
    )


def keep(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    if args.remove:
        report = wait_for(manager.release_backup(args.backup_id))
    else:
        until = parse_time(args.until) if args.until else None
        report = wait_for(manager.keep_backup(args.backup_id, until, args.why))
    screen.document(report.to_json())
    if report.pin is None:
        screen.say(f"Backup {report.backup_id} is no longer pinned: the rules decide.")
    else:
        screen.say(f"Backup {report.backup_id} is {_pinned(report.pin)}.")
    return Exit.OK


def _pinned(pin: Pin) -> str:
    if pin.until is None:
        return "kept until somebody releases it"
    return f"kept until {text.when(pin.until, datetime.now(UTC))}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)
