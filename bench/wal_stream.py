"""How far the repository is behind a server that writes WAL at a steady rate, and what that costs.

The lag of a moment is the time until what the server had flushed then was acknowledged as durable. Both positions are
read 20 times a second, so that a lag is told up to 0.05 s too long.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from bench.contender import Place
from bench.measure import tree_cpu
from bench.ours import NAME
from bench.streamers import MAJOR, SETTINGS, STREAMERS, Running, Streamer, running
from bench.targets import Target, target_table
from tests.support import machine
from tests.support.postgres import Cluster

_EVERY = 0.05
_PATIENCE = 120.0
_ROOT = Path(__file__).parents[1]
_POSITIONS = (
    "SELECT pg_current_wal_flush_lsn() - '0/0', "
    "(SELECT flush_lsn - '0/0' FROM pg_stat_replication WHERE application_name = %s)"
)


@dataclass(frozen=True)
class Sample:
    """At `at` seconds the server had flushed, and the streamer acknowledged, WAL up to these bytes."""

    at: float
    flushed: int
    acknowledged: int


@dataclass(frozen=True)
class Measured:
    """Megabytes are 10^6 bytes; CPU seconds are those of a gigabyte of WAL."""

    name: str
    place: str
    round: int
    offered_mb_s: float
    written_mb_s: float
    lag_p50: float
    lag_p99: float
    lag_max: float
    behind_p99_mb: float
    cpu: float
    server_cpu: float
    store_cpu: float
    memory_mb: float
    stored_share: float

    def __str__(self) -> str:
        return (
            f"round {self.round + 1}: {self.name} {self.place}: {self.written_mb_s:.1f} MB/s, lag "
            f"{self.lag_p50:.2f} s, p99 {self.lag_p99:.2f} s, longest {self.lag_max:.2f} s; {self.cpu:.2f} CPU s a GB"
        )


def measurements(
    rate: float, seconds: float, rounds: int, places: Sequence[Place], work: Path
) -> Iterator[Measured]:
    """`rate` is in bytes a second. Everyone in turn, on one server."""
    with Cluster(MAJOR, settings=SETTINGS) as source:
        for number in range(rounds):
            for streamer in (each for each in STREAMERS if each.place in places):
                with running(streamer, source, work) as at_work:
                    yield _measured(streamer, at_work, source, number, rate, seconds)


def _measured(
    streamer: Streamer, at_work: Running, source: Cluster, number: int, rate: float, seconds: float
) -> Measured:
    watched = (at_work.pid, source.pid, at_work.store)
    stored, before = at_work.stored(), [tree_cpu(pid) for pid in watched]
    load = subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig=KILL",
            "--",
            sys.executable,
            "-m",
            "bench.wal_load",
            str(rate),
            str(seconds),
        ],
        env=machine.environment(PYTHONPATH=str(_ROOT), **source.libpq_environment()),
        stdout=subprocess.PIPE,
    )
    try:
        assert load.stdout is not None
        load.stdout.readline()
        samples = watch(source, streamer.application, lambda: load.poll() is None)
    finally:
        load.kill()
        load.communicate()
    if load.returncode:
        raise RuntimeError(f"the load ended with status {load.returncode}")
    gigabytes = (samples[-1].flushed - samples[0].flushed) / 1e9
    own, servers, stores = [
        (tree_cpu(pid) - spent) / gigabytes for pid, spent in zip(watched, before, strict=True)
    ]
    found = sorted(lags(samples))
    behind = sorted(each.flushed - each.acknowledged for each in samples)
    return Measured(
        streamer.name,
        streamer.place,
        number,
        rate / 1e6,
        written_rate(samples) / 1e6,
        percentile(found, 0.5),
        percentile(found, 0.99),
        found[-1],
        percentile(behind, 0.99) / 1e6,
        own,
        servers,
        stores,
        _peak_mb(at_work.pid),
        (at_work.stored() - stored) / gigabytes / 1e9,
    )


def watch(source: Cluster, application: str, loaded: Callable[[], bool]) -> list[Sample]:
    """Positions from now on until WAL is not written any more and all of it is acknowledged."""
    samples: list[Sample] = []
    over = 0.0
    with source.connect() as connection:
        while True:
            positions: Any = connection.execute(_POSITIONS, [application], prepare=True).fetchone()
            flushed, acknowledged = positions
            now = time.monotonic()
            if acknowledged is None:
                raise RuntimeError("it does not stream any more")
            samples.append(Sample(now, int(flushed), int(acknowledged)))
            if loaded():
                over = now
            elif samples[-1].acknowledged >= samples[-1].flushed:
                return samples
            elif now > over + _PATIENCE:
                raise RuntimeError(f"after {_PATIENCE:.0f} s not everything is acknowledged: {samples[-1]}")
            time.sleep(max(0.0, _EVERY - (time.monotonic() - now)))


def lags(samples: Sequence[Sample]) -> list[float]:
    """Of each moment at which the server had flushed something new: seconds until that was acknowledged."""
    found, later = [], 0
    for previous, sample in pairwise(samples):
        if sample.flushed > previous.flushed:
            while samples[later].acknowledged < sample.flushed:
                later += 1
            found.append(max(0.0, samples[later].at - sample.at))
    return found


def written_rate(samples: Sequence[Sample]) -> float:
    """Bytes a second, as long as something was written."""
    last = next(each for each in samples if each.flushed == samples[-1].flushed)
    return (last.flushed - samples[0].flushed) / (last.at - samples[0].at)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank of values that are in order."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def markdown(found: Sequence[Measured]) -> str:
    lines = [
        "| | | WAL MB/s | lag s, median | p99 | longest | MB behind, p99 | CPU s a GB | server's | S3's | memory MB "
        "| stored of the WAL |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    results = []
    for name, place in dict.fromkeys((each.name, each.place) for each in found):
        rows = [each for each in found if (each.name, each.place) == (name, place)]

        def of(column: str, rows: Sequence[Any] = rows) -> float:
            return float(median(getattr(row, column) for row in rows))

        lines.append(
            f"| {name} | {place} | {of('written_mb_s'):.1f} | {of('lag_p50'):.2f} | {of('lag_p99'):.2f} "
            f"| {of('lag_max'):.2f} | {of('behind_p99_mb'):.0f} | {of('cpu'):.2f} | {of('server_cpu'):.2f} "
            f"| {of('store_cpu'):.2f} | {of('memory_mb'):.0f} | {of('stored_share'):.2f} |"
        )
        if name == NAME:
            results.append(Target(f"{place}: lag, p99", of("lag_p99"), 2, " s"))
            results.append(
                Target(
                    f"{place}: rate that was asked for, by the rate that was reached",
                    of("offered_mb_s") / of("written_mb_s"),
                    1.05,
                )
            )
    return "\n".join([*lines, *target_table(results)])
