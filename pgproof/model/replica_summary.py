"""The lag of replicas over time, from looks: as points for a chart, and day by day. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pgproof.model.replica_history import Look, NodeLook
from pgproof.model.replica_status import Role

if TYPE_CHECKING:
    import pandas as pd

# More points than this are too many to be told apart.
_POINTS = 150
_STEPS = tuple(timedelta(minutes=each) for each in (1, 2, 5, 10, 15, 30, 60, 120, 240))


@dataclass(frozen=True, slots=True)
class Point:
    """The worst of a node from `at` on: what is None was not known at any look. `down` says that it did not answer at one."""

    at: datetime
    seconds: float | None
    nbytes: int | None
    down: bool


@dataclass(frozen=True, slots=True)
class LagSeries:
    """Points of each node that is no primary; `newest` is each one's last look alone. Between two points that are further apart
    than `step`, nobody looked."""

    start: datetime
    end: datetime
    step: timedelta
    max_lag_bytes: int
    max_lag_seconds: float
    nodes: Mapping[str, tuple[Point, ...]]
    newest: Mapping[str, Point]


@dataclass(frozen=True, slots=True)
class DayOfLag:
    """One node on one day, in UTC. `within` is the share of the looks at which it answered with a lag within the limits."""

    day: date
    node: str
    looks: int
    median: float | None
    p99: float | None
    maximum: float | None
    maximum_bytes: int | None
    within: float | None


def lag_series(looks: Sequence[Look], end: datetime, length: timedelta) -> LagSeries | None:
    """The last `length` before `end`, None if nothing was seen of it."""
    shown = [look for look in looks if end - length <= look.at <= end]
    table = _table(shown)
    if table.empty:
        return None
    apart = sorted(later.at - earlier.at for earlier, later in pairwise(shown))
    usual = apart[len(apart) // 2] if apart else timedelta(minutes=1)
    newest = _points(table.groupby("node", as_index=False).tail(1))
    if len(shown) > _POINTS:
        span = shown[-1].at - shown[0].at
        usual = next((each for each in _STEPS if span / each <= _POINTS), _STEPS[-1])
        table["at"] = table["at"].dt.floor(usual)
        table = table.groupby(["node", "at"], as_index=False).agg(
            seconds=("seconds", "max"), nbytes=("nbytes", "max"), down=("down", "any")
        )
    nodes = _points(table)
    return LagSeries(
        start=shown[0].at,
        end=shown[-1].at,
        # One look may be missed or late.
        step=max(3 * usual, timedelta(seconds=5)),
        max_lag_bytes=shown[-1].max_lag_bytes,
        max_lag_seconds=shown[-1].max_lag_seconds,
        # In the order that they are configured in.
        nodes={
            name: tuple(nodes[name])
            for name in (*shown[-1].nodes, *sorted(set(nodes) - set(shown[-1].nodes)))
            if name in nodes
        },
        newest={name: points[-1] for name, points in newest.items()},
    )


def _points(table: pd.DataFrame) -> dict[str, list[Point]]:
    nodes: dict[str, list[Point]] = {}
    for at, node, seconds, nbytes, down in _rows(table, "at", "node", "seconds", "nbytes", "down"):
        nodes.setdefault(node, []).append(Point(at.to_pydatetime(), _known(seconds), _whole(nbytes), down))
    return nodes


def by_day(looks: Sequence[Look]) -> list[DayOfLag]:
    """Each node on each day, the newest day first."""
    table = _table(looks)
    if table.empty:
        return []
    table["day"] = table["at"].dt.date
    days = table.groupby(["day", "node"], as_index=False).agg(
        looks=("at", "size"),
        median=("seconds", "median"),
        p99=("seconds", lambda seconds: seconds.quantile(0.99)),
        maximum=("seconds", "max"),
        nbytes=("nbytes", "max"),
        within=("within", "mean"),
    )
    found = [
        DayOfLag(
            day, node, looks, _known(median), _known(p99), _known(maximum), _whole(nbytes), _known(within)
        )
        for day, node, looks, median, p99, maximum, nbytes, within in _rows(days, *days.columns)
    ]
    return sorted(found, key=lambda each: (-each.day.toordinal(), each.node))


def _rows(table: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].tolist() for name in columns), strict=True)


def _table(looks: Sequence[Look]) -> pd.DataFrame:
    """A row for each node at each look, the primary's left out."""
    import pandas as pd

    rows = [
        (
            look.at,
            name,
            node.lag_seconds,
            node.lag_bytes,
            node.role == Role.DOWN,
            _within(look, node),
        )
        for look in looks
        for name, node in look.nodes.items()
        if node.role != Role.PRIMARY and name != look.primary
    ]
    table = pd.DataFrame(rows, columns=["at", "node", "seconds", "nbytes", "down", "within"])
    table["at"] = pd.to_datetime(table["at"], utc=True)
    return table.astype({"seconds": "float64", "nbytes": "float64", "within": "float64"})


def _within(look: Look, node: NodeLook) -> float | None:
    """1 or 0; None where it cannot be told because the seconds are not known."""
    if node.role == Role.STANDBY and node.lag_bytes is not None and node.lag_seconds is None:
        return None if node.lag_bytes <= look.max_lag_bytes else 0.0
    if node.lag_bytes is None or node.lag_seconds is None:
        return 0.0
    return float(node.lag_seconds <= look.max_lag_seconds and node.lag_bytes <= look.max_lag_bytes)


def _known(value: float) -> float | None:
    return None if value != value else float(value)


def _whole(value: float) -> int | None:
    return None if value != value else int(value)
