"""Small charts as SVG, for reports in the UI. Pure: values in, text out.

The UI strips SVG out of Markdown but shows images, so a chart is an image. It carries its own background and follows the
UI's theme by `prefers-color-scheme`, which for an image is that of the page around it: whatever a browser makes of that, text
and background fit each other. One path draws all marks of a kind, because every version of an artifact is kept.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape

WIDTH = 760
_LEFT, _RIGHT = 74, 18
# Marks at the very first and last moment are whole.
_INSET = 6
_STYLE = """
svg{--c:#fff;--e:#d4d4d8;--t:#27272a;--m:#6b6b75;--g:#e4e4e7;--a:#2563eb;--b:#0f766e;--d:#7c3aed;--k:#15803d;--w:#c2410c}
@media(prefers-color-scheme:dark){svg{--c:#303036;--e:#4b4b53;--t:#f4f4f5;--m:#b4b4bd;--g:#45454d;--a:#6ea8fe;--b:#2dd4bf;
--d:#b79cfb;--k:#4ade80;--w:#fb923c}}
text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--m)}
.h{font-size:14px;font-weight:600;fill:var(--t)}.v{fill:var(--t)}
.card{fill:var(--c);stroke:var(--e)}.grid{stroke:var(--g);fill:none}.now{stroke:var(--m);stroke-dasharray:2 3;fill:none}
"""
# The colours of _STYLE by what they stand for.
ACCENT, SECOND, THIRD, GOOD, BAD, MUTED = (f"var(--{name})" for name in "abdkwm")

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_STEPS = (
    *((n * _MINUTE, "%H:%M") for n in (1, 5, 15, 30)),
    *((n * _HOUR, "%H:%M") for n in (1, 3, 6)),
    (12 * _HOUR, "%d %b %H:%M"),
    *((n * _DAY, "%d %b") for n in (1, 2, 7, 14, 28)),
    *((n * _DAY, "%b %Y") for n in (91, 182, 364)),
)
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TimeScale:
    """From moments to places between the margins."""

    start: datetime
    end: datetime

    @classmethod
    def over(cls, moments: Iterable[datetime]) -> TimeScale:
        """All of these, and at least a minute."""
        found = sorted(moments)
        return cls(found[0], max(found[-1], found[0] + _MINUTE))

    def x(self, at: datetime) -> float:
        share = (at - self.start) / (self.end - self.start)
        width = WIDTH - _LEFT - _RIGHT - 2 * _INSET
        return round(_LEFT + _INSET + min(1.0, max(0.0, share)) * width, 1)

    def ticks(self) -> list[tuple[datetime, str]]:
        """At most seven, at round times in UTC."""
        span = self.end - self.start
        step, form = next(
            (each for each in _STEPS if span / each[0] <= 7), (math.ceil(span / _DAY / 7) * _DAY, "%Y")
        )
        at = _MONDAY + math.ceil((self.start - _MONDAY) / step) * step
        found = []
        while at <= self.end:
            found.append((at, at.strftime(form)))
            at += step
        return found


def nice_ceiling(value: float) -> float:
    """The least round number that is not less."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(each * power for each in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if each * power >= value * (1 - 1e-9))


def short_duration(seconds: float) -> str:
    """For axes: `0 s`, `2.5 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


@dataclass
class Chart:
    """A card of a height that collects elements; `title` and `description` are for those who cannot see it."""

    title: str
    description: str
    height: int
    _parts: list[str] = field(default_factory=list)

    def add(self, element: str) -> None:
        self._parts.append(element)

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> None:
        shown = f' class="{kind}"' if kind else ""
        self.add(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{shown}>{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> None:
        self.add(f'<path class="{kind}" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>')

    def marks(self, steps: Iterable[str], colour: str, width: float = 2.0, *, dashed: bool = False) -> None:
        """Strokes, as the steps of one path."""
        path = "".join(steps)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        if path:
            self.add(f'<path d="{path}" style="stroke:{colour}" stroke-width="{width:g}" fill="none"{dash}/>')

    def area(self, points: Sequence[tuple[float, float]], colour: str, opacity: float) -> None:
        outline = "L".join(f"{x:g} {y:g}" for x, y in points)
        self.add(f'<path d="M{outline}Z" style="fill:{colour}" fill-opacity="{opacity:g}"/>')

    def dots(self, points: Iterable[tuple[float, float]], colour: str, radius: float) -> None:
        """Discs: a stroke of no length with round ends is one."""
        path = "".join(f"M{x:g} {y:g}h0" for x, y in points)
        if path:
            self.add(
                f'<path d="{path}" style="stroke:{colour}" stroke-width="{2 * radius:g}" stroke-linecap="round"/>'
            )

    def legend(self, y: float, entries: Iterable[tuple[str, str]]) -> None:
        """Right-aligned words behind coloured squares."""
        # Nobody here knows the widths of letters: words get the room that wide ones need.
        x = float(WIDTH - _RIGHT)
        for word, colour in reversed(list(entries)):
            x -= 6.3 * len(word) + 28
            self.add(f'<rect x="{x:g}" y="{y - 9:g}" width="9" height="9" rx="2" style="fill:{colour}"/>')
            self.text(x + 14, y, word)

    def time_axis(self, scale: TimeScale, top: float, bottom: float) -> None:
        """Vertical grid lines with their times below."""
        for at, label in scale.ticks():
            x = scale.x(at)
            self.line(x, top, x, bottom)
            self.text(min(max(x, _LEFT), WIDTH - _RIGHT - 14), bottom + 16, label, anchor="middle")

    def value_axis(self, top: float, bottom: float, ceiling: float, words: Callable[[float], str]) -> None:
        """Zero, the middle and the ceiling, as horizontal lines with their values on the left."""
        for share in (0.0, 0.5, 1.0):
            y = bottom - share * (bottom - top)
            self.line(_LEFT, y, WIDTH - _RIGHT, y)
            self.text(_LEFT - 8, y + 4, words(share * ceiling), anchor="end")

    def svg(self) -> str:
        title, description = escape(self.title), escape(self.description)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
            f'height="{self.height}" role="img" aria-labelledby="t d"><title id="t">{title}</title>'
            f'<desc id="d">{description}</desc><style>{"".join(_STYLE.splitlines())}</style>'
            f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{self.height - 1}" rx="10"/>'
            f"{''.join(self._parts)}</svg>"
        )

    def markdown(self) -> str:
        """The chart as an image in Markdown, its description in place of what cannot be seen."""
        data = base64.b64encode(self.svg().encode()).decode()
        words = f"{self.title}. {self.description}"
        alt = " ".join(words.split()).translate(str.maketrans("[]\\<>`", "()/()'"))
        return f"![{alt}](data:image/svg+xml;base64,{data})"
