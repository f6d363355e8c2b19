"""Reports for people, in Markdown. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pgproof.cli.text import duration
from pgproof.model.database_restore import DatabasePlan, DatabaseReport
from pgproof.model.harm import DamageReport
from pgproof.model.report import BackupInfo, Check, RestoreReport, VerificationReport
from pgproof.model.restore_plan import RestorePlan

# As on the terminal.
human_duration = duration

# How wide the names are in the lines of a restore's plan.
_WHAT = 18
MARKS = {True: "✓", False: "✗ failed", None: "– not done"}


def backup_report(info: BackupInfo) -> str:
    """The figures of one backup and what was found while it was taken."""
    parts = [
        # Its name is too long for a heading.
        f"# {str(info.type).capitalize()} backup of `{info.cluster}`",
        fact_table(
            [
                ("Backup", f"`{info.backup_id}`"),
                ("Type", f"{info.type} ({info.method})"),
                ("Status", "✓ ok" if info.status == "ok" else f"! {info.status}"),
                ("Started", human_time(info.started_at)),
                ("Duration", human_duration(info.seconds)),
                ("Size", human_size(info.size_bytes)),
                ("Stored", human_size(info.stored_bytes)),
                ("Ratio", human_ratio(info.size_bytes, info.stored_bytes)),
                ("Rate", human_rate(info.size_bytes, info.seconds)),
                ("WAL", f"{info.start_lsn} to {info.stop_lsn}, timeline {info.timeline}"),
                ("Server", f"PostgreSQL {info.server_version}, system {info.system_identifier}"),
                ("Based on", f"`{info.parent_id}`" if info.parent_id else "nothing"),
                ("Changes found by", info.change_detection),
            ],
        ),
    ]
    if info.findings:
        rows = [
            (finding.kind, finding.message, "yes" if finding.degrades else "no") for finding in info.findings
        ]
        parts += ["## Findings", markdown_table(("Kind", "What", "Degrades the backup"), rows)]
    else:
        parts.append("No findings.")
    return "\n\n".join(parts) + "\n"


def verification_report(report: VerificationReport) -> str:
    """What was proven about a backup, step by step."""
    parts = [
        "# Verification",
        f"**{sign(report.ok)} {verdict(report)}**",
        fact_table(
            [
                ("Backup", f"`{report.backup_id}`"),
                ("Level", str(report.level)),
                ("Started", human_time(report.started_at)),
                ("Duration", human_duration(report.seconds)),
                ("Read", human_size(report.bytes_read)),
                ("Sandbox", report.sandbox or "no server was started"),
            ],
        ),
    ]
    if report.damage:
        parts += ["## Damage", "\n".join(f"- {inline(damage)}" for damage in report.damage)]
    if report.checks:
        rows = [_step(check) for check in report.checks]
        parts += ["## Steps", markdown_table(("", "Step", "Time", "Detail"), rows)]
    return "\n\n".join(parts) + "\n"


def restore_plan_report(plan: RestorePlan, now: datetime) -> str:
    """What a restore would do, for whoever has to approve it."""
    heading = "overwrites a cluster" if plan.delta is not None else "into an empty directory"
    # A list, since the form that asks wraps neither tables nor code.
    rows = [(line[:_WHAT].strip(), inline(line[_WHAT:])) for line in plan.lines(now)]
    facts = "".join(f"- **{what}** {value}\n" if what else f"  {value}\n" for what, value in rows)
    return f"## Restore {heading}\n\n{facts}"


def restore_report(report: RestoreReport) -> str:
    """Where a cluster was restored, and how far."""
    recovery = f"ended at {report.end_lsn}" if report.recovered else "left to the server's first start"
    commit = report.last_commit
    last = [("Last commit", f"transaction {commit['xid']}, {commit['time']}")] if commit else []
    rows = [
        ("Backup", f"`{report.backup_id}`"),
        ("Data directory", report.data_dir),
        ("Target", report.target),
        ("Recovery", recovery),
        *last,
        ("Size", f"{human_size(report.size_bytes)} in {report.files:,} files"),
        ("Written", human_size(report.written_bytes)),
        ("Duration", human_duration(report.seconds)),
    ]
    notes = "".join(f"\n- {inline(note)}" for note in report.notes)
    return f"# Restored cluster\n\n{fact_table(rows)}\n{notes}\n"


def database_plan_report(plan: DatabasePlan) -> str:
    """What a restore of a database would do, for whoever has to approve it."""
    replaces = plan.old_size is not None and plan.clean
    heading = (
        "replaces a database" if replaces else "adds to a database" if plan.old_size else "makes a database"
    )
    return f"## Restore {heading}\n\n" + "".join(f"- {inline(line)}\n" for line in plan.lines())


def database_report(report: DatabaseReport) -> str:
    """Where a database was restored or cloned to, and what came of it."""
    rows = [
        ("Database", report.database),
        ("From", report.source),
        ("As of", report.point),
        ("Now", f"{report.target} on {report.server}"),
        ("Size", human_size(report.size_bytes)),
        ("Duration", human_duration(report.seconds)),
    ]
    lines = "".join(f"\n- {inline(line)}" for line in report.lines())
    return f"# Database `{inline(report.target).replace('`', '')}`\n\n{fact_table(rows)}\n{lines}\n"


def damage_rows(report: DamageReport) -> list[dict[str, str]]:
    """A row for each harm; cells are plain text in the UI, so what people act on comes first."""
    return [
        {
            "what": f"at least, {harm}" if transaction.at_least and harm.rows is not None else str(harm),
            "committed (UTC)": f"{transaction.end.time.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            "restore": transaction.restore,
            "transaction": str(transaction.end.xid),
            "LSN": str(transaction.end.lsn),
        }
        for transaction in report.transactions
        for harm in transaction.harms
    ]


def damage_summary(report: DamageReport) -> str:
    """What was looked at, and what could not be."""
    count = len(report.transactions)
    parts = [
        f"{count} transaction{'s' if count != 1 else ''} found in {human_size(report.wal_bytes)} of WAL, "
        f"{report.start_lsn} to {report.end_lsn} on timeline {report.timeline}"
    ]
    if report.older_left_out:
        parts.append(f"{report.older_left_out} older ones are not shown")
    return ". ".join([*parts, *report.notes])


def sign(ok: bool) -> str:
    return "✓" if ok else "✗"


def verdict(report: VerificationReport) -> str:
    """One sentence: proven, only checked, or failed."""
    if not report.ok:
        return "Failed: do not rely on this backup"
    if report.proven:
        return "Proven: the backup was restored, started and recovered"
    return f"Passed at level {report.level}; it was not started, so it is not proven"


def failure_message(report: VerificationReport, shown: int = 5) -> str:
    """What is wrong, in a few lines fit for a notification."""
    wrong = list(report.damage) or [
        f"{check.name}: {check.detail}" for check in report.checks if check.ok is False
    ]
    lines = [f"backup {report.backup_id} failed its verification at level {report.level}", *wrong[:shown]]
    if len(wrong) > shown:
        lines.append(f"and {len(wrong) - shown} more; see the report")
    return "\n".join(lines)


def human_size(count: int) -> str:
    """Decimal units, three figures: 3.92 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"


def human_rate(count: int, seconds: float) -> str:
    return f"{human_size(round(count / seconds))}/s" if seconds > 0 else "–"


def human_ratio(size: int, stored: int) -> str:
    return f"{size / stored:.1f} : 1" if stored else "nothing new was stored"


def human_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z").strip()


def _step(check: Check) -> tuple[str, str, str, str]:
    detail = ". ".join(part for part in (check.detail, check.hint) if part)
    return MARKS[check.ok], check.name, human_duration(check.seconds), detail


def fact_table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values. The first row is the head: the UI shows an empty one as a bar."""
    return markdown_table(rows[0], rows[1:])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(inline(cell) for cell in line) + " |" for line in lines)


def inline(text: str) -> str:
    """Keep a value that came from elsewhere inside its cell or list item, and out of HTML."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
