"""Take away what is not needed, in the order of docs/decisions/0014-retention.md: mark, look again, manifests, then the rest.

A crash leaves garbage or a mark, never a lie; the next cleanup goes on.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.collection import Needed, StoredBackup, StoredRun
from pgproof.model.job import Job
from pgproof.repository.compacting import rewrite, serves_for
from pgproof.repository.condemned import condemn
from pgproof.repository.garbage import Garbage, Replaced
from pgproof.repository.pins import read_pin
from pgproof.repository.sealing import Kind
from pgproof.repository.survey import Clock, ManifestReader, Survey, list_backup_objects, our_clock

_log = logging.getLogger(__name__)

_AT_ONCE = 8
_BATCH = 256
# Marks of the dead are removed when they are a day old; until then whoever made one must have ended.
_LONGEST = timedelta(hours=12)
_STALE = timedelta(days=1)


@dataclass
class Collected:
    """What was done in one copy; `objects` and `bytes` by what they were, `refused` what the store did not let go."""

    location: str
    withdrawn: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    objects: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)


class Collector:
    """Collects one copy after the other. What a second look, or a refusal, adds to `needed` stays needed in all of them,
    and what is spared is taken from `withdrawn`."""

    def __init__(
        self,
        copies: Sequence[Survey],
        reader: ManifestReader,
        needed: Needed,
        withdrawn: set[str],
        dead: dict[str, StoredRun],
        job: Job,
        clock: Clock = our_clock,
    ) -> None:
        self._copies = copies
        self._reader = reader
        self._needed = needed
        self._joined = Needed()
        self._planned = frozenset(withdrawn)
        self._withdrawn = withdrawn
        self._dead = dead
        self._job = job
        self._now = clock

    def collect(self, found: Survey, garbage: Garbage) -> Collected:
        """`garbage` is what may go of this copy if the second look finds nothing new."""
        repository = found.repository
        self._done = Collected(repository.bucket.location)
        self._end = time.monotonic() + _LONGEST.total_seconds()
        here = [backup_id for backup_id in sorted(self._withdrawn) if backup_id in found.listed.manifests]
        marks = condemn(repository, garbage.condemned(here), self._now())
        try:
            failpoint("cleanup.marked")
            self._look_again()
            failpoint("cleanup.looked")
            for backup_id, run in sorted(found.runs.items()):
                if backup_id in self._dead or backup_id in self._withdrawn:
                    self._give_up(found, run)
            for backup_id in here:
                if backup_id in self._withdrawn:
                    self._withdraw(found, backup_id)
            failpoint("cleanup.withdrawn")
            self._delete_all(found, garbage)
        finally:
            # Whatever went wrong, nothing more is deleted, and what is gone is found missing by whoever names it.
            with contextlib.suppress(EngineError):
                for key in marks:
                    repository.bucket.delete(key)
        failpoint("cleanup.unmarked")
        self._remove_stale_marks(found)
        return self._done

    # the second look

    def _look_again(self) -> None:
        self._job.report("looking again")
        for copy in self._copies:
            now = list_backup_objects(copy.repository)
            for backup_id in now.manifests.keys() - copy.listed.manifests.keys():
                self._came(backup_id, self._reader.read(backup_id), copy)
            for backup_id in now.intents.keys() - copy.listed.intents.keys() - now.manifests.keys():
                info = now.intents[backup_id]
                run = self._reader.read_intent(backup_id, info.modified, info.modified)
                if backup_id in self._withdrawn:
                    copy.runs[backup_id] = run  # somebody copies it to the mirror just now
                else:
                    self._needed.add_run(run)
            for backup_id in self._withdrawn & now.pins.keys():
                if set(now.pins[backup_id]) == set(copy.listed.pins.get(backup_id, ())):
                    continue
                pin = read_pin(copy.repository, now.pins[backup_id])
                if pin is not None and pin.holds(self._now()):
                    self._spare(backup_id)

    def _came(self, backup_id: str, stored: StoredBackup | str | None, copy: Survey) -> None:
        """A manifest that was not there before."""
        if isinstance(stored, StoredBackup):
            self._joins(stored)
            self._needed.all_wal = True  # its own WAL was not among what is needed
        elif stored is not None:
            info = copy.repository.bucket.head(copy.repository.layout.intent(backup_id))
            at = self._now()
            self._needed.add_unreadable(None if info is None else self._reader.read_intent(backup_id, at, at))

    def _spare(self, backup_id: str) -> None:
        self._withdrawn.discard(backup_id)
        self._done.spared.append(backup_id)
        for copy in self._copies:
            if backup_id in copy.backups:
                self._joins(copy.backups[backup_id])
        self._needed.all_wal = True

    def _joins(self, backup: StoredBackup) -> None:
        """A backup that stays, against or beside the plan."""
        self._needed.add_backup(backup)
        self._joined.add_backup(backup)

    # runs and backups

    def _give_up(self, found: Survey, run: StoredRun) -> None:
        """From then on its commit loses; one that has shown life, or has committed, is not touched."""
        repository, backup_id = found.repository, run.backup_id
        signs = [info.modified for info in repository.bucket.list(repository.layout.packs_of(backup_id))]
        ours = found is self._copies[0] and backup_id not in self._withdrawn
        if ours and max(signs, default=run.last_sign) > run.last_sign:
            self._needed.add_run(run)
            return
        value = {"format": 1, "abandoned": True, "at": self._now().isoformat()}
        try:
            repository.create_json(Kind.MANIFEST, repository.layout.manifest(backup_id), value)
        except (ConflictError, DataError):
            self._came(backup_id, self._reader.read(backup_id), found)
            return
        failpoint("cleanup.abandoned")
        self._done.given_up.append(backup_id)

    def _withdraw(self, found: Survey, backup_id: str) -> None:
        self._in_time()
        failpoint("cleanup.withdrawing")
        if self._delete("manifests", found, found.listed.manifests[backup_id].key, 0):
            self._done.withdrawn.append(backup_id)
        else:
            self._spare(backup_id)

    # what nobody names

    def _delete_all(self, found: Survey, garbage: Garbage) -> None:
        needed, gone = self._needed, {*self._done.withdrawn, *self._done.given_up, *found.abandoned}
        layout = found.repository.layout
        self._delete_some(
            "packs",
            found,
            [
                (info.key, info.size)
                for owner, number, info in garbage.packs
                if not needed.needs_pack(owner, number)
            ],
        )
        self._delete_some(
            "maps",
            found,
            [(info.key, info.size) for name, info in garbage.maps if not needed.needs_map(name)],
        )
        self._delete_some(
            "wal",
            found,
            [
                (info.key, info.size)
                for timeline, number, info in garbage.wal
                if not needed.needs_wal(timeline, number, info.modified)
            ],
        )
        spared = (self._planned - self._withdrawn) | (self._dead.keys() - gone)
        small = []
        for info in garbage.small:
            backup_id = info.key.removeprefix(layout.backups).partition("/")[0]
            if backup_id not in spared:
                small.append((info.key, info.size))
        # The intent last: it explains the others.
        small.sort(key=lambda each: each[0].endswith("/intent"))
        self._delete_some("small", found, small)
        self._delete_replaced(found, garbage.replaced)

    def _delete_replaced(self, found: Survey, replaced: Sequence[Replaced]) -> None:
        """Last, because the newer objects are read for it, and nothing else waits for that."""
        failpoint("cleanup.replaced")
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-replaced") as pool:
            for at in range(0, len(replaced), _AT_ONCE):
                self._in_time()
                self._job.checkpoint()
                self._job.report("reading rewritten packs", at, len(replaced))
                list(pool.map(lambda each: self._delete_old(found, each), replaced[at : at + _AT_ONCE]))

    def _delete_old(self, found: Survey, old: Replaced) -> None:
        """What a pack was rewritten from, if the new object is whole here and has all that is needed. If it is damaged, the
        pack is written once more from what is left, and everything else stays."""
        if self.may_need_more(old.owner, old.number):
            return
        newest, older = found.packs[old.owner][old.number], found.older[old.owner, old.number]
        try:
            if serves_for(found.repository, newest, old.info, old.live):
                self._delete("packs", found, old.info.key, old.info.size)
            return
        except DataError as error:
            _log.warning("a rewritten pack is damaged and is written anew: %s", error)
        try:
            rewrite(found.repository, old.owner, old.number, newest, older, old.live, self._job)
        except DataError as error:
            self._done.refused.append(f"{old.info.key}: the pack cannot be rewritten: {error.message}")

    def may_need_more(self, owner: str, number: int) -> bool:
        """Whether a run, or a backup that stays beside the plan, may name more of a pack than the plan knew."""
        needed = self._needed
        return needed.all_packs or owner in needed.runs or self._joined.needs_pack(owner, number)

    def _delete_some(self, what: str, found: Survey, objects: Sequence[tuple[str, int]]) -> None:
        failpoint(f"cleanup.{what}")
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-delete") as pool:
            for at in range(0, len(objects), _BATCH):
                self._in_time()
                self._job.checkpoint()
                self._job.report(f"deleting {what}", at, len(objects))
                some = objects[at : at + _BATCH]
                list(pool.map(lambda each: self._delete(what, found, *each), some))

    def _delete(self, what: str, found: Survey, key: str, size: int) -> bool:
        try:
            found.repository.bucket.delete(key)
        except PreconditionError as error:
            self._done.refused.append(f"{key}: {error.message}")
            return False
        self._done.objects[what] += 1
        self._done.bytes[what] += size
        return True

    def _in_time(self) -> None:
        if time.monotonic() > self._end:
            raise TransientError(
                "the cleanup has taken too long", hint="run it again: it goes on where it was"
            )

    def _remove_stale_marks(self, found: Survey) -> None:
        for info in list(found.repository.bucket.list(found.repository.layout.condemned)):
            if found.now - info.modified > _STALE:
                _log.warning("a cleanup was killed, its mark is removed: %s", info.key)
                self._delete("small", found, info.key, info.size)
