"""A week of the recommended schedules, each occurrence a run of the real service, with something going wrong now and then.

The clock is moved from one occurrence to the next. Prefect itself makes the runs and the runner of the service takes them: what
is due is known here from the cron lines alone.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from campaigns.campaign import Campaign
from campaigns.schedules_model import promised, times_of
from campaigns.schedules_world import ENDED, World
from deployments.recommended import for_service, recommended
from pgproof.model.config import BackupConfig
from tests.prefect.stack import processes_of
from tests.support import machine

OBJECTIVES = {
    "BACKUP_MAX_AGE_HOURS": "3",
    "BACKUP_PROOF_MAX_AGE_DAYS": "6",
    "BACKUP_RPO_MINUTES": "30",
}
_BACKUP, _LOOK, _PROOF = "backup/hourly-incremental", "watch-objectives/hourly", "verify/weekly"
_CLEANUP = "cleanup/weekly"
_HOUR = timedelta(hours=1)
# Where nothing is due, Prefect shall at least look for silence, as it does every five seconds.
_LOOK_SECONDS = 8
Act = Callable[[], None]


@dataclass
class Week:
    """From `start` to `end`, which is a Sunday's 06:00 and behind the first of a month where everything shall be due.

    What goes wrong is planned back from the end; what does not fit behind `start` is left out.
    """

    campaign: Campaign
    world: World
    start: datetime
    end: datetime
    # What is done right before a moment, while its runs are about to start, and when they have ended.
    before: dict[datetime, Act] = field(default_factory=dict)
    during: dict[datetime, Act] = field(default_factory=dict)
    after: dict[datetime, Act] = field(default_factory=dict)
    broken: set[datetime] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def live(self) -> None:
        """Raises AssertionError for a run, a backup or a notification that is there and should not be, or the other way."""
        for moment, due in self._occurrences():
            self.before.get(moment, _nothing)()
            self._pass(moment, sorted(set(due) - self.paused))
            self.after.get(moment, _nothing)()
        received = Counter(each["title"] for each in self.world.hook.received)
        assert received == Counter(self.told), (received - Counter(self.told), Counter(self.told) - received)
        self.campaign.count("notifications", len(self.told))

    # what is due

    def _occurrences(self) -> list[tuple[datetime, list[str]]]:
        """Every moment at which something is due, and which deployments."""
        found: dict[datetime, list[str]] = {}
        for each in for_service(recommended(), BackupConfig(backup_dir="/backups"), wal=False):
            for schedule in each.schedules:
                if schedule.get("active", True):
                    for moment in times_of(schedule["cron"], self.start, self.end):
                        found.setdefault(moment, []).append(f"{each.flow.replace('_', '-')}/{each.name}")
        return sorted(found.items())

    def _pass(self, moment: datetime, due: list[str]) -> None:
        """Let it be this moment, and wait for the runs that are due."""
        before = self.world.backups() if _CLEANUP in due else []
        self.world.clock.move_to(moment)
        self.world.cluster.psql(
            "INSERT INTO ledger SELECT now(), repeat('x', 100) FROM generate_series(1, 200)"
        )
        self.during.get(moment, _nothing)()
        if not due:
            time.sleep(_LOOK_SECONDS)
        for run in self._ended(moment, due) if due else ():
            name = self._names[run["deployment_id"]]
            usual = "Completed" if name != _LOOK else "Completed ObjectiveBroken"
            assert run["state_name"] in usual.split() or moment in self.broken, _words(run)
            self.campaign.count("runs by schedule")
            self.campaign.count(f"runs of {name}")
        if before:
            self._compare(before, "the weekly cleanup")

    def _compare(self, before: list[Any], what: str) -> None:
        """What is left of `before` is what the policy promises, neither more nor less."""
        left = {each.backup_id for each in self.world.backups()}
        assert left == promised(before), f"{what}: {sorted(left ^ promised(before))}"
        self.campaign.count(f"backups removed by {what}", len(before) - len(left))
        self.campaign.count(f"backups kept by {what}", len(left))

    def clean_up_at_the_end(self) -> None:
        before = self.world.backups()
        self.world.must("cleanup", "--yes")
        self._compare(before, "a cleanup at the end")

    def _ended(self, moment: datetime, due: list[str]) -> list[dict[str, Any]]:
        """The runs of this moment when all of them have ended: one for each deployment that is due, and no other."""
        runs: list[dict[str, Any]] = []

        def ended() -> bool:
            time.sleep(0.3)
            runs[:] = self.world.runs(moment - timedelta(seconds=30), moment + timedelta(seconds=30))
            return len(runs) >= len(due) and all(run["state_type"] in ENDED for run in runs)

        with suppress(TimeoutError):
            machine.wait_until(ended, "the runs", timeout=400)
        names = sorted(self._names[run["deployment_id"]] for run in runs)
        assert ended() and names == due, (
            f"{moment}: {due} are due, and {[_words(run) for run in runs]}\n{self.world.log('service')[-3000:]}"
        )
        return runs

    @cached_property
    def _names(self) -> dict[str, str]:
        """The deployments by their ids."""
        flows = {each["id"]: each["name"] for each in self.world.ask("/flows/filter")}
        return {
            each["id"]: f"{flows[each['flow_id']]}/{each['name']}"
            for each in self.world.ask("/deployments/filter")
        }

    # what goes wrong

    def plan_trouble(self) -> None:
        """Hours are those of the Saturday. Each kind has its own, so that each message tells of one thing."""
        for hour, plan in (
            (7, self._no_backups),
            (12, self._wal_stays_behind),
            (14, self._a_run_is_killed),
            (16, self._the_server_is_down),
            (17, self._nobody_looks),
        ):
            begin = self.end - timedelta(days=1, hours=6) + timedelta(hours=hour)
            if begin >= self.start:
                plan(begin)
                self.campaign.count("troubles")
        self._no_proof()

    def _no_backups(self, begin: datetime) -> None:
        """The objective is three hours."""
        self.before[begin + timedelta(hours=1, minutes=5)] = lambda: self._pause(_BACKUP)
        self.after[begin + timedelta(hours=3, minutes=45)] = lambda: self._tell(
            r"pgproof main: 1 broken \(backup-age\)", lambda: self._resume(_BACKUP)
        )
        self.after[begin + timedelta(hours=4, minutes=45)] = lambda: self._tell("pgproof main: recovered")

    def _nobody_looks(self, begin: datetime) -> None:
        """Prefect itself misses the looks, by an automation whose limit is three hours."""
        self.before[begin + timedelta(hours=1, minutes=45)] = lambda: self._pause(_LOOK)
        self.after[begin + timedelta(hours=4, minutes=5)] = lambda: self._tell(
            "no look at the objectives of main for 3 h", lambda: self._resume(_LOOK)
        )
        self.after[begin + timedelta(hours=4, minutes=45)] = lambda: self._tell(
            "look at the objectives of main: recovered"
        )

    def _wal_stays_behind(self, begin: datetime) -> None:
        self.before[begin + timedelta(minutes=45)] = self.world.stop_streamer
        self.after[begin + timedelta(minutes=45)] = lambda: self._tell(
            r"pgproof main: 1 broken \(rpo\)", self.world.start_streamer
        )
        self.after[begin + timedelta(hours=1, minutes=45)] = lambda: self._tell("pgproof main: recovered")

    def _a_run_is_killed(self, begin: datetime) -> None:
        at = begin + timedelta(minutes=5)
        self.broken.add(at)
        self.during[at] = lambda: self._kill_the_run(at)
        self.after[at] = lambda: self._tell("backup .*: Crashed")
        self.after[at + _HOUR] = lambda: self._tell("backup .*: recovered")

    def _the_server_is_down(self, begin: datetime) -> None:
        at = begin + timedelta(minutes=5)
        self.broken.add(at)
        self.during[at] = self.world.cluster.stop
        self.after[at] = lambda: self._tell("backup .*: Failed", self.world.start_the_server_again)
        self.after[at + _HOUR] = lambda: self._tell("backup .*: recovered")

    def _no_proof(self) -> None:
        """The objective is six days, a backup was proven before the first, and the next proof is due on the seventh. When it
        is told, somebody proves one by hand."""
        alarm = self.start + timedelta(days=6, minutes=45)
        if alarm + _HOUR >= self.end:
            return
        self.campaign.count("troubles")
        self.after[alarm] = lambda: self._tell(
            r"pgproof main: 1 broken \(proof-age\)", lambda: self.world.run_now(_PROOF)
        )
        self.after[alarm + _HOUR] = lambda: self._tell("pgproof main: recovered")

    def _pause(self, deployment: str) -> None:
        self.world.ask(f"/deployments/{self.world.deployment(deployment)}/pause_deployment")
        self.paused.add(deployment)

    def _resume(self, deployment: str) -> None:
        """Prefect makes its runs again within seconds; what is due must not pass meanwhile."""
        self.world.ask(f"/deployments/{self.world.deployment(deployment)}/resume_deployment")
        self.paused.discard(deployment)
        now = self.world.clock.now()

        def made() -> bool:
            time.sleep(0.3)
            coming = self.world.runs(now, now + timedelta(days=2))
            return any(self._names[run["deployment_id"]] == deployment for run in coming)

        machine.wait_until(made, f"runs of {deployment}", timeout=180)

    def _kill_the_run(self, moment: datetime) -> None:
        """In the middle of its backup: it has said which packs it may use, and has not committed."""
        backups = self.world.repository / "clusters" / "main" / "backups"

        def at_work() -> set[str]:
            intents = {path.parent.name for path in backups.glob("*/intent")}
            return intents - {path.parent.name for path in backups.glob("*/manifest")}

        earlier = at_work()
        machine.wait_until(lambda: bool(at_work() - earlier), "a backup to be under way", timeout=120)
        (run,) = self.world.runs(moment - timedelta(seconds=30), moment + timedelta(seconds=30))
        for pid in processes_of(run["id"]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.campaign.count("runs killed")

    def _tell(self, title: str, then: Act | None = None) -> None:
        """One more notification, and this is its title; then the cause is mended."""
        machine.wait_until(
            lambda: len(self.world.hook.received) > len(self.told), f"{title!r} to be told", timeout=180
        )
        new = [each["title"] for each in self.world.hook.received][len(self.told) :]
        assert len(new) == 1 and re.fullmatch(title, new[0]), (title, new)
        self.told += new
        if then is not None:
            then()


def _nothing() -> None:
    """At most moments nothing goes wrong."""


def _words(run: dict[str, Any]) -> str:
    return f"{run['name']}: {run['state_name']} ({run['state']['message']})"
