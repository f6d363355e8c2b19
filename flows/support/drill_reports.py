"""What a restore drill did and measured, in Markdown. Pure."""

from __future__ import annotations

from flows.support.reports import human_duration, human_rate, human_size, human_time, inline, markdown_table
from pgproof.model.drill import DrillReport

_STEPS = {
    "choose": "Choose the backup, find the moment in the WAL",
    "restore": "Read the backup and write its files",
    "replay": "Replay WAL to the moment",
    "start": "Start until connections are taken",
    "checks": "Ask the server everything",
}
_MARKS = {True: "✓", False: "✗ failed", None: "– not checked here"}
_LEFT_OUT = (
    "Left out: noticing and deciding, getting a machine, bringing clients over, cold caches. Another machine, disk or "
    "network may be faster or slower."
)


def drill_report(report: DrillReport) -> str:
    """The verdict and the two times first, then each step and each question."""
    moment = f", last commit {human_time(report.last_commit_at)}" if report.last_commit_at else ""
    forecast = report.forecast
    parts = [
        f"# Restore drill of `{report.cluster}`",
        f"**{inline(drill_verdict(report))}**",
        markdown_table(
            ("", ""),
            [
                ("Measured RTO", _duration(report.rto_seconds)),
                ("Forecast for a loss now", _duration(forecast.seconds if forecast else None)),
                ("Moment", f"{report.target}{moment}"),
                ("Backup", report.backup_id),
                ("Drilled", f"{human_time(report.at)}, by {report.by}"),
                ("Seed", str(report.seed)),
                ("Again", report.again or f"pgproof drill --seed {report.seed}"),
                ("Sandbox", report.sandbox or "no server was started"),
            ],
        ),
    ]
    if report.hint:
        parts.append(f"What to do: {inline(report.hint)}")
    rows = [
        (
            _STEPS.get(step.name, step.name),
            _MARKS[step.ok],
            human_duration(step.seconds),
            human_size(step.bytes) if step.bytes else "",
            human_rate(step.bytes, step.seconds) if step.bytes and step.seconds >= 0.05 else "",
        )
        for step in report.steps
    ]
    parts += ["## Steps", markdown_table(("Step", "", "Time", "Size", "Rate"), rows)]
    if forecast is not None:
        rate = f"{human_size(round(forecast.replay_rate))}/s" + (" (assumed)" if forecast.assumed else "")
        parts += [
            "## Forecast",
            markdown_table(
                ("Part", "Time", "From"),
                [
                    ("Choose", human_duration(forecast.choose_seconds), "as measured"),
                    (
                        "Restore",
                        human_duration(forecast.restore_seconds),
                        f"{human_size(forecast.size_bytes)} at {human_size(round(forecast.restore_rate))}/s",
                    ),
                    (
                        "Replay",
                        human_duration(forecast.replay_seconds),
                        f"{human_size(forecast.wal_bytes)} of WAL at {rate}",
                    ),
                    ("Start", human_duration(forecast.start_seconds), "as measured"),
                ],
            ),
            _LEFT_OUT,
        ]
    if report.checks:
        asked = [
            (
                check.name,
                _MARKS[check.ok],
                human_duration(check.seconds),
                f"{check.detail} {check.hint}".strip(),
            )
            for check in report.checks
        ]
        parts += ["## Checks", markdown_table(("Check", "", "Time", "Detail"), asked)]
    parts += [f"- {inline(note)}" for note in report.notes]
    return "\n\n".join(parts) + "\n"


def drill_verdict(report: DrillReport) -> str:
    """One sentence."""
    if not report.ok:
        return f"Failed at the step {report.failed_step}: {report.failure}"
    passed = sum(check.ok is True for check in report.checks)
    return f"Passed: recovered in {_duration(report.rto_seconds)}, {passed} checks passed"


def drill_failure(report: DrillReport) -> str:
    """Fit for a notification."""
    lines = [
        f"the restore drill of {report.cluster} failed at the step {report.failed_step}: {report.failure}"
    ]
    if report.hint:
        lines.append(f"HINT: {report.hint}")
    return "\n".join(lines)


def _duration(seconds: float | None) -> str:
    return "none: it did not recover" if seconds is None else human_duration(seconds)
