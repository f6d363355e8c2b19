"""How a cluster stands, in Markdown. Pure."""

from __future__ import annotations

from datetime import datetime

from flows.support.reports import human_duration, human_time, inline, markdown_table
from pgproof.actions.watch import Watched
from pgproof.model.objectives import Objectives, Standing, loss_in_words


def standing_report(cluster: str, watched: Watched, objectives: Objectives) -> str:
    """What is broken first, then the figures beside their objectives, then what was told."""
    parts = [f"# How `{cluster}` stands"]
    if watched.broken:
        parts.append(
            markdown_table(
                ("Broken", "What", "What to do"),
                [(f"✗ {each.key}", inline(each.text), inline(each.hint)) for each in watched.broken],
            )
        )
    else:
        parts.append("**✓ Nothing is broken.**")
    if watched.standing is not None:
        parts.append(markdown_table(("", "Now", "Objective"), _figures(watched.standing, objectives)))
    parts += [f"- told: {inline(each.subject)}" for each in watched.told]
    return "\n\n".join(parts) + "\n"


def standing_message(cluster: str, watched: Watched) -> str:
    """A line for each thing that is broken, with its HINT."""
    if not watched.broken:
        return f"nothing is broken of {cluster}"
    lines = [f"{each.key}: {each.text}\nHINT: {each.hint}" for each in watched.broken]
    return "\n".join([f"{cluster}: {len(watched.broken)} broken", *lines])


def _figures(standing: Standing, objectives: Objectives) -> list[tuple[str, str, str]]:
    def time(moment: datetime | None, missing: str) -> str:
        return missing if moment is None else human_time(moment)

    def limit(value: int | None, unit: str) -> str:
        return "not set" if value is None else f"{value} {unit}"

    took = standing.recovery_time
    rows = [
        ("Newest good backup", time(standing.backup_at, "none"), limit(objectives.backup_max_age_hours, "h")),
        ("Last proof", time(standing.proof_at, "never"), limit(objectives.proof_max_age_days, "d")),
        (
            "Would be lost",
            loss_in_words(standing.at_risk),
            limit(objectives.rpo_minutes, "min"),
        ),
        (
            "A recovery takes",
            "not measured" if took is None else human_duration(took.total_seconds()),
            limit(objectives.rto_minutes, "min"),
        ),
        ("Every moment from", time(standing.oldest, "–"), ""),
        ("to", time(standing.newest, "–"), ""),
        ("Backups", str(standing.backups), ""),
    ]
    if standing.server_problem:
        rows.append(("Server", f"not asked: {inline(standing.server_problem)}", ""))
    return rows
