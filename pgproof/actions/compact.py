"""Which packs have so little in them that is needed that they are written anew, and which may go because that was done.

Nobody is harmed by a pack that is written anew: the old one stays beside it for two days, and what the new one lacks is
read from there (docs/decisions/0019-compaction.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

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
from pgproof.repository.garbage import Replaced
from pgproof.repository.pack_versions import rewriting_of
from pgproof.repository.packs import PackIndex
from pgproof.repository.sealing import object_name
from pgproof.repository.survey import Survey

_log = logging.getLogger(__name__)

_AT_ONCE = 8
_BATCH = 64
# Each holds two packs in memory.
_REWRITTEN_AT_ONCE = 3

_Pack = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One pack, its newest object in the first copy, which of its frames stay, and how many bytes will be left at most."""

    owner: str
    number: int
    info: ObjectInfo
    keep: npt.NDArray[np.bool_]
    left_bytes: int


@dataclass
class Compaction:
    """`replaced` are for each copy the objects that may go, since newer ones have what is needed; `plan` is None, and
    there are no `rewritings`, unless they were asked for. `notes` say why something is not done."""

    rewritings: list[Rewriting] = field(default_factory=list)
    replaced: list[list[Replaced]] = field(default_factory=list)
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

    first = seen.copies[0]
    ripe = [[name for name in _ripe(copy) if left_behind(*name)] for copy in seen.copies]
    candidates = [
        (owner, number)
        for owner, packs in sorted(first.packs.items() if asked else ())
        for number, info in sorted(packs.items())
        if left_behind(owner, number) and rewriting_of(info) < MOST_REWRITINGS
    ]
    owners = {owner for owner, _number in (*candidates, *(name for some in ripe for name in some))}
    try:
        live = _live_pages(seen, kept, owners, job)
    except DataError as error:
        found.notes.append(
            f"packs are neither rewritten nor removed after it: {str(error).partition(chr(10))[0]}"
        )
        return found
    for copy, some, gone in zip(seen.copies, ripe, found.replaced, strict=True):
        gone += _replaced(copy, some, live, job)
    if asked:
        found.rewritings = list(_rewritings(seen, candidates, live, job))
        found.plan = CompactionPlan(
            len(candidates),
            len(found.rewritings),
            sum(each.info.size for each in found.rewritings),
            sum(each.left_bytes for each in found.rewritings),
        )
    return found


def compact(
    seen: CleanupSurvey, compaction: Compaction, spared: Callable[[str, int], bool], job: Job
) -> CompactionReport | None:
    """Rewrite what was planned, in the first copy and in each other one that has the pack. None if it was not asked for.

    `spared` tells of packs that somebody may need more of than the plan knew. A pack that is damaged stays as it is, and is
    told. Raises the stores' errors.
    """
    if compaction.plan is None:
        return None
    first, *others = seen.copies

    def one(each: Rewriting) -> tuple[int, int] | str | None:
        job.checkpoint()
        # It may have been collected after all.
        if spared(each.owner, each.number) or first.repository.bucket.head(each.info.key) is None:
            return None
        failpoint("compact.begun")
        older = first.older.get((each.owner, each.number), [])
        try:
            key, data = rewrite(first.repository, each.owner, each.number, each.info, older, each.keep, job)
        except DataError as error:
            return str(error).partition("\n")[0]
        for other in others:
            if each.number in other.packs.get(each.owner, {}):
                other.repository.create_pack(key.rpartition("-")[0], data)
        return each.info.size, len(data)

    for copy in seen.copies if compaction.rewritings else ():
        ensure_restore_script(copy.repository.bucket)
    done: list[tuple[int, int]] = []
    failed: list[str] = []
    with ThreadPoolExecutor(_REWRITTEN_AT_ONCE, thread_name_prefix="pgproof-compact") as pool:
        for at in range(0, len(compaction.rewritings), _BATCH):
            job.report("rewriting packs", at, len(compaction.rewritings))
            for result in pool.map(one, compaction.rewritings[at : at + _BATCH]):
                if isinstance(result, str):
                    failed.append(result)
                elif result is not None:
                    done.append(result)
    for other in others:
        failed += _catch_up(first, other, spared, job)
    before, after = (sum(sizes[n] for sizes in done) for n in (0, 1))
    _log.info("compaction packs=%d size=%d stored=%d failed=%d", len(done), before, after, len(failed))
    return CompactionReport(len(done), before, after, seen.clock() + first.skew + STAYS, tuple(failed))


