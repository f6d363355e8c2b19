from datetime import UTC, datetime, timedelta, timezone

import pytest

from pgproof.cli.text import Column, Table, age, duration, printable, size, when

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (38_400_000, "38.4 MB"),
        (1_200_000_000_000, "1.20 TB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_size(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "0.00 s"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.6, "1 h 00 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(0), "just now"),
        (timedelta(milliseconds=-300), "just now"),
        (timedelta(seconds=1), "1 s ago"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=5, seconds=59), "5 min ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=30), "30 d ago"),
        (timedelta(hours=-3), "in 3 h"),
    ],
)
def test_age(ago: timedelta, text: str) -> None:
    assert age(NOW - ago, NOW) == text


def test_when_is_local_time_and_age() -> None:
    zone = timezone(timedelta(hours=2))
    assert when(NOW - timedelta(hours=1), NOW, zone) == "2026-11-23 13:00 (1 h ago)"


def test_printable_leaves_nothing_that_steers_a_terminal() -> None:
    assert printable("Größe ✓\nnext\x1b[31m\x07\x9b") == "Größe ✓\nnext\\x1b[31m\\x07\\x9b"


def test_table_aligns_its_columns_and_ends_lines_without_blanks() -> None:
    table = Table(
        [Column("id"), Column("size", right=True), Column("note")], [("a", "100", ""), ("bcd", "2", "x")]
    )
    assert table.lines() == ["id   size  note", "a     100", "bcd     2  x"]
