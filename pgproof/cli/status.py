"""`status`: how the backups of a cluster stand, on one screen; and the check for cron or a monitor."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit, error_document, exit_status
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.model.conditions import Condition, failing
from pgproof.model.objectives import loss_in_words

if TYPE_CHECKING:
    from datetime import datetime

    from pgproof.actions.watch import Watched
    from pgproof.model.objectives import Standing

_DESCRIPTION = """How the backups of a cluster stand. Needs the repository alone, and no Prefect.

Conditions: backup-age>26h, proof-age>8d, wal-lag>5m, rpo>1h, rto>2h (units s, m, h, d), and
gap, degraded, cleanup, server, objective. What is not known counts as too old.
The exit status is 7 if one of them holds, and 3, 4 or 5 if the repository cannot be read."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "status", status, "how the backups stand", _DESCRIPTION)
    parser.add_argument(
        "--fail-if",
        metavar="CONDITION",
        action="append",
        default=[],
        help="exit with 7 if it holds; repeatable",
    )
    parser.add_argument(
        "--notify",
        action="store_true",
        help="tell what is newly broken, or has recovered, to BACKUP_NOTIFY_URL",
    )


def status(args: argparse.Namespace, screen: Screen) -> int:
    conditions = [Condition.parse(each) for each in args.fail_if]
    manager = open_backups(args)
    watched = wait_for(manager.watch(notify=args.notify))
    told = {"told": [each.subject for each in watched.told]}
    if watched.standing is None:
        assert watched.error is not None
        screen.document({**error_document(watched.error), **told})
        screen.warn(f"pgproof: {watched.error}")
        return exit_status(watched.error)
    objectives = manager.config.objectives
    found = failing(conditions, watched.standing, objectives)
    screen.document(
        {
            **watched.standing.to_json(),
            "objectives": objectives.to_json(),
            "broken": [each.to_json() for each in watched.broken],
            "failed": [each.to_json() for each in found],
            **told,
        }
    )
    _show(watched, watched.standing, screen)
    broken = {each.key for each in watched.broken}
    for each in found:
        if each.key not in broken:
            screen.say(f"✗ {each.key}: {each.text}", "bold red")
            screen.say(f"  HINT: {each.hint}")
    return Exit.NOT_PASSED if found else Exit.OK


def _show(watched: Watched, standing: Standing, screen: Screen) -> None:
    def when(moment: datetime | None, missing: str) -> str:
        return missing if moment is None else text.when(moment, standing.at)

    screen.say(f"Cluster {standing.cluster}", "bold")
    figures = [
        ("backups", f"{standing.backups:,}"),
        ("newest good", _named(when(standing.backup_at, "none"), standing.backup_id)),
        ("last proof", _named(when(standing.proof_at, "never"), standing.proven_id)),
    ]
    if standing.recovery_time is not None:
        figures.append(("a recovery takes", text.duration(standing.recovery_time.total_seconds())))
    if standing.newest is not None:
        figures.append(("any moment from", when(standing.oldest, "–")))
        figures.append(("to", when(standing.newest, "–")))
    figures.append(("would be lost", loss_in_words(standing.at_risk)))
    if standing.server_problem:
        figures.append(("server", f"not asked: {standing.server_problem}"))
    screen.figures(figures)
    for each in watched.broken:
        screen.say(f"✗ {each.key}: {each.text}", "bold red")
        screen.say(f"  HINT: {each.hint}")
    if not watched.broken:
        screen.say("✓ nothing is broken", "green")
    for message in watched.told:
        screen.say(f"told: {message.subject}")


def _named(words: str, name: str) -> str:
    return f"{words}  {name}" if name else words
