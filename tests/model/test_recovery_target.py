"""Targets as users write them, WAL records as pg_waldump prints them, and stopping points."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from pgproof.errors import DataError, PreconditionError
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_target import RecoveryTarget, TargetKind, parse_time, target_from
from pgproof.model.stop_point import StopPoint, shown
from pgproof.model.wal_records import parse_record, restore_point, transaction_end

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "text",
    ["2026-11-25 13:00", "2026-11-25T12:00:00Z", "2026-11-25 12:00:00 UTC", "2026-11-25 17:30:00+05:30"],
)
@pytest.mark.usefixtures("berlin")
def test_a_time_without_an_offset_is_local(text: str) -> None:
    assert parse_time(text) == NOON


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("text", ["2026-10-25 02:30:00", "2026-03-29 02:30:00"])
def test_a_time_that_the_clocks_show_twice_or_never_is_refused(text: str) -> None:
    with pytest.raises(PreconditionError, match=r"twice or not at all(?s:.*)\+00:00"):
        parse_time(text)
    assert parse_time(f"{text}+01:00").tzinfo is UTC


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        ({"time": NOON}, TargetKind.TIME, NOON),
        ({"time": NOON.astimezone(timezone(timedelta(hours=-7)))}, TargetKind.TIME, NOON),
        ({"lsn": "16/B374D848"}, TargetKind.LSN, Lsn.parse("16/B374D848")),
        ({"xid": "4294968296"}, TargetKind.XID, 1000),
        ({"name": "before the change"}, TargetKind.NAME, "before the change"),
        ({"backup_end": True}, TargetKind.BACKUP_END, None),
    ],
)
def test_one_target_is_read(given: dict[str, object], kind: TargetKind, value: object) -> None:
    assert target_from(**given) == RecoveryTarget(kind, value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"time": "yesterday"},
        {"time": "2026-13-01"},
        {"lsn": "16-B3"},
        {"xid": "0"},
        {"xid": "-5"},
        {"xid": "7" * 30},
        {"name": ""},
        {"name": "x" * 64},
        {"time": "2026-11-25 12:00", "lsn": "0/1"},
        {"xid": 5, "backup_end": True},
        {"inclusive": False},
        {"name": "n", "inclusive": False},
        {"backup_end": True, "inclusive": False},
    ],
)
def test_what_is_no_single_target_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(PreconditionError) as refused:
        target_from(**given)  # type: ignore[arg-type]
    assert refused.value.hint
    assert target_from() is None


@pytest.mark.parametrize(
    ("line", "xid", "committed"),
    [
        (
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        738, lsn: 0/0154B3B8, prev 0/0154B378, "
            "desc: COMMIT 2026-11-25 12:00:00.000000 UTC\n",
            738,
            True,
        ),
        (
            "rmgr: Transaction len (rec/tot):    133/   133, tx:          0, lsn: A/0154B3B8, prev 0/0154B378, "
            "desc: COMMIT_PREPARED 739: 2026-11-25 12:00:00.000000 UTC; inval msgs: catcache 7 gid g\n",
            739,
            True,
        ),
        (
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        740, lsn: 0/0154B3B8, prev 0/0154B378, "
            "desc: ABORT 2026-11-25 12:00:00.000000 UTC\n",
            740,
            False,
        ),
    ],
)
def test_the_ends_of_transactions_are_read(line: str, xid: int, committed: bool) -> None:
    record = parse_record(line)
    assert record
    end = transaction_end(record)
    assert end
    assert (end.xid, end.time, end.committed) == (xid, NOON, committed)


def test_other_records_are_neither_ends_of_transactions_nor_restore_points() -> None:
    record = parse_record(
        "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/03000110, prev 0/030000D8, "
        "desc: RESTORE_POINT before COMMIT 7"
    )
    assert record
    assert restore_point(record) == "before COMMIT 7"
    assert transaction_end(record) is None
    assert parse_record("pg_waldump: first record is after 0/3000000, at 0/3000028") is None


def test_every_other_target_is_cleared_before_the_one_that_counts() -> None:
    settings = list(StopPoint(Lsn(5), Lsn(9), inclusive=False).all_settings().items())
    assert settings[-1] == ("recovery_target_lsn", "0/9")
    assert ("recovery_target_inclusive", "false") in settings
    assert {name for name, value in settings if not value} == {
        "recovery_target",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    }
    assert StopPoint(Lsn(5), backup_end=True).target_settings() == {"recovery_target": "immediate"}
    assert StopPoint(Lsn(5)).target_settings() == {}
    assert len(StopPoint(Lsn(5)).all_settings()) == 5


def test_an_end_before_or_behind_the_promised_one_is_damage() -> None:
    stop = StopPoint(Lsn(100), Lsn(150), inclusive=False)
    stop.refuse_wrong_end(Lsn(150))
    for wrong in (100, 151):
        with pytest.raises(DataError, match="promised"):
            stop.refuse_wrong_end(Lsn(wrong))
    StopPoint(Lsn(150), Lsn(150)).refuse_wrong_end(Lsn(180))
    with pytest.raises(DataError, match="ended before"):
        StopPoint(Lsn(150)).refuse_wrong_end(Lsn(150))


def test_times_are_shown_in_utc_on_the_local_clock_and_as_an_age() -> None:
    text = shown(NOON, NOON + timedelta(hours=26, minutes=3), ZoneInfo("Europe/Berlin"))
    assert text == "2026-11-25 12:00:00.000000 UTC, 2026-11-25 13:00:00 CET here, 1 d 2 h ago"
    assert shown(NOON, NOON - timedelta(minutes=2), UTC).endswith("in 2 min")
