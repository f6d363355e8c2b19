"""`replicas rebuild`: a broken or diverged replica becomes one again, on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_replicas
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.text import printable
from pgproof.cli.waiting import wait_for

if TYPE_CHECKING:
    from pgproof.model.rebuild_plan import RebuildPlan
    from pgproof.model.rebuild_report import RebuildReport

_DESCRIPTION = """Make a broken or diverged replica one again, or an old primary after a failover. It runs where the files are.

By the best way there is: what is only behind is started, what wrote on alone is rewound with pg_rewind, and where that
is not possible the newest backup is restored over it, which does not load the primary. Its own configuration stays. It is
done when the primary sees it streaming and caught up; broken off, the same command goes on.

NODE is a name of READ_REPLICA_HOSTS or [replicas], or 'primary' for the configured primary's old place."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(
        commands, "rebuild", rebuild, "make a broken or diverged replica one again", _DESCRIPTION
    )
    parser.add_argument("node", metavar="NODE", help="which replica")
    parser.add_argument("--data-dir", metavar="DIR", required=True, help="its data directory on this machine")
    parser.add_argument("--plan", action="store_true", help="show what would be done and stop")
    parser.add_argument(
        "--from",
        dest="source",
        choices=("rewind", "repository"),
        help="this way, instead of the one that is found best",
    )
    parser.add_argument(
        "--start-command",
        metavar="CMD",
        help="a line for the shell that starts its server (REPLICA_START_COMMAND, else pg_ctl)",
    )
    parser.add_argument(
        "--stop-command",
        metavar="CMD",
        help="a line for the shell that stops its server (REPLICA_STOP_COMMAND, else pg_ctl)",
    )
    parser.add_argument(
        "--slot", metavar="NAME", help="its slot on the primary (as it was, else the node's name)"
    )
    parser.add_argument(
        "--primary",
        metavar="CONNINFO",
        help="how the replica reaches its primary, without a password (as it did, else as we do)",
    )
    parser.add_argument(
        "--owner", metavar="USER", help="operating system user who runs it (who owns the directory)"
    )
    parser.add_argument("--bin-dir", metavar="DIR", help="where PostgreSQL's programs are")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=whole_number,
        default=3600,
        help="how long it may take to catch up once it was started (3600)",
    )


def rebuild(args: argparse.Namespace, screen: Screen) -> int:
    from pgproof.model.rebuild_evidence import Source
    from pgproof.model.rebuild_report import RebuildRequest

    manager = open_replicas(args)
    own = RebuildRequest.commands(os.environ)
    request = RebuildRequest(
        args.node,
        Path(args.data_dir).absolute(),
        Source(args.source) if args.source else None,
        args.slot,
        args.primary,
        args.start_command or own["start_command"],
        args.stop_command or own["stop_command"],
        args.owner,
        args.timeout,
    )

    told: list[str] = []

    def tell(plan: RebuildPlan) -> None:
        for line in plan.lines():
            # Once more after the server was stopped: only what is found to be otherwise.
            if line not in told:
                told.append(line)
                screen.say(line)

    if args.yes and not args.plan:
        # Nobody is asked, so what is told is what this rebuild has planned itself.
        with progress_bar(screen) as progress:
            report = wait_for(manager.rebuild(request, planned=tell, progress=progress))
    else:
        with progress_bar(screen) as progress:
            plan = wait_for(manager.plan_rebuild(request, progress=progress))
        if args.plan:
            screen.document(plan.to_json())
        tell(plan)
        if args.plan or not plan.changes:
            if not args.plan:
                screen.document(plan.to_json())
            return Exit.OK
        what = "Overwrite the files in" if plan.overwrites else "Restart the server of"
        screen.confirm(f"{what} {printable(str(plan.data_dir))}?")
        with progress_bar(screen) as progress:
            report = wait_for(manager.rebuild(request, approved=plan, progress=progress))
    screen.document(report.to_json())
    _show(report, screen)
    return Exit.OK


def _show(report: RebuildReport, screen: Screen) -> None:
    from pgproof.model.rebuild_plan import Way

    if report.way is Way.NOTHING:
        screen.say(f"{report.node} streams from {report.primary}: nothing was done.", "bold green")
        return
    screen.say(f"{report.node} streams from {report.primary} on timeline {report.timeline}.", "bold green")
    by = {
        Way.START: "started, its files as they were",
        Way.REWIND: "rewound by pg_rewind",
        Way.RESTORE: f"restored from backup {report.backup_id}",
    }[report.way]
    screen.figures(
        [
            ("data directory", report.data_dir),
            ("way", by),
            ("slot", f"{report.slot}, {'made now' if report.slot_made else 'as it was'}"),
            ("caught up to", str(report.caught_up)),
            *([("lost", str(report.tail))] if report.tail else []),
            ("duration", text.duration(report.seconds)),
            *((f"  {name}", text.duration(seconds)) for name, seconds in report.steps),
        ]
    )
    for note in report.notes:
        screen.say(f"Note: {note}")
