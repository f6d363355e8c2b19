"""Cleanup and pins, killed anywhere: what stays is whole, and the repetition finishes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from campaigns import crash_judge as judge
from campaigns import crash_points as points
from campaigns.crash_commands import Attack
from campaigns.crash_ground import Ended, Store
from pgproof.repository.catalog import list_backups

_OLD = 8 * 24 * 3600


class Cleanup(Attack):
    """Of two full backups and what a run has left that was killed between them, so long ago that it is given up."""

    name = "cleanup"
    arguments = ("cleanup", "--keep-last=1", "--keep-at-least=1", "--pitr-days=0", "--yes")

    def _prepare(self, kind: str) -> Store:
        store = self.ground.new_store(kind)
        self.old = str(self.ground.run(store, "create").answer["backup_id"])
        self.ground.run(store, "create", status=points.KILLED, **points.rules("backup.mapped"))
        self.newest = str(self.ground.run(store, "create").answer["backup_id"])
        store.listed += [self.newest]
        if kind == "local":
            then = time.time() - _OLD
            for path in Path(store.environ["BACKUP_DIR"]).rglob("*"):
                os.utime(path, (then, then))
        return store

    def judge(self, ended: Ended) -> set[str]:
        there = {info.backup_id for info in list_backups(self.store.open())}
        left = self.old in there
        assert left or there == {self.newest}, there
        if left:
            self.store.listed = sorted({*self.store.listed, self.old})
        judge.require_whole_catalog(self.store, self.chance, new=0)
        assert not left or ended.status != 0, f"a cleanup succeeded, and did not remove: {ended}"
        return {"cleanups killed before they removed"} if left else {"cleanups killed behind the removal"}

    def repeat(self) -> set[str]:
        self._run()
        self.store.listed = [self.newest]
        assert [info.backup_id for info in list_backups(self.store.open())] == [self.newest]
        judge.require_whole_catalog(self.store, self.chance, new=0)
        judge.require_whole(self.store, self.newest)
        return {"cleanups after a kill"}


class Keep(Attack):
    name = "keep"

    def _prepare(self, kind: str) -> Store:
        store = super()._prepare(kind)
        self.backup_id = self.chance.choice(store.listed[-3:])
        self.arguments = ["keep", self.backup_id, f"--why={self.chance.random()}"]
        return store

    def judge(self, ended: Ended) -> set[str]:
        judge.require_whole_catalog(self.store, self.chance, new=0)
        assert ended.status != 0 or self._pinned()
        return {"pins set although killed"} if self._pinned() and ended.status else set()

    def repeat(self) -> set[str]:
        self._run()
        assert self._pinned()
        return {"pins set after a kill"}

    def _pinned(self) -> bool:
        found = {info.backup_id: info for info in list_backups(self.store.open())}
        return found[self.backup_id].pinned_until is not None
