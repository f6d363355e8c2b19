"""Marks: what a collection is about to delete (docs/decisions/0014-retention.md).

A collection creates its marks, and then looks for intents, manifests and pins. Whoever is about to commit has created its
intent, and then looks for marks, and then whether all that it names is there. So at least one sees the other.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from pgproof.errors import DataError, TransientError
from pgproof.model.filemap import numbers_of
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.left_out import frames_left_out
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind

# Names of maps in one mark: it is one object of JSON.
_MAPS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Condemned:
    """What may go: backups, packs by their owner, maps, and WAL segments by timeline as numbers from first to last; of
    packs in `replaced` all but the newest object."""

    backups: frozenset[str] = frozenset()
    packs: Mapping[str, frozenset[int]] = field(default_factory=dict)
    maps: frozenset[str] = frozenset()
    wal: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    replaced: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def hits(self, manifest: Manifest) -> str:
        """An object that the manifest names and that may go; empty if there is none."""
        for owner, bitmap in manifest.packs.items():
            some = self.packs.get(owner, frozenset()).intersection(numbers_of(bitmap))
            if some:
                return f"packs/{owner}/{min(some):08d}"
        for ref in manifest.maps:
            if ref.hash in self.maps:
                return f"maps/{ref.hash}"
        for segment in manifest.wal_segments:
            if any(first <= segment.number <= last for first, last in self.wal.get(segment.timeline, ())):
                return f"wal/{segment.name}"
        return ""

    def replaces(self, manifest: Manifest) -> Iterator[tuple[str, int]]:
        """The packs that the manifest names and that will have their newest object alone."""
        for owner, bitmap in manifest.packs.items():
            some = self.replaced.get(owner, frozenset()).intersection(numbers_of(bitmap))
            yield from ((owner, number) for number in sorted(some))


def condemn(repository: Repository, condemned: Condemned, now: datetime) -> list[str]:
    """Create the marks; return their keys."""
    nonce = secrets.token_hex(6)
    keys = []
    for number, value in enumerate(_pieces(condemned)):
        key = f"{repository.layout.condemned}{now:%Y%m%dT%H%M%S%fZ}-{nonce}-{number:04d}"
        by = {"host": os.uname().nodename, "pid": os.getpid(), "at": datetime.now(UTC).isoformat()}
        repository.create_json(Kind.CONDEMNED, key, {"format": 1, **by, **value})
        keys.append(key)
    return keys


def _pieces(condemned: Condemned) -> Iterator[dict[str, Any]]:
    maps = sorted(condemned.maps)
    yield {
        "backups": sorted(condemned.backups),
        "packs": {owner: sorted(numbers) for owner, numbers in condemned.packs.items()},
        "replaced": {owner: sorted(numbers) for owner, numbers in condemned.replaced.items()},
        "maps": maps[:_MAPS_AT_ONCE],
        "wal": {
            f"{timeline:08X}": [list(each) for each in found] for timeline, found in condemned.wal.items()
        },
    }
    for at in range(_MAPS_AT_ONCE, len(maps), _MAPS_AT_ONCE):
        yield {"backups": [], "packs": {}, "maps": maps[at : at + _MAPS_AT_ONCE], "wal": {}}


def marks(repository: Repository) -> list[Condemned]:
    """All marks that are there. One that is removed while it is read says nothing any more.

    Raises DataError for one that is there and cannot be read.
    """
    found = []
    for key in sorted(info.key for info in repository.bucket.list(repository.layout.condemned)):
        try:
            found.append(_parse(repository.read_json(Kind.CONDEMNED, key), key))
        except DataError as error:
            if repository.bucket.head(key) is not None:
                raise DataError(
                    error.message,
                    hint="nothing may be committed beside it; `pgproof cleanup` removes it when it is a day old",
                    **{"key": key, **error.context},
                ) from error
    return found


def refuse_condemned(repository: Repository, manifest: Manifest) -> None:
    """Raises TransientError if a collection is about to delete what this backup names. Look whether all is there
    afterwards, not before: a mark that is gone has done its work."""
    for mark in marks(repository):
        hit = mark.hits(manifest) or _left_out(repository, manifest, list(mark.replaces(manifest)))
        if hit:
            raise TransientError(
                "a cleanup is removing what this backup would name",
                hint="run the backup again; if this stays, a cleanup was killed: run `pgproof cleanup`",
                object=hit,
            )


def _left_out(repository: Repository, manifest: Manifest, packs: Sequence[tuple[str, int]]) -> str:
    """What is missing if of these packs nothing but the newest object is there; empty if nothing is."""
    newest: dict[tuple[str, int], list[ObjectInfo]] = {}
    for owner, some in groupby(packs, key=lambda each: each[0]):
        objects = repository.pack_objects(owner)
        newest |= {each: [objects[each[1]]] for each in some if each[1] in objects}
    return "; ".join(frames_left_out(repository, manifest, newest, Job())) if newest else ""


def _parse(value: dict[str, Any], key: str) -> Condemned:
    try:
        return Condemned(
            frozenset(map(str, value["backups"])),
            {owner: frozenset(map(int, numbers)) for owner, numbers in value["packs"].items()},
            frozenset(map(str, value["maps"])),
            {
                int(timeline, 16): [(int(a), int(b)) for a, b in found]
                for timeline, found in value["wal"].items()
            },
            {owner: frozenset(map(int, numbers)) for owner, numbers in value.get("replaced", {}).items()},
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError("a mark does not hold what it should", key=key, reason=repr(error)[:200]) from error


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers as first and last."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number <= found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
