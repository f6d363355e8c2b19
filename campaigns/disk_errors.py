"""Disks that are full or fail in the middle: of a backup, a restore, a verification, an init, a change of keys.

Each call in turn is made to fail on a disk that also forgets what was not synced. The work either succeeds and
its result is whole, or it ends with an error of the right class and a hint. Nothing half is listed, nothing that
was acknowledged is lost in the power cut that follows, and when the disk is well again the next run succeeds.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from campaigns import disk_work
from campaigns.campaign import Campaign
from campaigns.disk_ground import Ground
from campaigns.disk_work import Outcome
from campaigns.full_disks import FullDisks
from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig, VerifyLevel
from tests.support.forgetful_fs import ForgetfulDisk, Rule

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TAKES_SPACE = {"create", "mkdir", "symlink", "link", "rename", "write", "truncate", "allocate", "fsync"}
_FAVOURITES = ("fsync", "fsyncdir", "syncfs", "write")
_READS = 200
_OLD, _NEW = "an old passphrase", "a new passphrase"


def run(campaign: Campaign) -> None:
    with Ground() as ground:
        attacks = _Attacks(campaign, ground)
        kinds = [attacks.backup, attacks.restore, attacks.backup, attacks.keys, attacks.restore]
        kinds += [attacks.backup, attacks.verify_scratch, attacks.init, attacks.verify_repository]
        _in_turn(campaign, kinds, campaign.times(180, 3), "ended with an error")
        full = FullDisks(campaign, ground)
        kinds = [full.repository, full.target, full.spool]
        kinds += [full.thin_target, full.thin_repository, full.source]
        _in_turn(campaign, kinds, campaign.times(60, 2), "ended with an error for want of room")
    campaign.require("rounds", 240, 5)
    campaign.require("errors injected", 150)
    campaign.require("ended with an error", 100)
    campaign.require("ended with an error for want of room", 40)
    campaign.require("next runs that succeeded", 160)
    for op in ("write", "fsync", "fsyncdir", "create", "read"):
        campaign.require(f"failed {op}", 4, 0)


def _in_turn(
    campaign: Campaign, kinds: Sequence[Callable[[random.Random], None]], rounds: int, until: str
) -> None:
    """Each kind in its turn, a sample beginning anywhere; at least until this has happened."""
    first = campaign.random(until).randrange(len(kinds))
    number = 0
    while number < rounds or not campaign.counts[until]:
        kinds[(first + number) % len(kinds)](campaign.random(f"{until} {number}"))
        campaign.count("rounds")
        number += 1


class _Attacks:
    """One round of each kind: work on a disk with a rule, a look at what is left, and the repetition."""

    def __init__(self, campaign: Campaign, ground: Ground) -> None:
        self._campaign = campaign
        self._ground = ground
        self._traces: dict[str, list[str]] = {}
        self._stocked = ground.stocked_repository()

    def backup(self, chance: random.Random) -> None:
        self._ground.clear()
        config, source = self._ground.new_repository(self._ground.disk.path), self._ground.cluster.config()
        acknowledged = {self._succeeds("backup", disk_work.back_up, source, config).value}
        for _ in range(2):
            outcome = self._fails("backup", chance, self._ground.disk, disk_work.back_up, source, config)
            if outcome.done:
                acknowledged.add(outcome.value)
            self._ground.require_listed(config, acknowledged)
            acknowledged.add(self._succeeds("backup", disk_work.back_up, source, config).value)
            self._power_cut(chance)
            self._ground.require_listed(config, acknowledged)

    def restore(self, chance: random.Random) -> None:
        self._ground.clear()
        recover = chance.random() < 0.6
        target = self._ground.disk.path / "new" / "data"
        work = (disk_work.restore, self._stocked, target, self._ground.tablespaces(), recover)
        kind = f"restore {recover}"
        if kind not in self._traces:
            self._succeeds(kind, *work)
            self._ground.clear()
        disk = self._ground.second if chance.random() < 0.2 else self._ground.disk
        outcome = self._fails(kind, chance, disk, *work)
        self._power_cut(chance)
        state = self._ground.state_of(target)
        assert state == "whole" if outcome.done else state in ("whole", "refuses"), state
        self._ground.clear()
        self._succeeds(kind, *work)
        self._power_cut(chance)
        assert self._ground.state_of(target) == "whole"

    def verify_scratch(self, chance: random.Random) -> None:
        """The scratch directory is on the disk."""
        self._ground.clear()
        self._ground.disk.path.chmod(0o755)
        work = (disk_work.verify, self._stocked, VerifyLevel.START, self._ground.disk.path)
        if "scratch" not in self._traces:
            self._finds_nothing("scratch", *work)
        outcome = self._fails("scratch", chance, self._ground.disk, *work)
        assert not outcome.value, f"a disk that failed was taken for a damaged backup: {outcome.value}"
        self._finds_nothing("scratch", *work)
        assert list(self._ground.disk.path.iterdir()) == []

    def verify_repository(self, chance: random.Random) -> None:
        self._ground.clear()
        config, source = self._ground.new_repository(self._ground.disk.path), self._ground.cluster.config()
        backup_id = self._succeeds("backup", disk_work.back_up, source, config).value
        work = (disk_work.verify, config, VerifyLevel.FRAMES, self._ground.place)
        for _ in range(4):
            outcome = self._fails("verify", chance, self._ground.disk, *work, only="read")
            assert not outcome.value, f"a disk that failed was taken for a damaged backup: {outcome.value}"
            self._finds_nothing("verify", *work)
        self._ground.require_listed(config, {backup_id})

    def init(self, chance: random.Random) -> None:
        place = str(self._ground.disk.path / f"{chance.randrange(1 << 30)}" / "repository")
        config = BackupConfig(backup_dir=place, passphrase=_OLD, encryption=chance.random() < 0.5)
        outcome = self._fails("init", chance, self._ground.disk, disk_work.init, config)
        if not outcome.done and not disk_work.opens(config):
            self._succeeds("init", disk_work.init, config)
        self._power_cut(chance)
        assert disk_work.opens(config)

    def keys(self, chance: random.Random) -> None:
        config = BackupConfig(
            backup_dir=str(self._ground.disk.path / f"{chance.randrange(1 << 30)}"), passphrase=_OLD
        )
        recovery_key = self._succeeds("init", disk_work.init, config).value
        outcome = self._fails("keys", chance, self._ground.disk, disk_work.change_key, config, _NEW)
        self._power_cut(chance)
        old, new = disk_work.opens(config), disk_work.opens(config, _NEW)
        assert (new and not old) if outcome.done else (old or new)
        assert disk_work.opens(config, recovery_key)
        now = config if old else replace(config, passphrase=_NEW)
        self._succeeds("keys", disk_work.change_key, now, "a newer passphrase")
        self._power_cut(chance)
        assert disk_work.opens(config, "a newer passphrase") and not disk_work.opens(now)

    def _fails(
        self,
        kind: str,
        chance: random.Random,
        disk: ForgetfulDisk,
        work: Callable[..., Any],
        *arguments: Any,
        only: str = "",
    ) -> Outcome:
        """Run work while calls fail; it ends well, or with a clear error."""
        ops = self._traces.get(kind, []) + ["read"] * _READS
        op = only or chance.choice(sorted(set(ops)) + [op for op in _FAVOURITES if op in ops])
        number = chance.choice(_NO_SPACE) if op in _TAKES_SPACE and chance.random() < 0.5 else errno.EIO
        most = 40 if only else ops.count(op)
        rule = Rule(frozenset({op}), chance.randint(1, most), number, lasting=chance.random() < 0.5)
        disk.arm([rule])
        outcome = disk_work.run([self._ground.disk, self._ground.second], work, *arguments)
        hit = disk.hits()
        self._campaign.count("errors injected", hit)
        self._campaign.count(f"failed {op}", hit)
        self._ground.repair()
        what = f"{kind}: {errno.errorcode[number]} at {op} {rule.nth}{', lasting' if rule.lasting else ''}"
        if outcome.error is not None:
            self._campaign.count("ended with an error")
            _require_clear(outcome.error, number, what)
        elif hit:
            self._campaign.count("succeeded all the same")
        return outcome

    def _succeeds(self, kind: str, work: Callable[..., Any], *arguments: Any) -> Outcome:
        self._ground.disk.trace()
        outcome = disk_work.run([self._ground.disk, self._ground.second], work, *arguments)
        assert outcome.done, outcome.error
        self._traces.setdefault(kind, [op for op, _path in self._ground.disk.trace()])
        self._campaign.count("next runs that succeeded")
        return outcome

    def _finds_nothing(self, kind: str, work: Callable[..., Any], *arguments: Any) -> None:
        assert not (found := self._succeeds(kind, work, *arguments).value), found

    def _power_cut(self, chance: random.Random) -> None:
        self._ground.power_cut(chance)
        self._campaign.count("power cuts")


def _require_clear(error: EngineError, number: int, what: str) -> None:
    said = f"{what}: {type(error).__name__}: {error}"
    assert error.hint, said
    # Full is the operator's to mend; a disk that failed may be well the next time, unless it became read-only.
    wanted = PreconditionError if number in _NO_SPACE else TransientError
    read_only = isinstance(error, PreconditionError) and "ead-only" in str(error)
    assert isinstance(error, wanted) or read_only, said
    assert not isinstance(error, DataError), said
