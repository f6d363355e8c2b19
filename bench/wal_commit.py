"""How long a COMMIT takes when it waits for a streamer, beside one that waits for the server's own disk alone.

One connection inserts a row at a time and commits it. The streamer is named in synchronous_standby_names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.contender import Place
from bench.streamers import MAJOR, SETTINGS, STREAMERS, running
from bench.wal_stream import percentile
from tests.support import machine
from tests.support.postgres import Cluster

ALONE = "no synchronous standby"
_PATIENCE = 600.0


@dataclass(frozen=True)
class Measured:
    """Milliseconds that a COMMIT took."""

    name: str
    place: str
    round: int
    commits: int
    p50: float
    p99: float
    longest: float

    def __str__(self) -> str:
        return (
            f"round {self.round + 1}: {self.name} {self.place}: {self.p50:.2f} ms, p99 {self.p99:.2f} ms, "
            f"longest {self.longest:.1f} ms, of {self.commits}"
        )


def measurements(commits: int, rounds: int, places: Sequence[Place], work: Path) -> Iterator[Measured]:
    with Cluster(MAJOR, settings=SETTINGS) as source:
        source.psql("CREATE TABLE t (id bigserial PRIMARY KEY, note text)")
        for number in range(rounds):
            yield _measured(source, ALONE, "", number, commits)
            for streamer in (each for each in STREAMERS if each.place in places):
                _wait_for(source, streamer.application)
                try:
                    with running(streamer, source, work):
                        machine.wait_until(
                            lambda: source.psql("SELECT sync_state FROM pg_stat_replication") == "sync",
                            "the streamer to be synchronous",
                        )
                        yield _measured(source, streamer.name, streamer.place, number, commits)
                finally:
                    _wait_for(source, "")


def _wait_for(source: Cluster, names: str) -> None:
    source.psql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    source.psql("SELECT pg_reload_conf()")
    machine.wait_until(lambda: source.psql("SHOW synchronous_standby_names") == names, "the setting")


def _measured(source: Cluster, name: str, place: str, number: int, commits: int) -> Measured:
    milliseconds = []
    with source.connect() as connection:
        # No timeout of the server's ends the wait for a standby.
        alarm = threading.Timer(_PATIENCE, connection.cancel)
        alarm.start()
        try:
            for row in range(commits):
                begun = time.perf_counter()
                connection.execute("INSERT INTO t (note) VALUES (%s)", [f"row {row}"], prepare=True)
                milliseconds.append(1000 * (time.perf_counter() - begun))
                if not alarm.is_alive():
                    raise RuntimeError(f"{commits} commits take longer than {_PATIENCE:.0f} s")
        finally:
            alarm.cancel()
    milliseconds.sort()
    return Measured(
        name,
        place,
        number,
        commits,
        percentile(milliseconds, 0.5),
        percentile(milliseconds, 0.99),
        milliseconds[-1],
    )


def markdown(found: Sequence[Measured]) -> str:
    lines = [
        "| ms of a COMMIT | | median | p99 | longest | median by that without |",
        "|---|---|---:|---:|---:|---:|",
    ]
    alone = median(each.p50 for each in found if each.name == ALONE)
    for name, place in dict.fromkeys((each.name, each.place) for each in found):
        rows = [each for each in found if (each.name, each.place) == (name, place)]

        def of(column: str, rows: Sequence[Any] = rows) -> float:
            return float(median(getattr(row, column) for row in rows))

        lines.append(
            f"| {name} | {place} | {of('p50'):.2f} | {of('p99'):.2f} | {of('longest'):.1f} | {of('p50') / alone:.1f} |"
        )
    return "\n".join(lines)
