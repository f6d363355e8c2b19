"""The parts of the benchmark, each a section of the table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import backups, catalog, logical, reads, table, wal, wal_commit, wal_replay, wal_stream
from bench.contender import Place
from bench.recording import Section, machine_line


@dataclass(frozen=True)
class Part:
    """`run` measures, and `markdown` makes the section of what is known of the run and of the measurements."""

    title: str
    majors: Sequence[int]
    run: Callable[[argparse.Namespace, Path, Section], None]
    markdown: Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], str]


def _part(
    title: str,
    majors: Sequence[int],
    measurements: Callable[[argparse.Namespace, Path], Iterator[Any]],
    kind: type,
    markdown: Callable[[Sequence[Any]], str],
) -> Part:
    """One whose measurements are all of one kind."""

    def run(options: argparse.Namespace, work: Path, section: Section) -> None:
        for measured in measurements(options, work):
            section.add(measured)

    def whole(about: Mapping[str, Any], measurements: Sequence[Mapping[str, Any]]) -> str:
        return f"{machine_line(about)}\n\n{markdown([kind(**each) for each in measurements])}"

    return Part(title, majors, run, whole)


def places(options: argparse.Namespace) -> list[Place]:
    return [options.place] if options.place else ["directory", "S3"]


def _wal_files(options: argparse.Namespace, _work: Path) -> Iterator[wal.Measured]:
    for place in places(options):
        yield from wal.measurements(options.segments, place)


PARTS = {
    "backups": Part("Backups and restores", (15, 17, 18), backups.run, table.markdown),
    "logical": _part(
        "Logical backups",
        [17],
        lambda options, _work: logical.measurements(options.gigabytes / 2, options.rounds),
        logical.Measured,
        logical.markdown,
    ),
    "wal": _part("Single WAL segments", [15], _wal_files, wal.Measured, wal.markdown),
    "stream": _part(
        "WAL as it is written",
        [18],
        lambda options, work: wal_stream.measurements(
            options.rate * 1e6, options.seconds, options.rounds, places(options), work
        ),
        wal_stream.Measured,
        wal_stream.markdown,
    ),
    "commit": _part(
        "COMMIT that waits for the repository",
        [18],
        lambda options, work: wal_commit.measurements(options.commits, options.rounds, places(options), work),
        wal_commit.Measured,
        wal_commit.markdown,
    ),
    "replay": _part(
        "Replay of WAL",
        [18],
        lambda options, work: wal_replay.measurements(
            options.wal_gigabytes, options.rounds, places(options), work
        ),
        wal_replay.Measured,
        wal_replay.markdown,
    ),
    "reads": _part(
        "Reads through the router",
        [18],
        lambda options, _work: reads.measurements(options.reads, options.rounds),
        reads.Measured,
        reads.markdown,
    ),
    "catalog": _part(
        "A repository of many backups",
        [],
        lambda options, _work: catalog.measurements(options.backups, options.rounds),
        catalog.Measured,
        catalog.markdown,
    ),
}
