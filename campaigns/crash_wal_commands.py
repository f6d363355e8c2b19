"""Pushing WAL, killed: what is acknowledged is there, and what is there is what the server wrote."""

from __future__ import annotations

import secrets
import shutil

from campaigns.crash_commands import Attack
from campaigns.crash_ground import Ended, Store
from pgproof.cli.exits import Exit


class WalPush(Attack):
    name = "wal push"

    def _prepare(self, kind: str) -> Store:
        """A segment that no backup has stored: it was just completed."""
        store, cluster = super()._prepare(kind), self.ground.cluster
        self.segment = cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        cluster.psql("SELECT pg_switch_wal()")
        folder = self.ground.place / f"pg_wal-{secrets.token_hex(6)}"
        folder.mkdir()
        self.path = folder / self.segment
        shutil.copyfile(cluster.data_dir / "pg_wal" / self.segment, self.path)
        self.arguments = ["wal", "push", str(self.path)]
        return store

    def judge(self, ended: Ended) -> set[str]:
        self.there = self._fetched()
        assert self.there or ended.status != 0, f"acknowledged and absent: {ended}"
        return {"WAL stored although killed"} if self.there and ended.status else set()

    def repeat(self) -> set[str]:
        stored = self._run().answer["stored_bytes"]
        assert (stored == 0) == self.there, f"{stored} bytes were stored"
        assert self._fetched()
        assert self._run().answer["stored_bytes"] == 0
        shutil.rmtree(self.path.parent)
        return {"WAL pushed after a kill"}

    def _fetched(self) -> bool:
        """Whether the segment is in the repository; then it is the one that the server wrote."""
        target = self.path.with_name("fetched")
        ended = self.ground.end(
            self.ground.begin(self.store, ["wal", "fetch", self.segment, str(target)], {})
        )
        if ended.status == Exit.ABSENT:
            assert not target.exists()
            return False
        assert ended.status == 0, ended
        assert target.read_bytes() == self.path.read_bytes(), "not what the server wrote"
        target.unlink()
        return True
