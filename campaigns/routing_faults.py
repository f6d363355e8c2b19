"""What happens to the servers while a router is used: each of these begins and ends with a world that is whole.

A fault says of itself what may fail meanwhile: nothing when one replica is hit, writes and what waits for them when the
primary is, and never a plain read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from campaigns.routing_load import Load
from campaigns.routing_view import View
from campaigns.routing_world import World
from tests.support.tcp_proxy import Flow

T = TypeVar("T")
READS, ALL = (
    frozenset({"plain", "stream"}),
    frozenset({"plain", "stream", "token", "own", "session", "write", "transaction", "session write"}),
)


@dataclass
class Round:
    """One fault and what has to be known to judge it.

    `must_succeed` are the kinds of calls that may not fail. `silent_after` says from when on a server that was deposed is neither
    written to nor read from, and `strays` what was found on it. `grace` is how long the router may take to notice:
    a check's interval and its timeout. `hold` is how long the fault lasts, and `long_hold` how long the longest one.
    """

    fault: str
    world: World
    view: View
    load: Load
    chance: random.Random
    grace: float
    hold: float
    long_hold: float
    max_lag_bytes: int
    max_lag_seconds: float
    begun: float = field(default_factory=time.time)
    ended: float = 0.0
    must_succeed: frozenset[str] = ALL
    silent_after: dict[str, float] = field(default_factory=dict)
    strays: dict[str, list[tuple[int, str, float]]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    made_again: int = 0

    async def wait(self, least: float = 0.0) -> None:
        await asyncio.sleep(max(least, self.chance.uniform(0.5, 1.0) * self.hold))

    def victim(self) -> str:
        return self.chance.choice(self.world.standbys())


async def _do(work: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """The world's work blocks, and the clients go on."""
    return await asyncio.to_thread(partial(work, *arguments, **named))


# One replica.


async def _replica_killed(now: Round) -> None:
    node = now.victim()
    await _do(now.world.kill, node)
    await _until_left(now, node)
    await now.wait()
    await _do(now.world.start, node)


async def _replica_restarted(now: Round) -> None:
    node = now.victim()
    await _do(now.world.stop, node, clean=now.chance.random() < 0.5)
    await _do(now.world.start, node)


async def _replica_frozen(now: Round) -> None:
    node = now.victim()
    await _do(now.world.freeze, node)
    try:
        await _until_left(now, node)
        await now.wait()
    finally:
        await _do(now.world.thaw, node)


async def _replica_frozen_shortly(now: Round) -> None:
    """Shorter than anybody needs to call it dead."""
    node = now.victim()
    await _do(now.world.freeze, node)
    try:
        await asyncio.sleep(now.chance.uniform(0.05, 0.8))
    finally:
        await _do(now.world.thaw, node)


async def _replica_cut_off(now: Round, flow: Flow) -> None:
    node = now.victim()
    await _do(now.world.cut_off, node, flow)
    await _until_left(now, node)
    await now.wait()
    await _do(now.world.cut_off, node, Flow.PASS)


async def _replica_without_wal(now: Round, flow: Flow) -> None:
    """A partition between the servers only: the replica answers, and what it answers gets older."""
    node = now.victim()
    await _do(now.world.cut_wal, node, flow)
    await _until_behind(now, node)
    await _do(now.world.cut_wal, node, Flow.PASS)


async def _replay_paused(now: Round) -> None:
    node = now.victim()
    await _do(now.world.pause_replay, node)
    await _until_behind(now, node)
    await _do(now.world.resume_replay, node)


async def _replica_slow(now: Round) -> None:
    node = now.victim()
    await _do(now.world.slow_down, node, now.chance.choice((0.02, 0.1)))
    await now.wait()
    await _do(now.world.slow_down, node, 0.0)


async def _until_left(now: Round, node: str) -> None:
    """Note when the router's own words say that it reads elsewhere."""
    begun = time.time()
    if await now.view.until(lambda: node not in now.view.used, 30):
        now.figures["seconds until reads have left a node"] = time.time() - begun


async def _until_behind(now: Round, node: str) -> None:
    """Until it is over the limit, and then as long as a router may take to see it and twice that again."""
    begun = time.time()
    for _ in range(480):
        behind = await _do(now.world.behind, node)
        if behind > now.max_lag_bytes or (behind and time.time() - begun > now.max_lag_seconds + 1):
            await asyncio.sleep(3 * now.grace)
            return
        await asyncio.sleep(0.25)
    raise AssertionError("the load is too light to pass the limit of the lag")


