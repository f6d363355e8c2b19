"""The plan of a failover and what it did, in Markdown. Pure."""

from __future__ import annotations

from flows.support.reports import MARKS, human_duration, inline, markdown_table
from pgproof.model.failover_plan import FailoverPlan
from pgproof.model.failover_report import FailoverReport, Outcome


def failover_plan_report(plan: FailoverPlan) -> str:
    """What would happen, what would be lost, and every node with its reason."""
    rows = [
        (
            "→" if each.node == plan.node else "",
            f"`{inline(each.node)}`",
            str(each.timeline) if each.state else "–",
            str(each.held) if each.state else "–",
            str(each.state.replayed) if each.state and each.state.replayed else "–",
            each.reason,
        )
        for each in plan.verdicts
    ]
    parts = [
        f"**{inline(plan.sentence())}**",
        *(f"- {inline(line)}" for line in plan.facts()),
        *(f"- ⚠ {inline(note)}" for note in plan.notes),
        markdown_table(("", "Node", "Timeline", "Received", "Replayed", "Verdict"), rows),
    ]
    for refusal in plan.refusals:
        parts.append(f"✗ **Refused: {inline(refusal.message)}** {inline(refusal.hint)}")
    return "\n\n".join(parts) + "\n"


def failover_report(report: FailoverReport) -> str:
    """The verdict first, then each step with its time, and the others."""
    mark = MARKS[report.ok]
    steps = [
        (MARKS[each.ok], each.name, human_duration(each.seconds), f"{each.detail} {each.hint}".strip())
        for each in report.steps
    ]
    others = [
        (
            MARKS[each.outcome is Outcome.STREAMING],
            f"`{inline(each.node)}`",
            str(each.outcome),
            f"{each.detail} {each.hint}".strip(),
        )
        for each in report.followers
    ]
    parts = [
        f"# Failover to `{inline(report.node)}`",
        f"**{mark} {inline(failover_verdict(report))}**",
        f"Kept is everything up to {report.branched_at or 'an unknown position'}"
        + (f"; promised was {report.promised}." if report.promised else "."),
        *(f"- ⚠ {inline(note)}" for note in report.notes),
        markdown_table(("", "Step", "Time", ""), steps),
    ]
    if others:
        parts += ["## The other standbys", markdown_table(("", "Node", "Outcome", ""), others)]
    parts += ["## The plan", failover_plan_report(report.plan)]
    return "\n\n".join(parts)


def failover_verdict(report: FailoverReport) -> str:
    """One sentence."""
    took = (
        ""
        if report.unwritable_seconds is None
        else f", {human_duration(report.unwritable_seconds)} from the fence to the first write"
    )
    return f"{report.node} is the primary, on timeline {report.timeline}{took}"
