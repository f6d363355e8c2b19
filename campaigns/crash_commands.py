"""The commands that are killed: how each is called, what must hold after its death, and its repetition."""

from __future__ import annotations

import random
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence

from campaigns import crash_judge as judge
from campaigns import crash_points as points
from campaigns.crash_ground import Ended, Ground, Store
from pgproof.cli.exits import Exit
from pgproof.model.lsn import Lsn


class Attack(ABC):
    """One command on one repository. `arguments` and `environ` are how it is called, each time."""

    name = ""
    kinds: tuple[str, ...] = ("local", "s3")  # of repositories that it is tried on, the first one most
    arguments: Sequence[str]

    def __init__(self, ground: Ground, kind: str, chance: random.Random) -> None:
        self.ground = ground
        self.chance = chance
        self.environ: dict[str, str] = {}
        self.store = self._prepare(kind)

    def _prepare(self, kind: str) -> Store:
        return self.ground.store(kind)

    @abstractmethod
    def judge(self, ended: Ended) -> set[str]:
        """Look at what a run left that was killed, or had ended before; returns facts worth counting."""

    @abstractmethod
    def repeat(self) -> set[str]:
        """The same command again, as the next schedule would call it: it succeeds, and its result is right."""

    def _run(self, *, status: int = Exit.OK) -> Ended:
        return self.ground.run(self.store, *self.arguments, status=status, **self.environ)


class Create(Attack):
    name = "create"
    arguments: Sequence[str] = ("create",)

    def judge(self, ended: Ended) -> set[str]:
        added = judge.require_whole_catalog(self.store, self.chance, new=1)
        if ended.status == 0:
            assert added == [ended.answer["backup_id"]]
            return set()
        for backup_id in added:
            self.require_restorable(backup_id)
        return {"killed backups that were committed, and restored"} if added else set()

    def repeat(self) -> set[str]:
        backup_id = self._run().answer["backup_id"]
        assert judge.require_whole_catalog(self.store, self.chance, new=1) == [backup_id]
        if self.chance.random() > 0.15:
            return set()
        self.require_restorable(backup_id)
        return {"backups after a kill that were restored"}

    def require_restorable(self, backup_id: str) -> None:
        judge.require_restorable(self.ground, self.store, backup_id)


class CreateIncremental(Create):
    """On top of what there is: the last full backup, or an incremental one of a round before."""

    name = "create incremental"
    arguments = ("create", "--type=incremental")


class CreateDifferential(Create):
    name = "create differential"
    arguments = ("create", "--type=differential")


class CreateAfterKill(Create):
    """The run before was killed when all its packs were stored: this one takes them over, and is killed, too."""

    name = "create after a kill"

    def _prepare(self, kind: str) -> Store:
        store = super()._prepare(kind)
        self.ground.run(store, *self.arguments, status=points.KILLED, **points.rules("backup.mapped"))
        return store


class FirstCreate(Create):
    name = "first create"

    def _prepare(self, kind: str) -> Store:
        return self.ground.new_store(kind)


class MirroredCreate(Create):
    """Into a directory with a bucket as its mirror: what is listed there is whole as well, and is caught up."""

    name = "mirrored create"
    kinds = ("mirror",)

    def judge(self, ended: Ended) -> set[str]:
        facts = super().judge(ended)
        mirror = self.store.mirror()
        mirror.listed.clear()
        copied = judge.require_whole_catalog(mirror, self.chance, new=len(self.store.listed))
        assert set(copied) <= set(self.store.listed)
        return facts | ({"mirrors left behind by a kill"} if copied != self.store.listed else set())

    def repeat(self) -> set[str]:
        facts = super().repeat()
        judge.require_whole_catalog(self.store.mirror(), self.chance, new=0)
        return facts | {"mirrors caught up after a kill"}


class Restore(Attack):
    name = "restore"
    recover = True

    def _prepare(self, kind: str) -> Store:
        store = super()._prepare(kind)
        self.target = self.ground.new_target()
        self.backup_id = self.chance.choice(store.listed[-3:])
        how = [f"--bin-dir={self.ground.cluster.bin}", *([] if self.recover else ["--no-recover"])]
        self.arguments = ["restore", self.backup_id, f"--data-dir={self.target}", *how]
        return store

    def judge(self, ended: Ended) -> set[str]:
        judge.require_whole_catalog(self.store, self.chance, new=0)
        # One that was killed when all was done could not tell any more where its recovery ended.
        end = Lsn.parse(ended.answer["end_lsn"]) if self.recover and ended.status == 0 else None
        if not judge.whole_if_it_starts(self.ground, self.store, self.backup_id, self.target, end):
            assert ended.status != 0, f"a restore succeeded, and does not start: {ended}"
            return {"half restores that do not start"}
        return {"killed restores that were whole"} if ended.status else set()

    def repeat(self) -> set[str]:
        facts = set()
        if self.target.exists() and any(self.target.iterdir()):
            refused = self._run(status=Exit.PRECONDITION).answer["error"]
            assert "not empty" in refused["message"] and refused["hint"], refused
            facts = {"half restores that were refused as a target"}
            shutil.rmtree(self.target)
        answer = self._run().answer
        end = Lsn.parse(answer["end_lsn"]) if self.recover else None
        judge.require_ledger(self.ground, self.store, self.backup_id, self.target, end)
        shutil.rmtree(self.target)
        assert list(self.ground.temporary.iterdir()) == []
        return facts | {"restores after a kill that started"}


