"""The router under attack: a primary and three replicas that are killed, frozen, cut off, paused, promoted and overtaken,
while many clients read and write through it.

No read is older than its token or the limits of the lag, none fails that another node can answer, nothing is written to a
server whose time is over, and what was acknowledged is there unless it lay behind the branch of a failover.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import time
from dataclasses import dataclass

from campaigns import routing_faults as faults
from campaigns.campaign import Campaign
from campaigns.routing_faults import FAULTS, Round
from campaigns.routing_judge import Judge
from campaigns.routing_load import Load
from campaigns.routing_shares import shares
from campaigns.routing_view import View
from campaigns.routing_world import RIGHTS, World
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.routing import ReadPolicy
from pgproof.replication import ReadReplicaRouter
from pgproof.routing.options import RouterOptions

_GROUNDS, _SAMPLE_ROUNDS = 4, 3
_MAJORS = (18, 15)
_SHARES_OF = 10_000
_CLIENTS, _SAMPLE_CLIENTS = (80, 200), (50, 50)
_CALLS_A_SECOND = 250  # of all clients together: more is for benchmarks, and needs more than two cores
_HOLD, _SAMPLE_HOLD = 3.0, 0.7
_FROZEN_FOR = 90.0
_SETTLES_WITHIN = 60.0


@dataclass(frozen=True)
class _Ground:
    """What is the same for the rounds on one world."""

    options: RouterOptions
    max_lag_bytes: int
    max_lag_seconds: float
    clients: int
    hold: float
    long_hold: float

    def round(self, name: str, world: World, view: View, load: Load, chance: random.Random) -> Round:
        return Round(
            name,
            world,
            view,
            load,
            chance,
            self.grace,
            self.hold,
            self.long_hold,
            self.max_lag_bytes,
            self.max_lag_seconds,
        )

    @property
    def grace(self) -> float:
        return self.options.check_interval + self.options.check_timeout


def run(campaign: Campaign) -> None:
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # connections that are cut here are no news
    full = campaign.share >= 0.1
    wrong: list[str] = []
    figures: dict[str, list[float]] = {}
    for number in range(campaign.times(_GROUNDS)):
        chance = campaign.random(f"ground {number}")
        ground = _ground(number, chance, full)
        names = [*FAULTS] if full else _sample(chance)
        chance.shuffle(names)
        major = _MAJORS[number % len(_MAJORS)] if full else chance.choice(_MAJORS)
        rights = [*RIGHTS][number % len(RIGHTS)] if full else chance.choice([*RIGHTS])
        with World(major, rights) as world:
            campaign.count(f"on PostgreSQL {major}")
            print(f"  PostgreSQL {major}, rights: {rights}, {ground}", flush=True)
            judge = Judge(campaign, world, ground.max_lag_bytes, ground.max_lag_seconds)
            reads = max(800, round(_SHARES_OF * min(1.0, campaign.share)))
            asyncio.run(_live(campaign, world, ground, judge, chance, names, reads))
        wrong += judge.wrong
        for what, found in judge.figures.items():
            figures.setdefault(what, []).extend(found)
    for what, found in sorted(figures.items()):
        campaign.notes[f"{what}: median"] = round(statistics.median(found), 3)
        campaign.notes[f"{what}: most"] = round(max(found), 3)
    assert not wrong, f"{len(wrong)} times: {'; '.join(wrong[:3])}"
    campaign.require("rounds", _GROUNDS * len(FAULTS), _SAMPLE_ROUNDS)
    campaign.require("reads", 20_000, 200)
    campaign.require("reads with a token", 5_000, 40)
    campaign.require("acknowledged writes", 3_000, 20)
    if campaign.share >= 1:
        for name in FAULTS:
            campaign.require(name, _GROUNDS)
        assert campaign.counts["acknowledged writes behind the branch of a failover, and so lost"]


def _ground(number: int, chance: random.Random, full: bool) -> _Ground:
    policies = list(ReadPolicy)
    interval = chance.choice((0.5, 1.0))
    options = RouterOptions(
        policy=policies[number % len(policies)],
        check_interval=interval,
        check_timeout=1.0,
        token_wait=chance.choice((0.2, 0.5, 2.0)),
        read_max=chance.choice((5, 10)),
    )
    # One of the limits is so wide that the other one is what leaves a replica out.
    nbytes, seconds = chance.choice(((200_000, 30.0), (50_000_000, 2.0)))
    return _Ground(
        options,
        nbytes,
        seconds,
        chance.randint(*(_CLIENTS if full else _SAMPLE_CLIENTS)),
        _HOLD if full else _SAMPLE_HOLD,
        _FROZEN_FOR,
    )


def _sample(chance: random.Random) -> list[str]:
    """One fault of each kind; the shorter ones."""
    return [
        chance.choice(sorted(set(faults.REPLICA_FAULTS) - faults.WAIT_FOR_LAG)),
        chance.choice(sorted(faults.PRIMARY_FAULTS)),
        chance.choice(sorted(faults.FAILOVERS)),
    ]


async def _live(
    campaign: Campaign,
    world: World,
    ground: _Ground,
    judge: Judge,
    chance: random.Random,
    names: list[str],
    reads: int,
) -> None:
    mine = asyncio.all_tasks()
    judge.figures["worst deviation of a share from its weight"].append(
        await shares(world, ground.options, reads)
    )
    campaign.count("reads that fell by weight", reads)
    config = ReplicationConfig(
        world.replicas(), max_lag_bytes=ground.max_lag_bytes, max_lag_seconds=ground.max_lag_seconds
    )
    async with ReadReplicaRouter(world.primary_config(), config, ground.options) as router:
        view = View(router)
        view.start()
        load = Load(router, ground.clients, ground.clients / _CALLS_A_SECOND, chance)
        load.start()
        try:
            await _settle(world, view, judge)
            for name in names:
                now = ground.round(name, world, view, load, chance)
                print(f"  {world.major} {name}", flush=True)
                await FAULTS[name](now)
                await asyncio.to_thread(world.wait_until_whole)
                await asyncio.to_thread(world.show_timelines)
                await _settle(world, view, judge)
                load.raise_failure()
                judge.round(now)
                campaign.count(name)
                campaign.count("replicas made again, because they were past a branch", now.made_again)
            rest = ground.round("nothing", world, view, load, chance)
        finally:
            await load.stop()
            await view.stop()
        judge.round(rest)
        await asyncio.to_thread(world.wait_until_whole)
        numbers = await asyncio.to_thread(world.numbers, world.primary)
        for node in world.standbys():
            assert numbers == await asyncio.to_thread(world.numbers, node), f"{node} has other rows"
    judge.end(numbers)
    await _require_nothing_left(world, mine)


async def _settle(world: World, view: View, judge: Judge) -> None:
    """The router has found out that everything is well again: it writes to the primary and reads from all the others."""
    begun = time.monotonic()

    def well() -> bool:
        return (
            view.used >= set(world.standbys())
            and view.primary == world.primary
            and view.timeline == world.timeline
        )

    assert await view.until(well, _SETTLES_WITHIN), f"not used again: {view.router.status()}"
    judge.figures["seconds until everything is used again"].append(time.monotonic() - begun)


async def _require_nothing_left(world: World, mine: set[asyncio.Task[object]]) -> None:
    left = [task for task in asyncio.all_tasks() - mine if task is not asyncio.current_task()]
    assert not left, f"tasks of the router outlive it: {left}"
    for _ in range(100):
        if not any((connections := await asyncio.to_thread(world.connections)).values()):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"connections of the router outlive it: {connections}")
