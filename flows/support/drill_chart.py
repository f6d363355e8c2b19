"""What a recovery took in a drill, and what it would take now, as two bars of the same parts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from flows.support.charts import ACCENT, MUTED, SECOND, THIRD, WIDTH, Chart, nice_ceiling, short_duration
from flows.support.reports import human_duration
from pgproof.model.drill import DrillReport

_COLOURS = {"choose": MUTED, "restore": ACCENT, "replay": THIRD, "start": SECOND}
# The totals stand right of the longest bar.
_LEFT, _RIGHT = 84, WIDTH - 96
_TOP, _ROW, _BAR = 50, 40, 22


def recovery_chart(report: DrillReport) -> Chart:
    """Checks are no part of a recovery and are left out."""
    measured = [(step.name, step.seconds) for step in report.steps if step.name in _COLOURS]
    bars: list[tuple[str, Sequence[tuple[str, float]]]] = [("measured", measured)]
    if (forecast := report.forecast) is not None:
        ahead = [
            ("choose", forecast.choose_seconds),
            ("restore", forecast.restore_seconds),
            ("replay", forecast.replay_seconds),
            ("start", forecast.start_seconds),
        ]
        bars.append(("forecast", ahead))
    totals = [sum(seconds for _name, seconds in parts) for _word, parts in bars]
    ceiling = nice_ceiling(max(totals))
    told = "; ".join(f"{bar[0]} {human_duration(total)}" for bar, total in zip(bars, totals, strict=True))
    bottom = _TOP + _ROW * len(bars)
    chart = Chart("Time of a recovery", told, bottom + 30)
    chart.text(18, 26, "Time of a recovery", kind="h")
    chart.legend(26, _COLOURS.items())

    def x(seconds: float) -> float:
        return round(_LEFT + seconds / ceiling * (_RIGHT - _LEFT), 1)

    for share in (0.0, 0.5, 1.0):
        chart.line(x(share * ceiling), _TOP - 6, x(share * ceiling), bottom)
        chart.text(x(share * ceiling), bottom + 16, short_duration(share * ceiling), anchor="middle")
    for number, (word, parts) in enumerate(bars):
        top, begin = _TOP + number * _ROW, 0.0
        chart.text(_LEFT - 10, top + 15, word, anchor="end", kind="v")
        for name, seconds in parts:
            left, right = x(begin), x(begin + seconds)
            chart.marks([f"M{left:g} {top + _BAR / 2:g}H{right:g}"], _COLOURS[name], _BAR)
            begin += seconds
        chart.text(x(begin) + 8, top + 15, human_duration(begin), kind="v")
    return chart