# The primary, and nobody takes over.


async def _primary_restarted(now: Round) -> None:
    now.must_succeed = READS
    if now.chance.random() < 0.5:
        await _do(now.world.kill, now.world.primary)
        await now.wait()
    else:
        await _do(now.world.stop, now.world.primary, clean=False)
    await _do(now.world.start, now.world.primary)


async def _primary_frozen(now: Round) -> None:
    now.must_succeed = READS
    await _do(now.world.freeze, now.world.primary)
    try:
        await now.wait()
    finally:
        await _do(now.world.thaw, now.world.primary)


async def _primary_cut_off(now: Round, flow: Flow) -> None:
    now.must_succeed = READS
    await _do(now.world.cut_off, now.world.primary, flow)
    await now.wait()
    await _do(now.world.cut_off, now.world.primary, Flow.PASS)


# Somebody takes over.


async def _fenced(now: Round, *, comes_back: bool = False) -> None:
    """The old primary is dead when another takes over. It may be started again as it was, by who knows no better."""
    now.must_succeed = READS
    world, old = now.world, now.world.primary
    await _do(world.kill, old)
    await now.wait()
    promotion = await _do(world.promote, await _do(world.most_advanced), fenced=True)
    now.made_again += await _do(world.gather, old)
    now.silent_after[promotion.deposed] = promotion.done
    if comes_back:
        if now.chance.random() < 0.7:
            assert await now.view.until(lambda: now.view.timeline >= promotion.timeline, 60)
            await _do(world.start, old)
        else:
            # It is back before the router can have seen its successor.
            await _do(world.start, old)
            now.silent_after[promotion.deposed] = time.time() + now.grace
        await now.wait(2 * now.grace)
    await _end_of(now, old, promotion.deposed)


async def _unfenced(now: Round) -> None:
    """Two primaries that both answer: the other replicas stay with the old one for a while."""
    now.must_succeed = READS
    world, old = now.world, now.world.primary
    promotion = await _do(world.promote, now.victim(), fenced=False)
    now.silent_after[promotion.deposed] = promotion.done + now.grace
    if now.chance.random() < 0.5:
        await now.wait(2 * now.grace)
        now.made_again += await _do(world.gather, old)
    else:
        now.made_again += await _do(world.gather, old)
        await now.wait(2 * now.grace)
    await _end_of(now, old, promotion.deposed)


async def _frozen_and_overtaken(now: Round, seconds: float | None = None) -> None:
    """The old primary is not dead, as everybody thought: it goes on in the middle of what it did (TRAPS E6)."""
    now.must_succeed = READS
    world, old = now.world, now.world.primary
    await _do(world.freeze, old)
    try:
        await now.wait()
        promotion = await _do(world.promote, await _do(world.most_advanced), fenced=False)
        now.silent_after[promotion.deposed] = promotion.done + now.grace
        now.made_again += await _do(world.gather, old)
        await asyncio.sleep(now.hold if seconds is None else seconds)
    finally:
        await _do(world.thaw, old)
    await now.wait(2 * now.grace)
    await _end_of(now, old, promotion.deposed)


async def _cut_off_and_overtaken(now: Round, flow: Flow) -> None:
    """The router is on the other side of a partition than the old primary, and then it is healed."""
    now.must_succeed = READS
    world, old = now.world, now.world.primary
    await _do(world.cut_off, old, flow)
    await now.wait()
    promotion = await _do(world.promote, await _do(world.most_advanced), fenced=False)
    now.silent_after[promotion.deposed] = promotion.done + now.grace
    now.made_again += await _do(world.gather, old)
    await now.wait()
    await _do(world.cut_off, old, Flow.PASS)
    await now.wait(2 * now.grace)
    await _end_of(now, old, promotion.deposed)


async def _switched_over(now: Round) -> None:
    """A clean change of roles: the old primary comes back as a standby of its successor."""
    now.must_succeed = READS
    world, old = now.world, now.world.primary
    await _do(world.stop, old, clean=True)
    promotion = await _do(world.promote, await _do(world.most_advanced), fenced=True)
    now.made_again += await _do(world.gather, old)
    await _do(world.come_back_as_standby, old)
    assert promotion.done


