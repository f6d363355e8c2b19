"""What the repository holds and how it grows, in Markdown. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flows.support.catalog_charts import backups_chart, growth_chart, window_chart
from flows.support.reports import human_duration, human_size, human_time, inline, markdown_table
from pgproof.cli.text import age, ratio
from pgproof.model.manifest import PHYSICAL
from pgproof.model.overview import Catalog, Storage
from pgproof.model.report import BackupInfo

# Every version of an artifact is kept by Prefect, so that one has to stay small.
_ROWS = 20


def catalog_report(catalog: Catalog) -> str:
    """The backups, newest first, and what can be restored."""
    parts = [f"# Backups of `{catalog.cluster}`", f"**{catalog_summary(catalog)}**"]
    backups = catalog.backups
    if not backups:
        return "\n\n".join(parts) + "\n"
    if catalog.window_problem:
        parts.append(f"What can be restored is not known: {inline(catalog.window_problem)}")
    parts.append(window_chart(catalog).markdown())
    if catalog.windows:
        parts.append(
            markdown_table(
                ("From (UTC)", "To (UTC)", "WAL", "Timeline"),
                [
                    (
                        f"{w.oldest:%Y-%m-%d %H:%M:%S}",
                        f"{w.newest:%Y-%m-%d %H:%M:%S}",
                        f"{w.oldest_lsn} to {w.newest_lsn}",
                        str(w.timeline),
                    )
                    for w in reversed(catalog.windows[-5:])
                ],
            )
        )
    rows = [_row(backup, catalog.at) for backup in reversed(backups[-_ROWS:])]
    header = ("Backup", "Verified", "Age", "Size", "Stored", "Took")
    if len(backups) > 1:
        parts.append(backups_chart(backups).markdown())
    parts += ["## Newest first", f"Ages as of {_minute(catalog.at)}; {_held(backups)}."]
    parts.append(markdown_table(header, rows))
    older = len(backups) - _ROWS
    if older > 0:
        first = f"the oldest is of {human_time(backups[0].finished_at)}"
        parts.append(f"… and {older:,} older: {first}; `pgproof list` shows all.")
    return "\n\n".join(parts) + "\n"


def catalog_summary(catalog: Catalog) -> str:
    """One line: how many, the newest, and the newest proven one."""
    if not catalog.backups:
        return "No backup yet"
    count, proven = len(catalog.backups), catalog.newest_proven
    told = "none proven" if proven is None else f"newest proven {_minute(proven.finished_at)}"
    newest = _minute(catalog.backups[-1].finished_at)
    return f"{count:,} backup{'s' if count != 1 else ''}; newest {newest}, {told}"


def _held(backups: Sequence[BackupInfo]) -> str:
    size, stored = sum(b.size_bytes for b in backups), sum(b.stored_bytes for b in backups)
    return f"all of them hold {human_size(size)}, stored in {human_size(stored)} ({ratio(size, stored)})"


def _minute(moment: datetime) -> str:
    """An artifact is read later than it was made, so that what stands alone is no age."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _row(backup: BackupInfo, now: datetime) -> tuple[str, ...]:
    """A name says type and time already, and the table has to fit the page: what is as always is left out."""
    kinds = {finding.kind for finding in backup.findings}
    status = [] if backup.status == "ok" else [f"! {backup.status}"]
    where = [kind.replace("-", " ") for kind in ("local-only", "mirror-only") if kind in kinds]
    method = [] if backup.method == PHYSICAL else [backup.method]
    pinned = ["pinned"] if backup.pinned(now) else []
    return (
        f"`{backup.backup_id}`",
        ", ".join([*status, _verified(backup, now), *method, *where, *pinned]),
        age(backup.finished_at, now).removesuffix(" ago"),
        human_size(backup.size_bytes),
        human_size(backup.stored_bytes),
        human_duration(backup.seconds),
    )


def _verified(backup: BackupInfo, now: datetime) -> str:
    """Whether the backup was really started, how far it was verified, and when, if that was not at once."""
    summary = backup.verified
    if summary is None:
        return "never"
    mark = "✗ FAILED" if not summary.ok else "✓ proven" if summary.proven else "passed"
    when = age(summary.at, now)
    return f"{mark} ({summary.level}) {when if when != age(backup.finished_at, now) else ''}".rstrip()


def storage_report(cluster: str, storage: Storage, now: datetime) -> str:
    """What is stored, how that grows, and what it costs."""
    growth = storage.growth
    parts = [f"# Storage of `{cluster}`", f"**{storage_summary(storage)}**"]
    if len(growth.daily) > 1:
        parts.append(growth_chart(growth, now).markdown())
    priced = storage.price is not None
    rows = [
        ("WAL" if kind == "wal" else kind, human_size(nbytes), _cost(storage, nbytes))
        for kind, nbytes in storage.stored.items()
    ]
    rows.append(("in all, now", human_size(storage.stored_bytes), _cost(storage, storage.stored_bytes)))
    rows += [
        (
            f"in {each.days} days",
            f"{human_size(each.bytes)} ({human_size(each.low)} to {human_size(each.high)})",
            _cost(storage, each.bytes),
        )
        for each in growth.forecasts
    ]
    header = ("", "Stored", "Cost a month")
    parts.append(
        markdown_table(header if priced else header[:2], [row if priced else row[:2] for row in rows])
    )
    if growth.per_day is not None:
        sign = "-" if growth.per_day < 0 else "+"
        parts.append(
            f"{sign}{human_size(round(abs(growth.per_day)))} a day: the median of the last {min(90, len(growth.daily) - 1)} "
            "days. The range holds eight in ten of the slopes seen. A retention that has not yet begun to remove "
            "backups is not foreseen."
        )
    notes = [f"No forecast that far: {growth.note}."] if growth.note else []
    if priced:
        notes.append(
            f"Costs: {storage.price:g} for a GB (10⁹ bytes) and a month, without requests and transfer."
        )
    parts += [f"- {inline(note)}" for note in notes]
    parts.append(f"{storage.objects:,} objects in {inline(storage.location)}")
    return "\n\n".join(parts) + "\n"


def storage_summary(storage: Storage) -> str:
    cost = _cost(storage, storage.stored_bytes)
    ahead = [f"about {human_size(each.bytes)} in {each.days} days" for each in storage.growth.forecasts[-1:]]
    return ", ".join(
        [f"{human_size(storage.stored_bytes)} stored", *([f"{cost} a month"] if cost else []), *ahead]
    )


def _cost(storage: Storage, nbytes: int) -> str:
    cost = storage.cost(nbytes)
    if cost is None:
        return ""
    return "< 0.01" if 0 < cost < 0.005 else f"{cost:,.2f}"
