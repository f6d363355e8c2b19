"""The contenders in turn, so that what else the machine does meets all alike; every restore is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import data
from bench.contender import (
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
from tests.support.postgres import Cluster


@dataclass(frozen=True)
class Measurement:
    """One operation of one contender in one round; megabytes are 10^6 bytes."""

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

    def as_json(self) -> dict[str, Any]:
        return {
            key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()
        }


def measurements(
    contenders: Sequence[Contender], sources: Mapping[int, Cluster], rounds: int, work: Path
) -> Iterator[Measurement]:
    """Everything, round by round. Raises AssertionError for a restore that is not what was backed up, or a
    verification that did not pass."""
    expected = {major: data.counts(source) for major, source in sources.items()}
    for number in range(rounds):
        for contender in contenders:
            # To start a restored cluster once is enough.
            rows = expected[contender.major] if number == rounds - 1 else ""
            yield from _one(contender, sources[contender.major], number, work, rows)


def _one(contender: Contender, source: Cluster, number: int, work: Path, rows: str) -> Iterator[Measurement]:
    with contender.prepared(source, work) as subject:
        for operation, command in subject.operations.items():
            if operation == INCREMENTAL:
                data.change_pages(source)
            if operation == TENTH:
                _more_incrementals(subject, source, work)
            if operation in (RESTORE, VERIFY, TENTH):
                drop_from_cache(subject.cold)
            before = subject.stored() if subject.stored else (0, 0)
            path = work / "target"
            cost = measure(command(path), work / "log", server=source.pid, store=subject.store)
            after = subject.stored() if subject.stored and operation in (FULL, INCREMENTAL) else before
            stored, objects = after[0] - before[0], after[1] - before[1]
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
                stored / 1e6,
                objects,
            )
            if operation in (RESTORE, TENTH):
                check_restored(path, source, rows)
            if operation == VERIFY:
                assert subject.verified in cost.output, (
                    f"{contender.name} did not verify:\n{cost.output[-2000:]}"
                )
            discard(path)
            yield measured


def _more_incrementals(subject: Subject, source: Cluster, work: Path) -> None:
    assert subject.incremental is not None
    for _number in range(INCREMENTALS - 1):
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
        with Cluster.adopt(data_dir, source.major, settings={"archive_mode": False}) as restored:
            assert data.counts(restored) == rows, "the restored cluster has other rows"
