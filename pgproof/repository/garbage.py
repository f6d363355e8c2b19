"""What of one copy of a repository may go, given what is needed of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain

import numpy as np
import numpy.typing as npt

from pgproof.model.collection import UNEXPLAINED, Needed
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.condemned import Condemned, ranges_of
from pgproof.repository.survey import Survey

# A run that stood still may wake up and find its manifest's name free again.
_GIVEN_UP = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Replaced:
    """An object of a pack that was rewritten since; `live` are the frames that backups need, whatever has them."""

    owner: str
    number: int
    info: ObjectInfo
    live: npt.NDArray[np.bool_]


@dataclass
class Garbage:
    """Objects that may go, with what they are; `replaced` are objects of packs that were rewritten since,
    `locked` is what could go but for Object Lock."""

    packs: list[tuple[str, int, ObjectInfo]] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)
    maps: list[tuple[str, ObjectInfo]] = field(default_factory=list)
    wal: list[tuple[int, int, ObjectInfo]] = field(default_factory=list)
    small: list[ObjectInfo] = field(default_factory=list)
    locked: list[ObjectInfo] = field(default_factory=list)

    def condemned(self, backups: Iterable[str]) -> Condemned:
        segments: dict[int, set[int]] = {}
        for timeline, number, _info in self.wal:
            segments.setdefault(timeline, set()).add(number)
        return Condemned(
            frozenset(backups),
            _numbers((owner, number) for owner, number, _info in self.packs),
            frozenset(name for name, _info in self.maps),
            {timeline: ranges_of(numbers) for timeline, numbers in segments.items()},
            _numbers((each.owner, each.number) for each in self.replaced),
        )

    def of(self, owners: Collection[str]) -> int:
        """The bytes of these runs' packs among it."""
        return sum(info.size for owner, _number, info in self.packs if owner in owners)

    @property
    def sizes(self) -> dict[str, int]:
        return {
            "packs": sum(info.size for _owner, _number, info in self.packs)
            + sum(each.info.size for each in self.replaced),
            "maps": sum(info.size for _name, info in self.maps),
            "wal": sum(info.size for _timeline, _number, info in self.wal),
            "small": sum(info.size for info in self.small),
        }

    def __len__(self) -> int:
        return len(self.packs) + len(self.replaced) + len(self.maps) + len(self.wal) + len(self.small)


def _numbers(packs: Iterable[tuple[str, int]]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for owner, number in packs:
        found.setdefault(owner, set()).add(number)
    return {owner: frozenset(numbers) for owner, numbers in found.items()}


def find_garbage(
    found: Survey,
    needed: Needed,
    withdrawn: Collection[str],
    given_up: Collection[str],
    committed: Collection[str],
    oldest_position: int | None,
    lock: timedelta | None,
    replaced: Collection[Replaced] = (),
) -> Garbage:
    """`withdrawn` are the backups that are removed, `given_up` the dead runs, `committed` those with a manifest in any copy,
    `replaced` the objects of packs that are not needed beside the newer ones.

    `oldest_position` is the earliest one at which a kept backup ended: nothing can be compared with fingerprints from before.
    """
    garbage = Garbage()
    gone = {each.info.key: each for each in replaced}

    def free(info: ObjectInfo) -> bool:
        if lock is None or info.modified + lock <= found.now:
            return True
        garbage.locked.append(info)
        return False

    # These are gone for a reason that somebody has decided; of all else nobody knows how it came.
    explained = {*withdrawn, *given_up, *committed, *found.abandoned}
    newest = ((owner, number, info) for owner, packs in found.packs.items() for number, info in packs.items())
    older = ((*name, info) for name, objects in found.older.items() for info in objects)
    for owner, number, info in chain(newest, older):
        if info.key in gone:
            if free(info):
                garbage.replaced.append(gone[info.key])
        elif needed.needs_pack(owner, number):
            continue
        elif (owner in explained or _old(info, found.now)) and free(info):
            garbage.packs.append((owner, number, info))
    dropped = {name for backup_id in withdrawn for name in _maps_of(found, backup_id)}
    for name, info in found.maps.items():
        if needed.needs_map(name):
            continue
        if (name in dropped or _old(info, found.now)) and free(info):
            garbage.maps.append((name, info))
    for (timeline, number), objects in found.wal.items():
        for info in objects:
            if not needed.needs_wal(timeline, number, info.modified) and free(info):
                garbage.wal.append((timeline, number, info))
    garbage.small += [
        info for info in _small(found, withdrawn, given_up, committed, oldest_position) if free(info)
    ]
    return garbage


def _small(
    found: Survey,
    withdrawn: Collection[str],
    given_up: Collection[str],
    committed: Collection[str],
    oldest_position: int | None,
) -> Iterator[ObjectInfo]:
    """Reports, pins and intents of what is gone, manifests that gave a run up long ago, fingerprints of no use."""
    layout = found.repository.layout
    for backup_id, objects in found.listed.objects.items():
        manifest = layout.manifest(backup_id)
        others = [info for info in objects if info.key != manifest]
        if backup_id in withdrawn or backup_id in given_up or backup_id in found.abandoned:
            yield from others
        elif backup_id not in committed and backup_id not in found.listed.intents:
            yield from (info for info in others if _old(info, found.now))
        if backup_id in found.abandoned and found.now - found.abandoned[backup_id].modified > _GIVEN_UP:
            yield found.abandoned[backup_id]
    for info in found.fingerprints:
        position = info.key.removeprefix(layout.fingerprints).partition("-")[0]
        if oldest_position is not None and len(position) == 16 and _hex(position) < oldest_position:
            yield info


def _maps_of(found: Survey, backup_id: str) -> Iterable[str]:
    stored = found.backups.get(backup_id)
    return stored.maps if stored is not None else ()


def _old(info: ObjectInfo, now: datetime) -> bool:
    return now - info.modified > UNEXPLAINED


def _hex(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 1 << 64
