"""The charts of the catalog: what can be restored, what each backup took, and what is stored. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time, timedelta

from flows.support.charts import (
    ACCENT,
    BAD,
    GOOD,
    SECOND,
    THIRD,
    WIDTH,
    Chart,
    TimeScale,
    nice_ceiling,
    short_duration,
)
from flows.support.reports import human_duration, human_size
from pgproof.model.config import BackupType
from pgproof.model.growth import Growth
from pgproof.model.overview import Catalog
from pgproof.model.report import BackupInfo

_COLOURS = {
    BackupType.FULL: ACCENT,
    BackupType.DIFFERENTIAL: THIRD,
    BackupType.INCREMENTAL: SECOND,
}
_LEFT, _RIGHT = 74, WIDTH - 18
_ROW = 30
_CHARTED = 120


def window_chart(catalog: Catalog) -> Chart:
    """A bar for each stretch of time that can be restored, a row for each timeline; the backups as ticks above."""
    windows, backups = catalog.windows, catalog.backups
    begins = [*(w.oldest for w in windows), *(b.finished_at for b in backups)]
    scale = TimeScale.over([*begins, catalog.at])
    timelines = sorted({window.timeline for window in windows}) or [1]
    proofs = [each for each in backups if each.proven]
    failed = [each for each in backups if each.verified is not None and not each.verified.ok]
    chart = Chart(
        "Moments that can be restored",
        f"{len(windows)} stretch{'es' if len(windows) != 1 else ''} of time, {len(backups)} backups, {len(proofs)} proven",
        110 + _ROW * len(timelines),
    )
    chart.text(18, 26, "Moments that can be restored", kind="h")
    kinds = [kind for kind in BackupType if any(backup.type is kind for backup in backups)]
    marks = [*([("proven", GOOD)] if proofs else []), *([("failed", BAD)] if failed else [])]
    chart.legend(26, [*((str(kind), _COLOURS[kind]) for kind in kinds), *marks])
    bottom = 74 + _ROW * len(timelines)
    chart.time_axis(scale, 40, bottom)
    for row, timeline in enumerate(timelines):
        top = 74 + row * _ROW
        if len(timelines) > 1:
            chart.text(_LEFT - 8, top + 13, f"timeline {timeline}", anchor="end")
        for window in (each for each in windows if each.timeline == timeline):
            left = scale.x(window.oldest)
            width = max(3.0, scale.x(window.newest) - left)
            chart.add(
                f'<rect x="{left:g}" y="{top}" width="{width:g}" height="18" rx="3" style="fill:{ACCENT}" fill-opacity=".35"/>'
            )
    for kind in kinds:
        some = [backup for backup in backups if backup.type is kind]
        length = 14 if kind is BackupType.FULL else 9
        chart.marks((f"M{x} 62v-{length}" for x in _pixels(scale, some)), _COLOURS[kind], 2)
    for some, colour in ((proofs, GOOD), (failed, BAD)):
        chart.dots(((x, 67) for x in _pixels(scale, some)), colour, 3.5)
    return chart


def _pixels(scale: TimeScale, backups: Iterable[BackupInfo]) -> list[int]:
    """Where there are ticks; of ten thousand backups most share one with others."""
    return sorted({round(scale.x(backup.finished_at)) for backup in backups})


def backups_chart(backups: Sequence[BackupInfo]) -> Chart:
    """Size, what was stored, and duration of the newest backups, one below the other over the same time."""
    backups = backups[-_CHARTED:]
    scale = TimeScale.over(backup.finished_at for backup in backups)
    newest = backups[-1]
    chart = Chart(
        "Size, stored and duration of each backup",
        f"{len(backups)} backups; the newest has {human_size(newest.size_bytes)}, stored "
        f"{human_size(newest.stored_bytes)} in {human_duration(newest.seconds)}",
        334,
    )
    chart.text(18, 26, "Each backup", kind="h")
    kinds = [kind for kind in BackupType if any(backup.type is kind for backup in backups)]
    chart.legend(26, [(str(kind), _COLOURS[kind]) for kind in kinds])
    panels: tuple[tuple[str, Callable[[BackupInfo], float], Callable[[float], str]], ...] = (
        ("size", lambda b: b.size_bytes, lambda value: human_size(round(value))),
        ("stored", lambda b: b.stored_bytes, lambda value: human_size(round(value))),
        ("duration", lambda b: b.seconds, short_duration),
    )
    width = 2.0 if len(backups) > 60 else 4.0 if len(backups) > 20 else 7.0
    for number, (name, value, words) in enumerate(panels):
        top, bottom = 58.0 + number * 92, 114.0 + number * 92
        chart.time_axis(scale, top, bottom) if number == len(panels) - 1 else None
        ceiling = nice_ceiling(max(map(value, backups)))
        chart.value_axis(top, bottom, ceiling, words)
        chart.text(_LEFT, top - 8, name, kind="v")
        for kind in kinds:
            bars = (
                f"M{scale.x(b.finished_at):g} {bottom:g}v{-max(1.0, value(b) / ceiling * (bottom - top)):.1f}"
                for b in backups
                if b.type is kind
            )
            chart.marks(bars, _COLOURS[kind], width)
    return chart


def growth_chart(growth: Growth, now: datetime) -> Chart:
    """What was stored day by day, and with dashes where that leads; the paler part is where it may go."""
    days = [datetime.combine(day, time(12), UTC) for day, _stored in growth.daily]
    values = [stored for _day, stored in growth.daily]
    ahead = [(now + timedelta(days=each.days), each) for each in growth.forecasts]
    scale = TimeScale.over([*days, now, *(at for at, _each in ahead)])
    ceiling = nice_ceiling(max([*values, *(each.high for each in growth.forecasts)]))
    told = "; ".join(f"about {human_size(each.bytes)} in {each.days} days" for each in growth.forecasts)
    chart = Chart("Stored bytes", f"{human_size(values[-1])} now; {told or growth.note}", 246)
    chart.text(18, 26, "Stored in all", kind="h")
    chart.legend(26, [("stored", ACCENT), *([("forecast", BAD)] if ahead else [])])
    top, bottom = 48.0, 206.0

    def y(nbytes: float) -> float:
        return round(bottom - nbytes / ceiling * (bottom - top), 1)

    chart.time_axis(scale, top, bottom)
    chart.value_axis(top, bottom, ceiling, lambda value: human_size(round(value)))
    points = [(scale.x(min(at, now)), y(value)) for at, value in zip(days, values, strict=True)]
    points.append((scale.x(now), points[-1][1]))
    chart.area([(points[0][0], bottom), *points, (points[-1][0], bottom)], ACCENT, 0.18)
    chart.marks(["M" + "L".join(f"{px:g} {py:g}" for px, py in points)], ACCENT, 2)
    if ahead:
        here = points[-1]
        upper = [(scale.x(at), y(each.high)) for at, each in ahead]
        lower = [(scale.x(at), y(each.low)) for at, each in reversed(ahead)]
        middle = [(scale.x(at), y(each.bytes)) for at, each in ahead]
        chart.area([here, *upper, *lower], BAD, 0.15)
        chart.marks(["M" + "L".join(f"{px:g} {py:g}" for px, py in [here, *middle])], BAD, 2, dashed=True)
        chart.dots(middle, BAD, 3.5)
        for (px, py), (_at, each) in zip(middle, ahead, strict=True):
            chart.text(px - 6, py - 10, human_size(each.bytes), anchor="end", kind="v")
        chart.line(here[0], top, here[0], bottom, "now")
        chart.text(here[0] + 5, top + 11, "now")
    return chart
