"""A rebuild's plan for whoever has to approve it, and what came of it. Pure: values in, text out."""

from __future__ import annotations

from flows.support.reports import fact_table, human_duration, inline
from pgproof.model.rebuild_plan import RebuildPlan, Way
from pgproof.model.rebuild_report import RebuildReport

# How wide the names are in the lines of a plan.
_WHAT = 18


def rebuild_plan_report(plan: RebuildPlan) -> str:
    """What a rebuild would do."""
    heading = "overwrites its files" if plan.overwrites else "leaves its files"
    # A list, since the form that asks wraps neither tables nor code.
    rows = [(line[:_WHAT].strip(), inline(line[_WHAT:])) for line in plan.lines()]
    facts = "".join(f"- **{what}** {value}\n" for what, value in rows)
    return f"## Rebuild of {inline(plan.node)} {heading}\n\n{facts}"


def rebuild_report(report: RebuildReport) -> str:
    """How a replica was made again, and how long each step took."""
    way = {
        Way.NOTHING: "nothing was done: it streams",
        Way.START: "started, its files as they were",
        Way.REWIND: "rewound by pg_rewind",
        Way.RESTORE: f"restored from backup `{report.backup_id}`",
    }[report.way]
    rows = [
        ("Replica", inline(report.node)),
        ("Data directory", inline(report.data_dir)),
        ("Follows", f"{inline(report.primary)} on timeline {report.timeline}"),
        ("Way", way),
        ("Slot", f"{report.slot}{', made now' if report.slot_made else ''}"),
        ("Caught up to", str(report.caught_up or "")),
        ("Lost", inline(str(report.tail)) if report.tail else "nothing"),
        ("Duration", human_duration(report.seconds)),
        *((f"– {name}", human_duration(seconds)) for name, seconds in report.steps),
    ]
    notes = "".join(f"\n- {inline(note)}" for note in report.notes)
    return f"# Rebuilt replica\n\n{fact_table(rows)}\n{notes}\n"
