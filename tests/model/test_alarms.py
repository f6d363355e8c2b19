"""Each alarm is told once, again after a day, and its recovery once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.alarms import CLAIM, REMIND, Message, Record, what_to_tell
from pgproof.model.objectives import Broken

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def broken(*keys: str) -> list[Broken]:
    return [Broken(key, f"{key} is broken", "mend it") for key in keys]


def tell(record: Record | None, keys: str, at: datetime) -> Message | None:
    return what_to_tell("main", record, broken(*keys), at)


def test_told_once_again_after_a_day_and_recovered_once() -> None:
    first = tell(None, "ab", NOON)
    assert first is not None and [each.key for each in first.new] == ["a", "b"]
    assert first.subject == "pgproof main: 2 broken (a, b)"
    assert "a: a is broken\nHINT: mend it" in first.body
    record = Record(NOON, open=first.open)
    assert tell(record, "ab", NOON + REMIND - timedelta(seconds=1)) is None
    # What is new does not bring what is known along.
    second = tell(record, "abc", NOON + timedelta(hours=1))
    assert second is not None and "a:" not in second.body and "c:" in second.body
    again = tell(record, "ab", NOON + REMIND)
    assert again is not None and not again.new and "still so, for 24 h" in again.body
    assert again.open["a"].since == NOON
    assert tell(Record(NOON + REMIND, open=again.open), "ab", NOON + REMIND + timedelta(hours=23)) is None
    better = tell(record, "a", NOON + timedelta(hours=3))
    assert better is not None and better.body == "b: recovered after 3 h"
    over = tell(record, "", NOON + timedelta(hours=5))
    assert over is not None and over.subject == "pgproof main: recovered"
    assert tell(Record(NOON, open=over.open), "", NOON) is None


def test_a_claim_holds_ten_minutes() -> None:
    claim = Record(NOON, done=False)
    assert tell(claim, "a", NOON + CLAIM - timedelta(seconds=1)) is None
    assert tell(claim, "a", NOON + CLAIM) is not None


def test_a_record_survives_json() -> None:
    message = tell(None, "ab", NOON)
    assert message is not None
    record = Record(NOON, done=False, open=message.open)
    assert Record.from_json(record.to_json()) == record
    for wrong in ({}, {"at": "x", "done": True, "open": {}}, {"at": NOON.isoformat(), "open": []}):
        with pytest.raises(DataError, match="damaged"):
            Record.from_json(wrong)


@given(st.lists(st.tuples(st.frozensets(st.sampled_from("abc")), st.integers(1, 400)), max_size=30))
def test_every_change_is_told_exactly_once(looks: list[tuple[frozenset[str], int]]) -> None:
    record, now, known = Record(NOON), NOON, frozenset[str]()
    for keys, minutes in looks:
        now += timedelta(minutes=minutes)
        message = tell(record, "".join(sorted(keys)), now)
        if message is None:
            assert keys == known
            assert all(now - alarm.told < REMIND for alarm in record.open.values())
            continue
        assert {each.key for each in message.new} == keys - known
        assert {key for key, _lasted in message.recovered} == known - keys
        record, known = Record(now, open=message.open), keys
        assert set(record.open) == known
