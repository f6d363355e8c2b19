"""`stats`, and the words about a repository that it shares with `list`."""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.model.config import BackupType

if TYPE_CHECKING:
    from pgproof.model.overview import Catalog, Overview, Storage
    from pgproof.model.wal_status import Restorable

_WINDOWS_SHOWN = 5


def add_commands(commands: Subparsers) -> None:
    add_command(
        commands,
        "stats",
        stats,
        "show what the repository holds, how it grows and what it costs",
        "Show what the repository holds, which moments can be restored, how it grows and, where\n"
        "storage_price_per_gb_month is configured, what it costs.",
    )


def stats(args: argparse.Namespace, screen: Screen) -> int:
    found = wait_for(open_backups(args).stats())
    screen.document(found.to_json())
    screen.figures(figures(found))
    return Exit.OK


def figures(found: Overview) -> list[tuple[str, str]]:
    catalog, storage = found.catalog, found.storage
    return [
        ("cluster", catalog.cluster),
        ("location", storage.location),
        *_backups(catalog),
        *window_figures(catalog),
        *_storage(storage),
    ]


def _backups(catalog: Catalog) -> list[tuple[str, str]]:
    backups, now = catalog.backups, catalog.at
    if not backups:
        return [("backups", "none yet")]
    kinds = [backup.type for backup in backups]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in BackupType if kind in kinds)
    facts = {
        "proven": sum(backup.proven for backup in backups),
        "NOT ok": sum(backup.status != "ok" for backup in backups),
        "pinned": sum(backup.pinned(now) for backup in backups),
    }
    told = "".join(f", {count} {word}" for word, count in facts.items() if count or word == "proven")
    proven = catalog.newest_proven
    size, stored = sum(b.size_bytes for b in backups), sum(b.stored_bytes for b in backups)
    return [
        ("backups", f"{len(backups):,}: {counts}{told}"),
        ("oldest", text.when(backups[0].finished_at, now)),
        ("newest", text.when(backups[-1].finished_at, now)),
        ("newest proven", "none" if proven is None else text.when(proven.finished_at, now)),
        ("they hold", f"{text.size(size)}, stored in {text.size(stored)} ({text.ratio(size, stored)})"),
    ]


def window_figures(catalog: Catalog) -> list[tuple[str, str]]:
    """The newest stretches of time that can be restored, the newest one first."""
    if catalog.window_problem:
        return [("restorable", f"unknown: {catalog.window_problem}")]
    shown = catalog.windows[-_WINDOWS_SHOWN:]
    lines = [window_words(window, catalog.at) for window in reversed(shown)]
    if older := len(catalog.windows) - len(shown):
        lines.append(f"and {older} older")
    return [("restorable" if not number else "", line) for number, line in enumerate(lines)]


def window_words(window: Restorable, now: datetime) -> str:
    """From when to when, in seconds where minutes would be the same; where no WAL follows, only the end of a backup."""
    if window.newest <= window.oldest:
        return f"only {text.when(window.oldest, now)}"
    short = window.newest - window.oldest < timedelta(minutes=2)
    return " to ".join(text.when(each, now, seconds=short) for each in (window.oldest, window.newest))


def _storage(storage: Storage) -> list[tuple[str, str]]:
    def priced(nbytes: float) -> str:
        cost = storage.cost(nbytes)
        return text.size(nbytes) if cost is None else f"{text.size(nbytes)}, {cost:,.2f} a month"

    kinds = ", ".join(
        f"{'WAL' if kind == 'wal' else kind} {text.size(nbytes)}" for kind, nbytes in storage.stored.items()
    )
    growth = storage.growth
    rows = [("stored in all", f"{priced(storage.stored_bytes)} ({kinds}; {storage.objects:,} objects)")]
    if growth.per_day is not None:
        rows.append(("a day adds", f"{'-' if growth.per_day < 0 else ''}{text.size(abs(growth.per_day))}"))
    for each in growth.forecasts:
        between = f"{text.size(each.low)} to {text.size(each.high)}"
        rows.append((f"in {each.days} days", f"{priced(each.bytes)} ({between})"))
    if growth.note:
        rows.append(("forecast", growth.note))
    return rows
