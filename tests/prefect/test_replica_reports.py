"""The chart and the tables of replica health: gaps, limits, names that come from elsewhere, and their size."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from flows.support.replica_charts import lag_chart
from flows.support.replica_reports import (
    changed,
    replica_message,
    replica_report,
    replica_rows,
    replica_summary,
)
from pgproof.model.lag import Lag
from pgproof.model.replica_history import Look, NodeLook
from pgproof.model.replica_problems import problems_of
from pgproof.model.replica_summary import lag_series
from tests.model.test_replica_status import replica, status_of

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
OK, SLOW, DOWN = NodeLook("standby", 0, 0.0), NodeLook("standby", 90 << 20, 75.0), NodeLook("down")


def looks(letters: str, name: str = "r1") -> list[Look]:
    """One a minute up to now: `.` has everything, `x` is behind, `d` is down, ` ` was not looked."""
    nodes = {".": OK, "x": SLOW, "d": DOWN}
    last = len(letters) - 1
    return [
        Look(NOW - timedelta(minutes=last - n), 64 << 20, 30.0, 7, 1, "primary", None, {name: nodes[letter]})
        for n, letter in enumerate(letters)
        if letter != " "
    ]


def paths(letters: str) -> list[str]:
    series = lag_series(looks(letters), NOW, HOUR)
    assert series is not None
    svg = lag_chart(series, "Lag").svg()
    ElementTree.fromstring(svg)
    return re.findall(r'<path d="([^"]+)" style="stroke:var\(--a\)" stroke-width="2"', svg)


def test_a_line_breaks_where_a_node_was_down_or_nobody_looked() -> None:
    whole, broken, gap = paths("...x......"), paths("...dd....."), paths("...      ..")
    assert [path.count("M") for path in whole] == [1, 1]
    assert [path.count("M") for path in broken] == [2, 2]
    assert [path.count("M") for path in gap] == [2, 2]
    # A look that was missed or late breaks nothing.
    assert [path.count("M") for path in paths("... ......")] == [1, 1]


def test_limits_are_drawn_and_a_node_that_is_down_is_red() -> None:
    series = lag_series(looks("....d..x"), NOW, HOUR)
    assert series is not None
    chart = lag_chart(series, "Lag in the last hour")
    svg = chart.svg()
    assert svg.count('stroke-dasharray="5 4"') == 2 and "limit 30 s" in svg and "limit 67.1 MB" in svg
    assert re.search(r'M[\d. ]+H[\d.]+" style="stroke:var\(--w\)" stroke-width="6"', svg)
    assert "1 min 15 s, 94.4 MB behind" in svg
    assert "r1: 1 min 15 s, 94.4 MB behind" in chart.description


def test_a_day_of_three_replicas_is_small_enough_to_be_kept_often() -> None:
    many = [
        replace(look, nodes={f"replica{n}": SLOW if (minute + n) % 7 == 0 else OK for n in range(3)})
        for minute, look in enumerate(looks("." * 1440))
    ]
    status = status_of(replica(lag=Lag(0, 0.0)))
    report = replica_report(replace(status, at=NOW), many, (), None, "")
    assert "Lag in the last hour" in report and "Lag in the last day" in report
    assert len(report) < 60_000


def test_what_is_wrong_comes_first_and_names_break_no_markup() -> None:
    name = "r<1>|&"
    found = status_of(replace(replica(lag=Lag(90 << 20, 1.0)), name=name))
    found = replace(found, problems=problems_of(found))
    rows = replica_rows(found)
    assert rows[1]["Role"] == "✗ standby" and "94.4 MB" in rows[1]["Problem"]
    assert replica_message(found).splitlines()[1].startswith(f"lag-bytes {name}: ")
    assert replica_summary(found) == f"1 wrong: lag-bytes {name}"
    report = replica_report(replace(found, at=NOW), looks("..", name), (), None, "a note")
    assert "**✗ lag-bytes r&lt;1>" in report and "- a note" in report
    (image,) = re.findall(r"base64,([A-Za-z0-9+/=]+)", report)
    ElementTree.fromstring(base64.b64decode(image))


def test_the_report_is_due_when_something_changes() -> None:
    assert changed(looks(".")) and changed(looks(".d"))
    assert not changed(looks("..")) and not changed(looks(".x"))
