"""The power goes at any moment of a backup, a restore, an init or a change of keys; what was synced is all there is.

The repository or the restore's target lies on a file system that forgets what was not synced
(tests/support/forgetful_fs.py). When the power is back: what was acknowledged is there, what is listed is whole,
a target either starts with all its rows or refuses to, and the repetition succeeds.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from campaigns import disk_work
from campaigns.campaign import Campaign
from campaigns.disk_ground import Ground
from campaigns.disk_work import Outcome
from pgproof.model.config import BackupConfig
from pgproof.repository.local import LocalBucket
from tests.support.forgetful_fs import CHANGES, Rule

Trace = list[tuple[str, str]]
_NEAR_THE_END = 60
_BACKUPS_IN_ONE = 8
_OLD, _NEW, _NEWER = "an old passphrase", "a new passphrase", "a newer passphrase"


def run(campaign: Campaign) -> None:
    with Ground() as ground:
        power = _Power(campaign, ground)
        _Repository(campaign, ground, power).attack(campaign.times(100, 5))
        _Target(campaign, ground, power).attack(campaign.times(100, 1))
    campaign.require("power cuts", 200, 8)
    campaign.require("cuts in the middle", 120)
    for what in ("backups", "restores", "inits", "key changes", "single objects"):
        campaign.require(f"cuts of {what}", 10)
    campaign.require("backups acknowledged before a cut", 30)
    campaign.require("targets that refused to start", 30, 0)
    campaign.require("objects acknowledged before a cut", 500)


def moment(chance: random.Random, trace: Trace) -> Rule:
    """A rule that cuts the power somewhere in a run like the one that was traced."""
    match chance.choice(["any", "kind", "end"]):
        case "any":
            return Rule(CHANGES, nth=chance.randint(1, len(trace)))
        case "end":
            return Rule(CHANGES, nth=max(1, len(trace) - chance.randrange(_NEAR_THE_END)))
        case _:
            op = chance.choice(sorted({op for op, _path in trace}))
            return Rule(frozenset({op}), nth=chance.randint(1, sum(each == op for each, _path in trace)))


class _Power:
    """Runs work on the disks, cuts their power and switches it on again."""

    def __init__(self, campaign: Campaign, ground: Ground) -> None:
        self._campaign = campaign
        self._ground = ground
        self._disks = [ground.disk, ground.second]
        self._traces: dict[str, list[Trace]] = {}

    def cut(self, what: str, chance: random.Random, work: Callable[..., Any], *arguments: Any) -> Outcome:
        """Run work whose power is cut at some moment, or right after it; then switch it on."""
        kind = f"{what} {arguments[-1] is True}"
        for disk in self._disks:
            disk.trace()
        if known := self._traces.get(kind):
            changed = [number for number, trace in enumerate(known) if trace]
            number = chance.choice(changed) if chance.random() < 0.3 else changed[0]
            self._disks[number].arm([moment(chance, known[number])])
        outcome = disk_work.run(self._disks, work, *arguments, dies_at_cut=chance.random() < 0.5)
        if not any(disk.is_off() for disk in self._disks):
            self._traces.setdefault(kind, [disk.trace() for disk in self._disks])
        else:
            self._campaign.count("cuts in the middle")
        self._switch(chance)
        self._campaign.count(f"cuts of {what}")
        assert outcome.error is None or outcome.error.hint, outcome.error
        return outcome

    def then_cut(self, chance: random.Random, work: Callable[..., Any], *arguments: Any) -> Outcome:
        """Run work that must succeed; then the power is cut."""
        outcome = disk_work.run(self._disks, work, *arguments)
        assert outcome.done, outcome.error
        self._switch(chance)
        return outcome

    def _switch(self, chance: random.Random) -> None:
        self._ground.power_cut(chance)
        self._campaign.count("power cuts")


class _Repository:
    """The repository lies on the disk."""

    def __init__(self, campaign: Campaign, ground: Ground, power: _Power) -> None:
        self._campaign = campaign
        self._ground = ground
        self._power = power
        self._config: BackupConfig | None = None
        self._acknowledged: set[str] = set()

    def attack(self, rounds: int) -> None:
        kinds = [self._backup, self._objects, self._init, self._backup, self._key_change, self._backup]
        number = 0
        while number < rounds or not self._campaign.counts["cuts in the middle"]:
            kinds[number % len(kinds)](self._campaign.random(f"repository {number}"))
            number += 1
        self._ground.clear()

    def _backup(self, chance: random.Random) -> None:
        if self._config is None or len(self._acknowledged) > _BACKUPS_IN_ONE:
            self._ground.clear()
            self._config, self._acknowledged = self._ground.new_repository(self._ground.disk.path), set()
        config, source = self._config, self._ground.cluster.config()
        if chance.random() < 0.3:
            # A run that failed leaves objects which nobody has synced; the next run may not rely on them.
            rule = Rule(CHANGES, chance.randint(1, 150), errno.EIO, lasting=True)
            self._ground.disk.arm([rule])
            self._acknowledge(disk_work.run([self._ground.disk], disk_work.back_up, source, config))
            self._ground.disk.repair()
            self._campaign.count("runs that failed before")
        self._acknowledge(self._power.cut("backups", chance, disk_work.back_up, source, config))
        self._ground.require_listed(config, self._acknowledged)
        self._acknowledge(self._power.then_cut(chance, disk_work.back_up, source, config))
        self._campaign.count("backups acknowledged before a cut")
        listed = self._ground.require_listed(config, self._acknowledged)
        self._campaign.count("backups listed and whole", len(listed))

    def _acknowledge(self, outcome: Outcome) -> None:
        if outcome.done:
            self._acknowledged.add(outcome.value)

    def _objects(self, chance: random.Random) -> None:
        root = self._place(chance)
        root.mkdir()
        self._ground.disk.sync()
        outcome = self._power.cut("single objects", chance, disk_work.create_objects, root, root.name, 40)
        bucket = LocalBucket(root)
        for key in {*outcome.told, *(info.key for info in bucket.list(""))}:
            assert bucket.read(key) == disk_work.content_of(key), f"{key} in {outcome.told}"
        self._campaign.count("objects acknowledged before a cut", len(outcome.told))

    def _init(self, chance: random.Random) -> None:
        place = str(self._place(chance) / "below" / "repository")
        config = BackupConfig(backup_dir=place, passphrase=_OLD, encryption=chance.random() < 0.5)
        outcome = self._power.cut("inits", chance, disk_work.init, config)
        if not outcome.done and not disk_work.opens(config):
            self._power.then_cut(chance, disk_work.init, config)
            self._campaign.count("inits repeated")
        assert disk_work.opens(config)
        assert outcome.value is None or disk_work.opens(config, outcome.value)

    def _key_change(self, chance: random.Random) -> None:
        config = BackupConfig(backup_dir=str(self._place(chance)), passphrase=_OLD)
        recovery_key = self._power.then_cut(chance, disk_work.init, config).value
        outcome = self._power.cut("key changes", chance, disk_work.change_key, config, _NEW)
        old, new = disk_work.opens(config, _OLD), disk_work.opens(config, _NEW)
        assert (new and not old) if outcome.done else (old or new)
        assert disk_work.opens(config, recovery_key)
        now = replace(config, passphrase=_OLD if old else _NEW)
        self._power.then_cut(chance, disk_work.change_key, now, _NEWER)
        assert disk_work.opens(config, _NEWER) and not disk_work.opens(now)

    def _place(self, chance: random.Random) -> Path:
        return self._ground.disk.path / f"{chance.randrange(1 << 30)}"


class _Target:
    """The data directory lies on the disk, its tablespace on another."""

    def __init__(self, campaign: Campaign, ground: Ground, power: _Power) -> None:
        self._campaign = campaign
        self._ground = ground
        self._power = power
        self._config = ground.stocked_repository()

    def attack(self, rounds: int) -> None:
        for recover in (False, True):  # so that it is known what there is to be cut
            assert self._restore(self._campaign.random(f"traced {recover}"), recover)
        for number in range(rounds):
            chance = self._campaign.random(f"target {number}")
            recover = chance.random() < 0.6
            if not self._restore(chance, recover):
                arguments = (self._config, self._target, self._ground.tablespaces(), recover)
                self._power.then_cut(chance, disk_work.restore, *arguments)
                self._require_whole(recover)
                self._campaign.count("restores repeated")

    def _restore(self, chance: random.Random, recover: bool) -> bool:
        """Restore, with a cut; whether it was acknowledged. What did not become whole is removed, as the runbook says."""
        self._ground.clear()
        arguments = (self._config, self._target, self._ground.tablespaces(), recover)
        outcome = self._power.cut("restores", chance, disk_work.restore, *arguments)
        if outcome.done:
            self._require_whole(recover)
            self._campaign.count("restores acknowledged before a cut")
        elif self._ground.state_of(self._target) == "refuses":
            self._campaign.count("targets that refused to start")
        else:
            self._campaign.count("targets that were whole before the restore said so")
        if not outcome.done:
            self._ground.clear()
        return outcome.done

    def _require_whole(self, recover: bool) -> None:
        self._ground.require_owned(self._target)
        if not recover:
            self._ground.require_files(self._target)
        assert self._ground.state_of(self._target) == "whole"

    @property
    def _target(self) -> Path:
        return self._ground.disk.path / "new" / "data"