def _catch_up(first: Survey, other: Survey, spared: Callable[[str, int], bool], job: Job) -> Iterator[str]:
    """Copy what an earlier compaction could not copy any more; yields what is damaged."""
    for owner, packs in first.packs.items():
        for number, info in packs.items():
            there = other.packs.get(owner, {}).get(number)
            if there is None or there.key >= info.key or not rewriting_of(info) or spared(owner, number):
                continue
            job.checkpoint()
            # What a cleanup has just collected here or there is not brought back.
            if any(
                copy.repository.bucket.head(key) is None
                for copy, key in ((first, info.key), (other, there.key))
            ):
                continue
            data = first.repository.bucket.read_range(info.key, 0, info.size)
            if info.key.endswith(f"-{object_name(data)}"):
                other.repository.create_pack(info.key.rpartition("-")[0], data)
            else:
                yield f"a pack is damaged and was not copied (key={info.key})"


def _ripe(copy: Survey) -> Iterator[_Pack]:
    """What has a newer object that everybody knows by now."""
    for owner, number in sorted(copy.older):
        if copy.now - copy.packs[owner][number].modified > STAYS:
            yield owner, number


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
    live.finish()
    return live


def _indexes(
    copy: Survey, packs: Sequence[tuple[str, int, ObjectInfo]], live: LivePages, job: Job
) -> Iterator[tuple[PackIndex, npt.NDArray[np.bool_]] | None]:
    """In order the index of each object, and which frames are needed; None for one that cannot be read, or does not fit
    what backups name. No other object serves in its place."""

    def read(each: tuple[str, int, ObjectInfo]) -> tuple[PackIndex, npt.NDArray[np.bool_]] | None:
        try:
            index = copy.repository.open_pack(each[2]).index
            frames = index.frames_of(*live.of(*each[:2]))
            if not frames.any():
                raise DataError("no map names what a manifest says it needs", key=each[2].key)
            return index, frames
        except DataError as error:
            _log.warning("a pack is not looked into: %s", error)
            return None

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-index") as pool:
        for at in range(0, len(packs), _BATCH):
            job.checkpoint()
            job.report("looking into packs", at, len(packs))
            yield from pool.map(read, packs[at : at + _BATCH])


def _replaced(copy: Survey, packs: Sequence[_Pack], live: LivePages, job: Job) -> Iterator[Replaced]:
    """The older objects of packs whose newest has all that is needed, as far as it can be read: who removes them looks again."""
    newest = [(*name, copy.packs[name[0]][name[1]]) for name in packs]
    oldest = [(*name, copy.older[name][-1]) for name in packs]
    for name, here, first in zip(
        packs, _indexes(copy, newest, live, job), _indexes(copy, oldest, live, job), strict=True
    ):
        known = here or first
        if known is None or (here is not None and (here[1] & here[0].left_out).any()):
            continue
        for info in copy.older[name]:
            yield Replaced(*name, info, known[1])


def _rewritings(
    seen: CleanupSurvey, candidates: Sequence[_Pack], live: LivePages, job: Job
) -> Iterator[Rewriting]:
    first = seen.copies[0]
    packs = [(*name, first.packs[name[0]][name[1]]) for name in candidates]
    for (owner, number, info), found in zip(packs, _indexes(first, packs, live, job), strict=True):
        if found is None or _locked(seen, owner, number):
            continue
        index, keep = found
        # Of what it has: what an earlier rewriting left out is no gain, and the index stays.
        left = info.size - int(index.sealed_lengths[~keep & ~index.left_out].sum(dtype=np.int64))
        if left < LIVE * info.size:
            yield Rewriting(owner, number, info, keep, left)


def _locked(seen: CleanupSurvey, owner: str, number: int) -> bool:
    """Whether Object Lock keeps the old one in any copy for longer than it would stay."""
    return any(
        lock is not None
        and (info := copy.packs.get(owner, {}).get(number)) is not None
        and info.modified + lock > copy.now + STAYS
        for copy, lock in zip(seen.copies, seen.locks, strict=True)
    )
