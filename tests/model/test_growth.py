"""How stored bytes grow: what cleanups removed counts, and no forecast goes further than the history allows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.growth import Removal, growth, monthly_cost, net_by_day

TODAY = date(2026, 11, 26)
GB = 10**9


def days_ago(count: int) -> date:
    return TODAY - timedelta(days=count)


def backup_id(day: date, kind: str = "full") -> str:
    return f"{day:%Y%m%d}T023000Z-{kind}-abcdef"


def steady(history: int, per_day: int) -> dict[date, int]:
    return {days_ago(count): per_day for count in range(history + 1)}


def test_a_steady_growth_goes_on() -> None:
    found = growth(steady(60, 2 * GB), TODAY)
    assert found.daily[0] == (days_ago(60), 2 * GB) and found.daily[-1] == (TODAY, 122 * GB)
    assert found.per_day == pytest.approx(2 * GB)
    assert [(each.days, each.bytes) for each in found.forecasts] == [(30, 182 * GB), (90, 302 * GB)]
    assert found.note == ""


@pytest.mark.parametrize(
    ("history", "horizons", "words"),
    [
        (0, [], "0 days of history tell too little for 30 days ahead: that takes 10"),
        (1, [], "1 day of history"),
        (9, [], "9 days of history"),
        (10, [30], "10 days of history tell too little for 90 days ahead: that takes 30"),
        (30, [30, 90], ""),
    ],
)
def test_a_short_history_is_said_to_be_one(history: int, horizons: list[int], words: str) -> None:
    found = growth(steady(history, GB), TODAY)
    assert [each.days for each in found.forecasts] == horizons
    assert found.note.startswith(words) and bool(found.note) == bool(words)
    assert (found.per_day is None) == (not horizons)


def test_one_large_backup_does_not_bend_the_slope() -> None:
    net = steady(60, GB)
    net[days_ago(3)] += 500 * GB
    found = growth(net, TODAY)
    assert found.per_day == pytest.approx(GB, rel=0.2)
    assert found.forecasts[0].bytes == pytest.approx(591 * GB, rel=0.02)


def test_a_repository_that_only_turns_over_does_not_grow() -> None:
    """Seven days are kept; each evening a cleanup removes the day before them."""
    present = {days_ago(count): 10 * GB for count in range(7)}
    removals = [
        Removal(
            datetime.combine(days_ago(count), datetime.max.time(), UTC),
            10 * GB,
            (backup_id(days_ago(count + 7)),),
        )
        for count in range(100)
    ]
    found = growth(net_by_day(present, removals, {"full": 10 * GB}), TODAY)
    assert found.daily[-1] == (TODAY, 70 * GB)
    assert {stored for _day, stored in found.daily[-90:]} == {70 * GB}
    assert found.per_day == 0 and found.forecasts[1].bytes == 70 * GB


def test_what_was_freed_is_shared_out_by_what_such_backups_store() -> None:
    ids = tuple(backup_id(days_ago(day), kind) for day, kind in ((9, "full"), (8, "incremental")))
    removal = Removal(datetime.combine(days_ago(1), datetime.min.time(), UTC), 11 * GB, ids)
    net = net_by_day({TODAY: GB}, [removal], {"full": 10.0, "incremental": 1.0})
    assert net == {days_ago(9): 10 * GB, days_ago(8): GB, days_ago(1): -11 * GB, TODAY: GB}


def test_a_cleanup_that_removed_no_backup_says_nothing_about_when_its_bytes_came() -> None:
    removal = Removal(datetime.combine(TODAY, datetime.min.time(), UTC), GB, ())
    assert net_by_day({TODAY: 5}, [removal], {}) == {TODAY: 5}


def test_an_empty_repository_has_no_growth() -> None:
    found = growth({}, TODAY)
    assert (found.daily, found.per_day, found.forecasts) == ((), None, ()) and found.note


def test_what_comes_from_the_future_counts_today() -> None:
    assert growth({TODAY + timedelta(days=40): GB}, TODAY).daily == ((TODAY, GB),)


@given(
    st.dictionaries(
        st.dates(date(2026, 1, 1), date(2026, 12, 31)), st.integers(-(10**15), 10**15), max_size=40
    )
)
def test_no_history_leads_below_zero_or_out_of_order(net: dict[date, int]) -> None:
    found = growth(net, TODAY)
    assert all(stored >= 0 for _day, stored in found.daily)
    assert [day for day, _stored in found.daily] == sorted({day for day, _stored in found.daily})
    for each in found.forecasts:
        assert 0 <= each.low <= each.bytes <= each.high


def test_a_price_is_for_ten_to_the_ninth_bytes() -> None:
    assert monthly_cost(500 * GB, 0.023) == pytest.approx(11.5)