class RestoreWithoutRecovery(Restore):
    name = "restore --no-recover"
    recover = False


class VerifyFrames(Attack):
    name = "verify frames"
    level = "frames"

    def _prepare(self, kind: str) -> Store:
        store = super()._prepare(kind)
        self.arguments = ["verify", "latest", f"--level={self.level}", f"--bin-dir={self.ground.cluster.bin}"]
        return store

    def judge(self, ended: Ended) -> set[str]:
        judge.require_whole_catalog(self.store, self.chance, new=0)
        return set()

    def repeat(self) -> set[str]:
        report = self._run().answer
        assert report["ok"] and report["proven"] == (self.level == "start")
        return {f"verifications after a kill ({self.level})"}


class VerifyStart(VerifyFrames):
    name = "verify start"
    level = "start"

    def repeat(self) -> set[str]:
        facts = super().repeat()
        assert list(self.ground.temporary.iterdir()) == []
        return facts


class ChangeKey(Attack):
    """On a repository without a recovery key: if no passphrase opened it, nothing would."""

    name = "keys change"
    command = "change"

    def _prepare(self, kind: str) -> Store:
        store = self.ground.empty_store(kind)
        self.known = store.environ["BACKUP_PASSPHRASE"] = "old"
        self.ground.run(store, "init")
        for slot in self.ground.run(store, "keys", "list").answer:
            if slot["kind"] == "recovery":
                self.ground.run(store, "keys", "remove", slot["slot_id"], "--yes")
        self.file = self.ground.place / f"new-passphrase-{secrets.token_hex(6)}"
        self.file.write_text("new")
        self.arguments = ["keys", self.command, f"--new-passphrase-file={self.file}"]
        return store

    def judge(self, ended: Ended) -> set[str]:
        old, new = (judge.opens(self.store, secret) for secret in ("old", "new"))
        assert old or new, "no passphrase opens the repository"
        assert ended.status != 0 or (new and not old)
        if not old:
            self.known = "new"
        return {"changed keys although killed"} if new and ended.status else set()

    def repeat(self) -> set[str]:
        self.store.environ["BACKUP_PASSPHRASE"] = self.known
        self.file.write_text("in the end")
        self._run()
        assert judge.opens(self.store, "in the end") and not judge.opens(self.store, self.known)
        return {"key changes after a kill"}


class AddKey(ChangeKey):
    name = "keys add"
    command = "add"

    def judge(self, ended: Ended) -> set[str]:
        assert judge.opens(self.store, "old")
        added = judge.opens(self.store, "new")
        assert added or ended.status != 0
        return {"keys added although killed"} if added and ended.status else set()

    def repeat(self) -> set[str]:
        self._run()
        assert judge.opens(self.store, "old") and judge.opens(self.store, "new")
        return {"keys added after a kill"}


class RemoveKey(ChangeKey):
    name = "keys remove"
    command = "add"

    def _prepare(self, kind: str) -> Store:
        store = super()._prepare(kind)
        slot = self.ground.run(store, *self.arguments).answer["slot_id"]
        self.arguments = ["keys", "remove", slot, "--yes"]
        return store

    def judge(self, ended: Ended) -> set[str]:
        assert judge.opens(self.store, "old")
        self.removed = not judge.opens(self.store, "new")
        assert self.removed or ended.status != 0
        return {"keys removed although killed"} if self.removed and ended.status else set()

    def repeat(self) -> set[str]:
        ended = self._run(status=Exit.PRECONDITION if self.removed else Exit.OK)
        assert not self.removed or "no such key" in ended.answer["error"]["message"]
        assert judge.opens(self.store, "old") and not judge.opens(self.store, "new")
        return {"keys removed after a kill"}


class Init(Attack):
    name = "init"
    arguments = ("init",)

    def _prepare(self, kind: str) -> Store:
        store = self.ground.empty_store(kind)
        store.environ["BACKUP_PASSPHRASE"] = "of the operator"
        return store

    def judge(self, ended: Ended) -> set[str]:
        listed = self.ground.end(self.ground.begin(self.store, ["list"], {}))
        self.made = listed.status == 0
        assert self.made or (listed.status == Exit.PRECONDITION and ended.status != 0), listed
        return {"repositories made although killed"} if self.made and ended.status else set()

    def repeat(self) -> set[str]:
        ended = self._run(status=Exit.CONFLICT if self.made else Exit.OK)
        if self.made:
            assert "already" in ended.answer["error"]["message"]
        else:
            assert judge.opens(self.store, ended.answer["recovery_key"])
        assert judge.opens(self.store, "of the operator")
        self.store.listed.append(self.ground.run(self.store, "create").answer["backup_id"])
        judge.require_whole(self.store, self.store.listed[0])
        return {"repositories made after a kill"}
