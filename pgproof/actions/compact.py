"""Which packs have so little in them that is needed that they are written anew, and which may go because that was done.

Nobody is harmed by a pack that is written anew: the old one stays beside it for two days, and what the new one lacks is
read from there (docs/decisions/0019-compaction.md).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from pgproof.actions.cleanup_survey import CleanupSurvey
from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.collection import Needed
from pgproof.model.compaction import LIVE, STAYS, CompactionPlan, CompactionReport
from pgproof.model.filemap import decode_segment
from pgproof.model.job import Job
from pgproof.model.live_pages import LivePages
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.compacting import MOST_REWRITINGS, rewrite
from pgproof.repository.escape_hatch import ensure_restore_script
from pgproof.repository.pack_versions import rewriting_of
from pgproof.repository.packs import PackIndex
from pgproof.repository.survey import Survey

_log = logging.getLogger(__name__)

_AT_ONCE = 8
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One pack, its newest object in the first copy, which of its frames stay, and the bytes of these."""

    owner: str
    number: int
    info: ObjectInfo
    keep: npt.NDArray[np.bool_]
    live_bytes: int


@dataclass
class Compaction:
    """`replaced` are for each copy the objects that may go, since newer ones have what is needed; `plan` is None, and
    there are no `rewritings`, unless they were asked for. `notes` say why something is not done."""

    rewritings: list[Rewriting] = field(default_factory=list)
    replaced: list[list[ObjectInfo]] = field(default_factory=list)
    plan: CompactionPlan | None = None
    notes: list[str] = field(default_factory=list)


def plan_compaction(
    seen: CleanupSurvey, kept: Collection[str], needed: Needed, job: Job, *, asked: bool
) -> Compaction:
    """Reads the maps of those of the `kept` backups that name packs of others which are gone, and the indexes of these packs:
    for what was rewritten two days ago always, for all of them if it is `asked` for. Nothing is changed.
    """
    found = Compaction(replaced=[[] for _copy in seen.copies])

    def left_behind(owner: str, number: int) -> bool:
        """Needed by backups that stay, and by nobody whose needs are not known."""
        unknown = needed.all_packs or owner in needed.runs or owner in seen.unreadable
        return owner not in kept and not unknown and needed.needs_pack(owner, number)

    ripe = [
        [(owner, number, info) for owner, number, info in _ripe(copy) if left_behind(owner, number)]
        for copy in seen.copies
    ]
    candidates: list[tuple[str, int, ObjectInfo]] = []
    if asked:
        first = seen.copies[0]
        candidates = [
            (owner, number, info)
            for owner, packs in sorted(first.packs.items())
            for number, info in sorted(packs.items())
            if left_behind(owner, number) and rewriting_of(info) < MOST_REWRITINGS
        ]
        found.plan = CompactionPlan(len(candidates), 0, 0, 0)
    owners = {owner for owner, _number, _info in (*candidates, *(each for some in ripe for each in some))}
    if not owners:
        return found
    try:
        live = _live_pages(seen, kept, owners, job)
    except DataError as error:
        found.notes.append(
            f"packs are neither rewritten nor removed after it: {str(error).partition(chr(10))[0]}"
        )
        return found
    for copy, some, gone in zip(seen.copies, ripe, found.replaced, strict=True):
        newest = [(owner, number, copy.packs[owner][number]) for owner, number, _info in some]
        for (owner, number, info), index in zip(some, _indexes(copy, newest, job), strict=True):
            if index is not None and not (_frames(index, live, owner, number) & index.left_out).any():
                gone.append(info)
    if asked:
        found.rewritings = list(_rewritings(seen, candidates, live, job))
        found.plan = CompactionPlan(
            len(candidates),
            len(found.rewritings),
            sum(each.info.size for each in found.rewritings),
            sum(each.live_bytes for each in found.rewritings),
        )
    return found


