"""Sizes, durations, ages and tables as text. Pure; the time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(nbytes: float) -> str:
    """Decimal units with three digits: `38.4 MB`."""
    value = float(nbytes)
    index = 0
    while value >= 999.5 and index < len(_UNITS) - 1:
        value /= 1000
        index += 1
    unit = _UNITS[index]
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def ratio(size: float, stored: float) -> str:
    """How many times smaller: `5.7 : 1`; `–` where nothing was stored."""
    if not stored:
        return "–"
    return f"{size / stored:.1f} : 1" if size < 99.95 * stored else f"{size / stored:,.0f} : 1"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `4 min 05 s`, `3 h 20 min`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def age(then: datetime, now: datetime) -> str:
    """How long ago, in one unit: `5 min ago`; `in 5 min` for a time that is still to come."""
    seconds = (now - then).total_seconds()
    amount = abs(seconds)
    if amount < 1:
        return "just now"
    if amount < 60:
        words = f"{int(amount)} s"
    elif amount < 3600:
        words = f"{amount // 60:.0f} min"
    elif amount < 48 * 3600:
        words = f"{amount // 3600:.0f} h"
    else:
        words = f"{amount // 86400:.0f} d"
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def when(moment: datetime, now: datetime, zone: tzinfo | None = None, *, seconds: bool = False) -> str:
    """Local time (or that of `zone`) and age: `2026-11-23 02:30 (5 h ago)`."""
    time = "%H:%M:%S" if seconds else "%H:%M"
    return f"{moment.astimezone(zone):%Y-%m-%d {time}} ({age(moment, now)})"


def printable(text: str) -> str:
    """`text` without characters that could steer a terminal; line ends stay."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text; every row has as many cells as there are columns."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Plain text with aligned columns, titles first."""
        titles = [column.title for column in self.columns]
        rows = [titles, *([printable(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[index]) for row in rows) for index in range(len(titles))]
        return [
            "  ".join(
                cell.rjust(width) if column.right else cell.ljust(width)
                for cell, width, column in zip(row, widths, self.columns, strict=True)
            ).rstrip()
            for row in rows
        ]
