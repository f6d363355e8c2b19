"""`replicas promote`: let a replica take over, after its plan was shown and agreed to."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_replicas
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.model.report import Check

if TYPE_CHECKING:
    from pgproof.model.failover_plan import FailoverPlan
    from pgproof.model.failover_report import FailoverReport

_DESCRIPTION = """Let a replica take over from the primary.

Without NODE, where the primary is dead: the most advanced healthy replica. With NODE, while the primary is alive: a
switchover, which loses nothing. The plan is shown before anything is done. The old primary is ended by the fence command,
which finds FENCE_HOST and FENCE_PORT in its environment, and is looked at twice. What was broken off is gone on with by
running this again. Exit status 7 if the new primary writes, and something else is not as it should be in the end."""


def add_commands(actions: Subparsers) -> None:
    parser = add_command(
        actions, "promote", promote, "let a replica take over from the primary", _DESCRIPTION
    )
    parser.add_argument("node", metavar="NODE", nargs="?", default="", help="which one (by default the best)")
    parser.add_argument("--plan", action="store_true", help="show what would be done and stop")
    parser.add_argument(
        "--fence-command",
        metavar="CMD",
        help="ends the old primary (REPLICA_FENCE_COMMAND); run by the shell",
    )
    parser.add_argument(
        "--unfenced",
        action="store_true",
        help="end nothing: it is known that the old primary is gone for good",
    )
    parser.add_argument(
        "--accept-loss", action="store_true", help="take less than the best replica holds, or a doubtful one"
    )
    parser.add_argument(
        "--timeout", metavar="S", type=whole_number, default=60, help="seconds for each wait (60)"
    )


def promote(args: argparse.Namespace, screen: Screen) -> int:
    from pgproof.model.failover_evidence import FailoverRequest

    manager = open_replicas(args)
    if args.fence_command:
        manager.replication = replace(manager.replication, fence_command=args.fence_command)
    request = FailoverRequest(args.node, unfenced=args.unfenced, accept_loss=args.accept_loss)
    plan = wait_for(manager.plan_failover(request))
    _show_plan(plan, screen)
    if args.plan or not plan.allowed:
        screen.document(plan.to_json())
        return Exit.OK if plan.allowed else Exit.PRECONDITION
    screen.confirm(f"Promote {plan.node}?" if plan.kind != "finish" else f"Lead the others to {plan.node}?")
    with progress_bar(screen) as progress:
        report = wait_for(
            manager.failover(request, approved=plan.decision, seconds=args.timeout, progress=progress)
        )
    screen.document(report.to_json())
    _show(report, screen)
    return Exit.OK if report.ok else Exit.NOT_PASSED


def _show_plan(plan: FailoverPlan, screen: Screen) -> None:
    screen.say(plan.sentence(), "bold")
    screen.table(
        Table(
            columns=[
                Column("node"),
                Column("timeline", right=True),
                Column("received"),
                Column("replayed"),
                Column("verdict"),
            ],
            rows=[
                (
                    f"{'→' if each.node == plan.node else ' '} {each.node}",
                    str(each.timeline) if each.state else "–",
                    str(each.held) if each.state else "–",
                    str(each.state.replayed) if each.state and each.state.replayed else "–",
                    each.reason,
                )
                for each in plan.verdicts
            ],
        )
    )
    for line in plan.facts():
        screen.say(line)
    for note in plan.notes:
        screen.warn(f"Note: {note}")
    for refusal in plan.refusals:
        screen.say(f"✗ {refusal.message}", "bold red")
        screen.say(f"  HINT: {refusal.hint}")


def _show(report: FailoverReport, screen: Screen) -> None:
    screen.checks([Check(each.name, each.ok, each.detail, each.hint, each.seconds) for each in report.steps])
    for follower in report.followers:
        good = follower.outcome == "streaming"
        screen.say(
            f"{'✓' if good else '✗'} {follower.node}: {follower.outcome}, {follower.detail}",
            "" if good else "bold red",
        )
        if follower.hint:
            screen.say(f"  HINT: {follower.hint}")
    for note in report.notes:
        if note not in report.plan.notes:
            screen.warn(f"Note: {note}")
    screen.say(f"{report.node} is the primary, on timeline {report.timeline}.", "bold green")
    if report.unwritable_seconds is not None:
        screen.say(
            f"Kept is everything up to {report.branched_at} (promised: {report.promised}). "
            f"From the fence to the first write: {text.duration(report.unwritable_seconds)}."
        )
