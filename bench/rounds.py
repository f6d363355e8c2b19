"""The contenders in turn, so that what else the machine does meets all alike; every restore is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import data, pages
from bench.contender import (
    DELTA,
    FULL,
    INCREMENTAL,
    INCREMENTALS,
    RESTORE,
    TENTH,
    VERIFY,
    Contender,
    Subject,
    discard,
    drop_from_cache,
)
from bench.measure import measure
from tests.support import machine
from tests.support.postgres import Cluster, Setting

_RESTORED: dict[str, Setting] = {"archive_mode": False, "autovacuum": False}


@dataclass(frozen=True)
class Measurement:
    """One operation of one contender in one round; megabytes are 10^6 bytes. `changed_mb` are the pages that had
    changed before an incremental backup, compressed."""

    name: str
    major: int
    place: str
    operation: str
    round: int
    wall: float
    cpu: float
    memory_mb: float
    server_cpu: float
    store_cpu: float
    stored_mb: float = 0.0
    objects: int = 0
    changed_mb: float = 0.0

    def __str__(self) -> str:
        return (
            f"round {self.round + 1}: PostgreSQL {self.major} {self.name} {self.place} {self.operation}: "
            f"{self.wall:.2f} s, CPU {self.cpu:.2f} s, server {self.server_cpu:.2f} s, store {self.store_cpu:.2f} s, "
            f"{self.memory_mb:.0f} MB memory, {self.stored_mb:,.1f} MB stored"
        )


def measurements(
    contenders: Sequence[Contender],
    sources: Mapping[int, Cluster],
    rounds: int,
    work: Path,
    incrementals: int = INCREMENTALS,
) -> Iterator[Measurement]:
    """Everything, round by round. Raises AssertionError for a restore that is not what was backed up, or a
    verification that did not pass."""
    expected = {major: data.counts(source) for major, source in sources.items()}
    for number in range(rounds):
        for contender in contenders:
            # To start a restored cluster once is enough.
            rows = expected[contender.major] if number == rounds - 1 else ""
            yield from _one(contender, sources[contender.major], number, work, rows, incrementals)


def _one(
    contender: Contender, source: Cluster, number: int, work: Path, rows: str, incrementals: int
) -> Iterator[Measurement]:
    path = work / "target"
    with contender.prepared(source, work) as subject:
        for operation, command in subject.operations.items():
            changed = 0
            if operation == INCREMENTAL:
                before = pages.versions(source)
                data.change_pages(source)
                changed = pages.compressed(pages.changed(source, before))
            if operation == TENTH:
                _more_incrementals(subject, source, work, incrementals - 1)
            if operation == DELTA:
                _change_restored(path, source)
            if operation in (RESTORE, VERIFY, TENTH, DELTA):
                drop_from_cache([*subject.cold, *([path] if operation == DELTA else [])])
            before_it = subject.stored() if subject.stored else (0, 0)
            cost = measure(command(path), work / "log", server=source.pid, store=subject.store)
            after = subject.stored() if subject.stored and operation in (FULL, INCREMENTAL) else before_it
            assert subject.words.get(operation, "") in cost.output, (
                f"{contender.name} did not do what it should:\n{cost.output[-2000:]}"
            )
            measured = Measurement(
                contender.name,
                contender.major,
                contender.place,
                operation,
                number,
                cost.wall,
                cost.cpu,
                cost.memory_mb,
                cost.server_cpu,
                cost.store_cpu,
                (after[0] - before_it[0]) / 1e6,
                after[1] - before_it[1],
                changed / 1e6,
            )
            if operation in (RESTORE, TENTH, DELTA):
                check_restored(path, source, rows)
            if operation != TENTH or DELTA not in subject.operations:
                discard(path)
            yield measured


def _change_restored(data_dir: Path, source: Cluster) -> None:
    """As an accident would, in the server that was restored."""
    with Cluster.adopt(data_dir, source.major, settings=_RESTORED) as restored:
        machine.wait_until(
            lambda: restored.psql("SELECT pg_is_in_recovery()") == "f", "the end of recovery", 600
        )
        data.change_pages(restored)
        restored.stop()


def _more_incrementals(subject: Subject, source: Cluster, work: Path, more: int) -> None:
    assert subject.incremental is not None
    for _number in range(more):
        data.change_pages(source)
        measure(subject.incremental(), work / "log")


def check_restored(data_dir: Path, source: Cluster, rows: str) -> None:
    """Every file of every database is there in its full length; if asked, the cluster starts with its rows."""
    theirs, found = data.relation_files(source.data_dir), data.relation_files(data_dir)
    differing = {name for name in theirs | found if theirs.get(name) != found.get(name)}
    assert not differing, (
        f"restored with other sizes: {sorted(differing)[:5]} and so on, {len(differing)} files"
    )
    if rows:
        with Cluster.adopt(data_dir, source.major, settings=_RESTORED) as restored:
            assert data.counts(restored) == rows, "the restored cluster has other rows"
