"""The service on a host whose clock is wrong, and whose processes are killed.

PostgreSQL, the store and the check from outside have the real time. After each kill and each jump of the clock either the next
backup comes, or the check fires. What was committed stays, and a run that is stopped in its backup keeps every other one out.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from campaigns.campaign import Campaign
from campaigns.schedules import verify_backups
from campaigns.schedules_world import World
from pgproof.cli.exits import Exit
from tests.support import machine
from tests.support.moved_clock import MovedClock

SHIFTS = (timedelta(hours=1), timedelta(hours=-1), timedelta(days=2), timedelta(days=-2))
# Two jumps of the clock, and some intervals of half an hour.
_AHEAD = timedelta(days=5)
_ROUNDS = 16
_VICTIMS = ("server", "runner", "run", "service")
# A backup is late when it has not come for so long by the real clock; the check is asked for the same.
_LATE_SECONDS = 240
_COMMAND = {"server": "prefect --no-prompt server start", "runner": "deployments.serve"}


def run(campaign: Campaign) -> None:
    rounds = campaign.times(_ROUNDS, least=2)
    kill_and_move(campaign, rounds)
    kills = sum(number for what, number in campaign.counts.items() if what.endswith(" killed"))
    assert kills >= rounds, campaign.counts
    campaign.require("the clock jumped forward", _ROUNDS, 2)
    campaign.require("the clock jumped back", _ROUNDS, 2)
    campaign.require("a second writer was refused", _ROUNDS // 2)
    campaign.require("the check fired", _ROUNDS // 4)


def kill_and_move(campaign: Campaign, rounds: int) -> None:
    """What was committed in between is whole in the end."""
    every = ["--full", "never", "--incremental", "30m", "--no-wal"]
    with World(MovedClock.by(timedelta(0)), {}, every, one_clock=False) as world:
        world.must("init")
        world.must("create", "--type", "full")
        world.start_service()
        attack = Attack(campaign, world)
        for victim, shift in victims(campaign, rounds):
            attack.round(victim, shift)
        verify_backups(campaign, world, world.backups())


class Attack:
    """`world` has a service that takes an incremental backup every half hour of its own clock."""

    def __init__(self, campaign: Campaign, world: World) -> None:
        self._campaign = campaign
        self._world = world
        self._moved = timedelta(0)
        self._next = world.clock.now()
        self._committed = {each.backup_id for each in world.backups()}

    def round(self, victim: str, shift: timedelta) -> None:
        """The clock jumps, somebody is killed in the middle of a backup, and the clock jumps back."""
        self._jump(shift)
        self._kill(victim)
        self._goes_on(f"after {victim} was killed")
        self._jump(-shift)

    def _jump(self, by: timedelta) -> None:
        self._moved += by
        self._world.clock.move_by(self._moved)
        self._campaign.count(f"the clock jumped {'forward' if by > timedelta(0) else 'back'}")
        self._goes_on(f"after the clock was moved by {by}")

    def _goes_on(self, when: str) -> None:
        """The next backup comes when it is due, or the check fires; then somebody starts the service again."""
        begun = time.monotonic()
        if self._wait_for(self._scheduled, _LATE_SECONDS):
            self._due()
        if self._wait_for(self._new_backup, _LATE_SECONDS):
            self._campaign.count("went on by itself")
            self._campaign.notes["slowest, seconds"] = max(
                self._campaign.notes.get("slowest, seconds", 0), round(time.monotonic() - begun)
            )
            return
        done = self._check()
        assert done == Exit.NOT_PASSED, f"silence {when}: {done}\n{self._world.log('service')[-4000:]}"
        self._campaign.count("the check fired")
        self._start_again()

    def _check(self) -> int:
        return self._world.command("status", "--fail-if", f"backup-age>{_LATE_SECONDS}s").returncode

    def _start_again(self) -> None:
        """What somebody does who was told."""
        self._world.stop_service()
        self._world.start_service()
        assert self._wait_for(self._scheduled, _LATE_SECONDS)
        self._due()
        assert self._wait_for(self._new_backup, 2 * _LATE_SECONDS), self._world.log("service")[-4000:]
        assert self._check() == Exit.OK, "the check is content again"
        self._campaign.count("started again by hand")

    def _scheduled(self) -> bool:
        """Whether Prefect has made the next run; it may just be starting. After the clock was set back the next due times may
        have had their runs already: none is made twice."""
        time.sleep(0.5)
        now = self._world.clock.now()
        try:
            runs = self._world.runs(now, now + _AHEAD)
        except httpx.HTTPError:
            return False
        due = [
            datetime.fromisoformat(run["expected_start_time"])
            for run in runs
            if run["parameters"].get("type") == "incremental" and run["state_type"] == "SCHEDULED"
        ]
        self._next = min(due, default=self._next)
        return bool(due)

    def _due(self) -> None:
        """Let the service's clock go to the time at which the next run is due."""
        self._moved += max(timedelta(0), self._next - self._world.clock.now())
        self._world.clock.move_by(self._moved)

    def _new_backup(self) -> bool:
        found = {each.backup_id for each in self._world.backups()}
        assert found >= self._committed, f"lost: {self._committed - found}"
        new = found - self._committed
        self._committed = found
        self._campaign.count("backups", len(new))
        return bool(new)

    def _wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        with suppress(TimeoutError):
            machine.wait_until(condition, "", seconds)
            return True
        return False

    # kills

    def _kill(self, victim: str) -> None:
        """While a backup is under way, and shown to keep others out."""
        assert self._wait_for(self._scheduled, _LATE_SECONDS), self._world.log("service")[-4000:]
        intents = self._intents()
        self._due()
        if not self._wait_for(lambda: bool(self._intents() - intents), _LATE_SECONDS):
            raise AssertionError(f"no backup began\n{self._world.log('service')[-4000:]}")
        run = self._world.processes("-m prefect.engine")
        self._send(run, signal.SIGSTOP)
        refused = self._world.command("create", "--type", "incremental")
        if refused.returncode == Exit.CONFLICT:
            self._campaign.count("a second writer was refused")
        else:
            # The first one had committed before it was stopped.
            assert refused.returncode == Exit.OK, refused.stderr
            self._campaign.count("stopped too late")
        if victim == "run":
            self._send(run, signal.SIGKILL)
        else:
            if victim == "service":
                os.kill(self._world.service.pid, signal.SIGKILL)
                self._world.service.wait()
            else:
                self._send(self._world.processes(_COMMAND[victim]), signal.SIGKILL)
            self._send(run, signal.SIGCONT)
        self._campaign.count(f"{victim} killed")
        self._new_backup()
        if victim == "service":
            self._silence()

    def _silence(self) -> None:
        """Nobody starts it again: whatever its clock said, the check notices."""
        machine.wait_until(lambda: not self._world.processes(""), "its processes to end with it", timeout=240)
        self._new_backup()
        newest = max(path.stat().st_mtime for path in self._backups.glob("*/manifest"))
        machine.wait_until(
            lambda: time.time() - newest > _LATE_SECONDS, "a silence", timeout=2 * _LATE_SECONDS
        )
        assert self._check() == Exit.NOT_PASSED, "the service is dead, and the check is content"
        self._campaign.count("the check fired")
        self._start_again()

    @property
    def _backups(self) -> Path:
        return self._world.repository / "clusters" / "main" / "backups"

    def _intents(self) -> set[str]:
        """The runs that have begun to store something."""
        return {path.parent.name for path in self._backups.glob("*/intent")}

    def _send(self, pids: list[int], what: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, what)


def victims(campaign: Campaign, rounds: int) -> list[tuple[str, timedelta]]:
    """Each kill with each jump, in an order that the seed chooses; the first ones are different kills and jumps."""
    chance = campaign.random("kills")
    shifts = chance.sample(SHIFTS, len(SHIFTS))
    names = chance.sample(_VICTIMS, len(_VICTIMS))
    return [
        (name, shifts[(number + turn) % len(shifts)])
        for turn in range(len(shifts))
        for number, name in enumerate(names)
    ][:rounds]