def compact(seen: CleanupSurvey, compaction: Compaction, job: Job) -> CompactionReport | None:
    """Rewrite what was planned, in the first copy and in each other one that has the pack. None if it was not asked for.

    A pack that is damaged stays as it is, and is told. Raises the stores' errors.
    """
    if compaction.plan is None:
        return None
    first, *others = seen.copies
    done = before = after = 0
    failed: list[str] = []
    for copy in seen.copies if compaction.rewritings else ():
        ensure_restore_script(copy.repository.bucket)
    for number, each in enumerate(compaction.rewritings):
        job.checkpoint()
        job.report("rewriting packs", number, len(compaction.rewritings))
        if first.repository.bucket.head(each.info.key) is None:
            continue  # it was collected after all
        failpoint("compact.begun")
        try:
            key, data = rewrite(first.repository, each.owner, each.number, each.info, each.keep, job)
        except DataError as error:
            failed.append(str(error).partition("\n")[0])
            continue
        for other in others:
            if each.number in other.packs.get(each.owner, {}):
                other.repository.create_pack(key.rpartition("-")[0], data)
        done, before, after = done + 1, before + each.info.size, after + len(data)
    for other in others:
        _catch_up(first, other, job)
    _log.info("compaction packs=%d size=%d stored=%d failed=%d", done, before, after, len(failed))
    return CompactionReport(done, before, after, seen.clock() + first.skew + STAYS, tuple(failed))


def _catch_up(first: Survey, other: Survey, job: Job) -> None:
    """What an earlier compaction could not copy any more."""
    for owner, packs in first.packs.items():
        for number, info in packs.items():
            there = other.packs.get(owner, {}).get(number)
            if there is not None and there.key < info.key and rewriting_of(info):
                job.checkpoint()
                data = first.repository.bucket.read_range(info.key, 0, info.size)
                other.repository.create_pack(info.key.rpartition("-")[0], data)


def _ripe(copy: Survey) -> Iterator[tuple[str, int, ObjectInfo]]:
    """What has a newer object beside it that everybody knows by now."""
    for owner, number, info in copy.older:
        if copy.now - copy.packs[owner][number].modified > STAYS:
            yield owner, number, info


def _live_pages(seen: CleanupSurvey, kept: Collection[str], owners: Collection[str], job: Job) -> LivePages:
    """What the maps of all kept backups name of these owners' packs. Raises DataError if one cannot be read."""
    live = LivePages(owners)
    wanted: dict[str, int] = {}
    for backup_id in sorted(kept):
        backup = seen.backups.get(backup_id)
        if backup is not None and not backup.packs.keys().isdisjoint(owners):
            wanted.update((name, backup.block_size) for name in backup.maps)
    repository, names = seen.copies[0].repository, sorted(wanted)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-maps") as pool:
        for at in range(0, len(names), _BATCH):
            job.checkpoint()
            job.report("reading maps", at, len(names))
            some = names[at : at + _BATCH]
            for segment in pool.map(
                lambda name: decode_segment(repository.read_map(name), wanted[name]), some
            ):
                live.add(segment)
    return live


def _indexes(
    copy: Survey, packs: Sequence[tuple[str, int, ObjectInfo]], job: Job
) -> Iterator[PackIndex | None]:
    """In order; None for one that cannot be read, which stays as it is."""

    def read(each: tuple[str, int, ObjectInfo]) -> PackIndex | None:
        try:
            return copy.repository.open_pack(each[2]).index
        except DataError as error:
            _log.warning("a pack is not looked into: %s", error)
            return None

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-index") as pool:
        for at in range(0, len(packs), _BATCH):
            job.checkpoint()
            job.report("looking into packs", at, len(packs))
            yield from pool.map(read, packs[at : at + _BATCH])


def _frames(index: PackIndex, live: LivePages, owner: str, number: int) -> npt.NDArray[np.bool_]:
    return index.frames_of(*live.of(owner, number))


def _rewritings(
    seen: CleanupSurvey, candidates: Sequence[tuple[str, int, ObjectInfo]], live: LivePages, job: Job
) -> Iterable[Rewriting]:
    first = seen.copies[0]
    for (owner, number, info), index in zip(candidates, _indexes(first, candidates, job), strict=True):
        if index is None or _locked(info, first.now, seen.locks[0]):
            continue
        keep = _frames(index, live, owner, number)
        live_bytes = int(index.sealed_lengths[keep].sum(dtype=np.int64))
        if live_bytes < LIVE * info.size:
            yield Rewriting(owner, number, info, keep, live_bytes)


def _locked(info: ObjectInfo, now: datetime, lock: timedelta | None) -> bool:
    return lock is not None and info.modified + lock > now + STAYS
