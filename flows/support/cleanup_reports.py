"""What a cleanup plans and has done, in Markdown. Pure."""

from __future__ import annotations

from flows.support.reports import human_duration, human_size, human_time, inline, markdown_table
from pgproof.model.cleanup_report import CleanupPlan, CleanupReport


def plan_report(plan: CleanupPlan) -> str:
    """Every backup with every reason, those that go first."""
    verdicts = sorted(plan.retention.verdicts, key=lambda verdict: verdict.keep)
    parts = [
        f"# Cleanup of `{plan.cluster}`: the plan",
        f"{len(plan.retention.removed)} of {len(verdicts)} backups are to be removed. Kept: {plan.policy}; every moment of "
        f"{plan.policy.pitr_days} days.",
        markdown_table(
            ("", "Backup", "Finished", "Why"),
            [
                (
                    "keep" if verdict.keep else "**remove**",
                    verdict.backup_id,
                    human_time(verdict.candidate.finished_at),
                    "; ".join(verdict.reasons),
                )
                for verdict in verdicts
            ],
        ),
        markdown_table(
            ("Copy", "Would be freed", "Of", "Still locked"),
            [
                (
                    copy.location,
                    human_size(copy.freed_bytes),
                    human_size(copy.stored_bytes),
                    f"{copy.locked} objects" if copy.locked else "–",
                )
                for copy in plan.copies
            ],
        ),
    ]
    told = []
    if plan.compaction is not None:
        told.append(
            f"{plan.compaction.packs} packs of which little is needed are rewritten: {human_size(plan.compaction.size_bytes)} as "
            f"{human_size(plan.compaction.live_bytes)}"
        )
    told += [f"{run} was broken off: what it stored is removed" for run in plan.dead_runs]
    told += [f"{run} is at work or was broken off lately: left alone" for run in plan.running]
    parts += [f"- {inline(each)}" for each in (*told, *plan.notes)]
    return "\n\n".join(parts) + "\n"


def cleanup_report(report: CleanupReport) -> str:
    """What has gone, why, and who did it."""
    parts = [
        f"# Cleanup of `{report.plan.cluster}`",
        f"**{cleanup_message(report)}**",
        f"By {inline(report.by)}, in {human_duration(report.seconds)}.",
        markdown_table(
            ("Removed", "Why"),
            [(each, "; ".join(report.plan.retention.of(each).reasons)) for each in report.removed],
        ),
        markdown_table(
            ("Copy", "Freed", "Objects deleted", "Refused"),
            [
                (
                    copy.location,
                    human_size(copy.freed_bytes),
                    str(sum(copy.objects.values())),
                    str(len(copy.refused)),
                )
                for copy in report.copies
            ],
        ),
    ]
    told = [
        f"{each} was not removed: it got a pin, or the store does not let it go" for each in report.spared
    ]
    if (done := report.compaction) is not None:
        told.append(
            f"{done.packs} packs were rewritten, {human_size(done.size_bytes)} as {human_size(done.stored_bytes)}"
            + (f"; the old ones go with a cleanup after {human_time(done.frees_at)}" if done.packs else "")
        )
        told += [f"not rewritten: {each}" for each in done.failed[:20]]
    told += [f"not deleted: {each}" for copy in report.copies for each in copy.refused[:20]]
    parts += [f"- {inline(each)}" for each in (*told, *report.plan.notes)]
    return "\n\n".join(parts) + "\n"


def cleanup_message(report: CleanupReport) -> str:
    refused = sum(len(copy.refused) for copy in report.copies)
    told = f"; {refused} objects could not be deleted" if refused else ""
    if report.compaction is not None and report.compaction.failed:
        told += f"; {len(report.compaction.failed)} packs could not be rewritten"
    return (
        f"{len(report.removed)} backups removed, {len(report.plan.retention.kept)} kept, "
        f"{human_size(report.freed_bytes)} freed{told}"
    )
