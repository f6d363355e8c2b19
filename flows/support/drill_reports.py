"""What a restore drill did and measured, in Markdown. Pure."""

from __future__ import annotations

from flows.support.drill_chart import recovery_chart
from flows.support.reports import (
    MARKS,
    fact_table,
    human_duration,
    human_rate,
    human_size,
    human_time,
    inline,
    markdown_table,
    sign,
)
from pgproof.model.drill import DrillReport, DrillStep
from pgproof.model.rto import RtoForecast

_STEPS = {
    "choose": "Choose the backup, find the moment",
    "restore": "Read the backup, write its files",
    "replay": "Replay WAL to the moment",
    "start": "Start until connections are taken",
    "checks": "Ask the server everything",
}
_LEFT_OUT = (
    "The forecast is for a loss of the server now, and the newest moment. Left out of it: noticing and deciding, getting a "
    "machine, bringing clients over, cold caches. Another machine, disk or network may be faster or slower."
)


def drill_report(report: DrillReport, rto_minutes: int | None = None) -> str:
    """The verdict and the two times first, then each step and each question, and how to do it again."""
    parts = [
        f"# Restore drill of `{report.cluster}`",
        f"**{sign(report.ok)} {inline(drill_verdict(report))}**",
    ]
    if report.hint:
        parts.append(f"What to do: {inline(report.hint)}")
    if report.rto_seconds is not None:
        parts.append(recovery_chart(report).markdown())
    parts.append(_times(report, rto_minutes))
    if report.forecast is not None:
        parts.append(_LEFT_OUT + (" The rate of replay is assumed." if report.forecast.assumed else ""))
    if report.checks:
        rows = [(MARKS[check.ok], check.name, human_duration(check.seconds)) for check in report.checks]
        parts += ["## Checks", markdown_table(("", "Check", "Time"), rows)]
        # Few have something to say, and that may be long: a table would hide its end.
        parts += [
            f"- **{inline(check.name)}** {inline(f'{check.detail} {check.hint}')}"
            for check in report.checks
            if check.detail or check.hint
        ]
    parts += [f"- {inline(note)}" for note in report.notes]
    commit = [("Last commit", human_time(report.last_commit_at))] if report.last_commit_at else []
    parts += [
        "## This drill",
        fact_table(
            [
                ("Backup", f"`{report.backup_id}`"),
                ("Moment", report.target),
                *commit,
                ("Drilled", f"{human_time(report.at)}, by {report.by}"),
                ("Seed", str(report.seed)),
                ("Sandbox", report.sandbox or "no server was started"),
            ]
        ),
        "To the same moment again:",
        f"```sh\n{report.again or f'pgproof drill --seed {report.seed}'}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _times(report: DrillReport, rto_minutes: int | None) -> str:
    """Each step beside what the forecast says of it; checks are no part of a recovery."""
    forecast = _forecasts(report.forecast)
    rows = [
        (
            MARKS[step.ok],
            _STEPS.get(step.name, step.name),
            human_duration(step.seconds),
            _moved(step),
            forecast.get(step.name, ""),
        )
        for step in report.steps
    ]
    ahead = human_duration(report.forecast.seconds) if report.forecast else "–"
    total = ("", "**Recovery (RTO)**", f"**{_duration(report.rto_seconds)}**", "", f"**{ahead}**")
    recovery = [row for row, step in zip(rows, report.steps, strict=True) if step.name != "checks"]
    checks = [row for row, step in zip(rows, report.steps, strict=True) if step.name == "checks"]
    objective = (
        [] if rto_minutes is None else [("", "Objective", f"{rto_minutes} min", "", f"{rto_minutes} min")]
    )
    return markdown_table(
        ("", "Step", "Measured", "Moved", "Forecast"), [*recovery, total, *objective, *checks]
    )


def _moved(step: DrillStep) -> str:
    if not step.bytes:
        return ""
    rate = f" at {human_rate(step.bytes, step.seconds)}" if step.seconds >= 0.05 else ""
    return human_size(step.bytes) + rate


def _forecasts(forecast: RtoForecast | None) -> dict[str, str]:
    if forecast is None:
        return {}
    restored, replayed = human_size(forecast.size_bytes), human_size(forecast.wal_bytes)
    return {
        "choose": human_duration(forecast.choose_seconds),
        "restore": f"{human_duration(forecast.restore_seconds)} ({restored})",
        "replay": f"{human_duration(forecast.replay_seconds)} ({replayed})",
        "start": human_duration(forecast.start_seconds),
    }


def drill_verdict(report: DrillReport) -> str:
    """One sentence."""
    if not report.ok:
        return f"Failed at the step {report.failed_step}: {report.failure}"
    passed = sum(check.ok is True for check in report.checks)
    ahead = (
        f", a recovery now would take {human_duration(report.forecast.seconds)}" if report.forecast else ""
    )
    return f"Passed: recovered in {_duration(report.rto_seconds)}{ahead}; {passed} checks passed"


def drill_failure(report: DrillReport) -> str:
    """Fit for a notification."""
    lines = [
        f"the restore drill of {report.cluster} failed at the step {report.failed_step}: {report.failure}"
    ]
    if report.hint:
        lines.append(f"HINT: {report.hint}")
    return "\n".join(lines)


def _duration(seconds: float | None) -> str:
    return "it did not recover" if seconds is None else human_duration(seconds)
