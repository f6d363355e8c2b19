"""The lag of replicas over time: points for a chart, and day by day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgproof.model.lsn import Lsn
from pgproof.model.replica_history import Look, NodeLook
from pgproof.model.replica_summary import by_day, lag_series

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)


def look(at: datetime, **nodes: NodeLook) -> Look:
    return Look(at, 1000, 30.0, 7, 1, "primary", Lsn(1), {"primary": NodeLook("primary"), **nodes})


def behind(seconds: float, nbytes: int = 10) -> NodeLook:
    return NodeLook("standby", nbytes, seconds)


DOWN = NodeLook("down")


def test_an_hour_has_each_look_and_what_was_not_known_is_none() -> None:
    looks = [look(NOW - minutes * _MINUTE, a=behind(minutes), b=DOWN) for minutes in range(90, -1, -1)]
    found = lag_series(looks, NOW, timedelta(hours=1))
    assert found is not None and list(found.nodes) == ["a", "b"]
    assert [point.seconds for point in found.nodes["a"]] == [float(n) for n in range(60, -1, -1)]
    assert {(point.seconds, point.nbytes, point.down) for point in found.nodes["b"]} == {(None, None, True)}
    assert found.step == 3 * _MINUTE
    assert lag_series(looks, NOW - timedelta(days=1), timedelta(hours=1)) is None


def test_a_day_keeps_the_worst_of_each_stretch() -> None:
    looks = [look(NOW - minutes * _MINUTE, a=behind(0.1)) for minutes in range(1439, -1, -1)]
    looks[700] = look(looks[700].at, a=behind(500.0, 5000))
    looks[300] = look(looks[300].at, a=DOWN)
    found = lag_series(looks, NOW, timedelta(days=1))
    assert found is not None
    points = found.nodes["a"]
    assert 100 <= len(points) <= 151 and found.step == 30 * _MINUTE
    assert max(point.seconds or 0 for point in points) == 500.0
    assert max(point.nbytes or 0 for point in points) == 5000
    assert sum(point.down for point in points) == 1


def test_days_tell_median_and_share_within_the_limits() -> None:
    midnight = datetime(2026, 11, 26, tzinfo=UTC)
    looks = [look(midnight + minute * _MINUTE, a=behind(1.0)) for minute in range(96)]
    looks += [look(midnight + (96 + n) * _MINUTE, a=bad) for n, bad in enumerate(
        [behind(40.0), behind(1.0, 2000), DOWN, NodeLook("standby", 5000, None)]
    )]  # fmt: skip
    looks.append(look(midnight + timedelta(days=1), a=behind(2.0), b=behind(0.0)))
    days = by_day(looks)
    assert [(str(each.day), each.node) for each in days] == [
        ("2026-11-27", "a"),
        ("2026-11-27", "b"),
        ("2026-11-26", "a"),
    ]
    first = days[-1]
    assert (first.looks, first.within, first.median, first.maximum, first.maximum_bytes) == (
        100,
        0.96,
        1.0,
        40.0,
        5000,
    )
    assert first.p99 is not None and 1.0 < first.p99 < 40.0
    assert by_day([]) == []
    # What cannot be told counts for nothing.
    (unknown,) = by_day([look(NOW, a=NodeLook("standby", 5, None))])
    assert unknown.within is None and unknown.median is None


def test_a_primary_has_no_lag() -> None:
    assert lag_series([look(NOW)], NOW, timedelta(hours=1)) is None
