"""What was rescued, and what differs, in Markdown. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.support.reports import fact_table, human_duration, inline, markdown_table
from pgproof.model.table_rescue import MergeReport, RescueReport, TableComparison

_CELL = 60


def rescue_report(report: RescueReport) -> str:
    """Where the table is, and how it differs from the live one, with the first rows."""
    rows = [
        ("Database", report.database),
        ("Table", str(report.table)),
        ("Rescued as", str(report.rescued)),
        ("Backup", report.backup_id),
        ("Target", report.target),
        ("Recovery", f"ended at {report.end_lsn}" if report.end_lsn else "none"),
        ("Rows", f"{report.rows:,}"),
        ("Duration", human_duration(report.seconds)),
    ]
    parts = ["# Rescued table", fact_table(rows)]
    if report.comparison is None:
        parts.append("There is no live table of this name to compare it with.")
    else:
        parts += comparison_parts(report.comparison)
    if report.left_out:
        left_out = [(each.what, each.statement, each.reason) for each in report.left_out]
        parts += ["## Not made for it", markdown_table(("What", "Command", "Reason"), left_out)]
    parts += [f"- {inline(note)}" for note in report.notes]
    return "\n\n".join(parts) + "\n"


def comparison_parts(comparison: TableComparison) -> list[str]:
    parts = ["## Compared with the live table", f"**{comparison.summary()}**"]
    if comparison.first:
        cells = [
            (str(row.kind), side, *("∅" if value is None else value[:_CELL] for value in values))
            for row in comparison.first
            for side, values in (("backup", row.backup), ("live", row.live))
            if values is not None
        ]
        parts.append(markdown_table(("Difference", "Side", *comparison.common.columns), cells))
    parts += [
        f"- {rows:,} of the changed rows were written last by transaction {xid}"
        for xid, rows in comparison.writers
    ]
    parts += [f"- ✗ {inline(str(violation))}" for violation in comparison.violations]
    parts += [
        f"- the trigger {inline(name)} fires for rows that are put back" for name in comparison.triggers
    ]
    return parts + [f"- {inline(note)}" for note in comparison.common.notes]


def merge_question(rescued: str, table: str, merge: str, comparison: Mapping[str, Any]) -> str:
    """What somebody has to approve; `comparison` is its JSON description."""
    which = "both" if merge == "both" else f"the {merge} ones"
    found = f"{comparison['missing']:,} rows are missing and {comparison['changed']:,} changed"
    return f"## Put rows back\n\n{found}: {which} go from `{inline(rescued)}` into `{inline(table)}`.\n"


def merge_report(report: MergeReport) -> str:
    rows = [
        ("Table", str(report.table)),
        ("Out of", str(report.rescued)),
        ("Put back", f"{report.inserted:,}"),
        ("Overwritten", f"{report.updated:,}"),
        ("Differ still, because of triggers", f"{report.differ_still:,}"),
        ("Duration", human_duration(report.seconds)),
    ]
    return f"# Rows put back\n\n{fact_table(rows)}\n"
