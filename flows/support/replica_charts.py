"""The chart of the lag of replicas: seconds and bytes over the same time, and when each node answered. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import pairwise

from flows.support.charts import (
    ACCENT,
    BAD,
    GOOD,
    MUTED,
    SECOND,
    THIRD,
    WIDTH,
    Chart,
    TimeScale,
    nice_ceiling,
    short_duration,
)
from flows.support.reports import human_duration, human_size
from pgproof.model.replica_summary import LagSeries, Point

_COLOURS = (ACCENT, SECOND, THIRD, GOOD, MUTED)
_LEFT, _RIGHT = 74, WIDTH - 18
_PANEL, _ROW = 84.0, 32
# More lines cannot be told apart.
_SHOWN = 10


def lag_chart(series: LagSeries, title: str) -> Chart:
    """Dashed lines are the limits. Below, a bar for each node: orange while it did not answer, empty where nobody looked."""
    names = list(series.nodes)[:_SHOWN]
    first, second = 60.0, 60.0 + _PANEL + 34
    rows = second + _PANEL + 44
    chart = Chart(title, _in_words(series), round(rows + _ROW * len(names) + 4))
    scale = TimeScale.over([series.start, series.end])
    chart.text(18, 26, title, kind="h")
    if len(series.nodes) > len(names):
        chart.text(_RIGHT, 26, f"{len(names)} of {len(series.nodes)} replicas", anchor="end")
    chart.time_axis(scale, second, second + _PANEL)
    panels: tuple[tuple[str, float, float, Callable[[Point], float | None], Callable[[float], str]], ...] = (
        ("time behind", first, series.max_lag_seconds, lambda p: p.seconds, short_duration),
        (
            "bytes behind",
            second,
            series.max_lag_bytes,
            lambda p: p.nbytes,
            lambda value: human_size(round(value)),
        ),
    )
    for name, top, limit, value, words in panels:
        bottom = top + _PANEL
        highest = max((value(p) or 0.0 for node in names for p in series.nodes[node]), default=0.0)
        unit = 1 if name == "bytes behind" else next((each for each in (3600, 60) if highest >= each), 1)
        ceiling = unit * nice_ceiling(max(highest, 1.1 * limit) / unit)
        chart.value_axis(top, bottom, ceiling, words)
        chart.text(_LEFT, top - 8, name, kind="v")
        y = round(bottom - limit / ceiling * _PANEL, 1)
        chart.marks([f"M{_LEFT} {y:g}H{_RIGHT}"], BAD, 1.5, dashed=True)
        chart.text(_RIGHT, top - 8, f"limit {words(limit)}", anchor="end")
        for number, node in enumerate(names):
            lines = _lines(scale, series.nodes[node], series.step, value, bottom, ceiling)
            chart.marks(lines, _colour(number), 2, dashed=number >= len(_COLOURS))
    for number, node in enumerate(names):
        points, y = series.nodes[node], rows + number * _ROW
        chart.text(_LEFT, y, node, kind="v")
        chart.text(_RIGHT, y, _now(series.newest[node]), anchor="end")
        for down, colour in ((False, _colour(number)), (True, BAD)):
            chart.marks(
                (f"M{a:g} {y + 8:g}H{b:g}" for a, b in _bars(scale, points, series.step, down)), colour, 6
            )
    return chart


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _lines(
    scale: TimeScale,
    points: Sequence[Point],
    step: timedelta,
    value: Callable[[Point], float | None],
    bottom: float,
    ceiling: float,
) -> Iterator[str]:
    """The steps of one path: broken where the value is not known, or nobody looked."""
    stretch: list[tuple[float, float]] = []
    before: Point | None = None
    for point in points:
        found = value(point)
        if found is None or (before is not None and point.at - before.at > step):
            yield _stretch(stretch)
            stretch = []
        if found is not None:
            stretch.append((scale.x(point.at), round(bottom - min(1.0, found / ceiling) * _PANEL, 1)))
        before = point
    yield _stretch(stretch)


def _stretch(points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return ""
    if len(points) == 1:
        return f"M{points[0][0]:g} {points[0][1]:g}h2"
    # Of a level part its ends are enough.
    kept = [
        here
        for number, here in enumerate(points)
        if number in (0, len(points) - 1) or not points[number - 1][1] == here[1] == points[number + 1][1]
    ]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in kept)


def _bars(
    scale: TimeScale, points: Sequence[Point], step: timedelta, down: bool
) -> Iterator[tuple[float, float]]:
    """From where to where it was so: each look holds until the next one."""
    begin: float | None = None
    for here, after in pairwise([*points, None]):
        assert here is not None
        begin = scale.x(here.at) if begin is None and here.down is down else begin
        if begin is None:
            continue
        if after is not None and after.at - here.at <= step:
            if after.down is down:
                continue
            yield begin, scale.x(after.at)
        else:
            yield begin, max(scale.x(here.at), begin + 2)
        begin = None


def _now(point: Point) -> str:
    if point.down:
        return "does not answer"
    if point.seconds is None and point.nbytes is None:
        return "no replica now"
    if not point.nbytes:
        return "has everything"
    seconds = "" if point.seconds is None else f"{human_duration(point.seconds)}, "
    return f"{seconds}{human_size(point.nbytes)} behind"


def _in_words(series: LagSeries) -> str:
    told = [f"{node}: {_now(newest)}" for node, newest in series.newest.items()]
    return f"{'; '.join(told)}. Limits: {short_duration(series.max_lag_seconds)}, {human_size(series.max_lag_bytes)}"