async def _two_in_a_row(now: Round) -> None:
    """The successor dies as well, and has a successor of its own."""
    now.must_succeed = READS
    world, first = now.world, now.world.primary
    await _do(world.kill, first)
    one = await _do(world.promote, await _do(world.most_advanced), fenced=True)
    now.made_again += await _do(world.gather, first)
    now.silent_after[one.deposed] = one.done
    await _do(world.show_timelines)
    await now.view.until(lambda: len(now.view.used) >= 2, 30)
    await now.wait()
    second = world.primary
    await _do(world.kill, second)
    # Who has followed the first successor knows its timeline, and takes the next one.
    candidates = [node for node in world.standbys() if node != first]
    two = await _do(world.promote, await _do(world.most_advanced, candidates), fenced=True)
    now.made_again += await _do(world.gather, second, candidates)
    now.silent_after[two.deposed] = two.done
    await _do(world.clone, first)
    await _end_of(now, second, two.deposed)


async def _twins(now: Round) -> None:
    """Two take over at the same time, on the same timeline. One stays: the one that was written to, if any was.

    Which is right nobody can measure, so whatever is asked of a router may be refused; but nothing may be wrong.
    """
    now.must_succeed = frozenset()
    world, old = now.world, now.world.primary
    await _do(world.kill, old)
    best = await _do(world.most_advanced)
    other = now.chance.choice([node for node in world.standbys() if node != best])
    one, two = await _do(world.promote_twins, best, other)
    await now.wait(2 * now.grace)
    written = {call.server for call in now.load.writes if call.start > now.begun and not call.error}
    if two.server in written and one.server not in written:
        await _do(world.prefer, other, two)
        best, other = other, best
    loser = world.server(other)
    if loser in written and world.server(best) in written:
        now.wrong.append(f"both of two that took over at once were written to: {loser}, {world.server(best)}")
    now.figures["twins that were written to"] = float(world.server(best) in written)
    await _do(world.kill, other)
    now.silent_after[loser] = time.time()
    now.silent_after[one.deposed] = one.done
    now.made_again += await _do(
        world.gather, old, [node for node in world.standbys() if node not in (old, other)]
    )
    await _do(world.clone, other)
    await _do(world.clone, old)


async def _end_of(now: Round, old: str, server: str) -> None:
    """Look what the deposed server has taken if it answers, and make it again as a standby."""
    if now.world.running(old):
        now.strays[server] = await _do(now.world.rows, old, now.silent_after[server])
    await _do(now.world.clone, old)


REPLICA_FAULTS: dict[str, Callable[[Round], Awaitable[None]]] = {
    "replica killed": _replica_killed,
    "replica restarted": _replica_restarted,
    "replica frozen": _replica_frozen,
    "replica frozen shortly": _replica_frozen_shortly,
    "replica cut off silently": partial(_replica_cut_off, flow=Flow.FROZEN),
    "replica cut off with resets": partial(_replica_cut_off, flow=Flow.CUT),
    "replica without WAL": partial(_replica_without_wal, flow=Flow.FROZEN),
    "replay paused": _replay_paused,
    "replica slow": _replica_slow,
}
PRIMARY_FAULTS: dict[str, Callable[[Round], Awaitable[None]]] = {
    "primary restarted": _primary_restarted,
    "primary frozen": _primary_frozen,
    "primary cut off silently": partial(_primary_cut_off, flow=Flow.FROZEN),
    "primary cut off with resets": partial(_primary_cut_off, flow=Flow.CUT),
}
FAILOVERS: dict[str, Callable[[Round], Awaitable[None]]] = {
    "fenced failover": _fenced,
    "fenced failover, the old primary comes back": partial(_fenced, comes_back=True),
    "unfenced failover": _unfenced,
    "failover from a frozen primary that wakes": _frozen_and_overtaken,
    "failover from a primary cut off silently": partial(_cut_off_and_overtaken, flow=Flow.FROZEN),
    "failover from a primary cut off with resets": partial(_cut_off_and_overtaken, flow=Flow.CUT),
    "switchover": _switched_over,
    "two failovers in a row": _two_in_a_row,
    "two promoted at once": _twins,
}


async def frozen_for_long(now: Round) -> None:
    await _frozen_and_overtaken(now, now.long_hold)


# They last until the load has brought a replica over the limit.
WAIT_FOR_LAG = {"replica without WAL", "replay paused"}
LONG = "failover from a primary frozen for 90 seconds"
FAULTS = {**REPLICA_FAULTS, **PRIMARY_FAULTS, **FAILOVERS, LONG: frozen_for_long}
