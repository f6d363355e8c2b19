"""All nodes, what is remembered of them, and the decision of the moment where reads and writes go.

Every check that comes in leads to a new decision. Whoever asks for one when the looks behind it are too old (the process was
stopped, or its loop was held up) waits for a new look first.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from pgproof.errors import ConflictError, PreconditionError, TransientError
from pgproof.model.cluster_memory import Memory
from pgproof.model.lag import PrimaryTrack
from pgproof.model.node import NodeState
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.routing import GOLDEN, Health, Role, Routing, Rules, Seen, Tier, decide
from pgproof.routing.leader import PatroniWatch
from pgproof.routing.node import Node
from pgproof.routing.options import RouterOptions

_log = logging.getLogger(__name__)
_NEVER, _EVER = float("-inf"), float("inf")


class Cluster:
    """The nodes by name are the router's to add."""

    def __init__(self, config: ReplicationConfig, options: RouterOptions) -> None:
        self.nodes: dict[str, Node] = {}
        self.memory = Memory()
        self.routing = Routing()
        self.options = options
        self.rules = Rules(
            config.max_lag_bytes, config.max_lag_seconds, options.policy, options.primary_reads
        )
        self.switches = 0
        # When the history of a timeline may be asked for again, after a refusal.
        self.history_after = (0, _NEVER)
        self.patroni = PatroniWatch(config.patroni_urls, options.check_interval, options.check_timeout)
        self._track = PrimaryTrack(0)
        self._primary_seen = _NEVER
        self._good_until = _NEVER
        self._turn = random.Random(options.seed).random()
        self._first: Tier | None = None
        self._changed = asyncio.Condition()

    def pick(self) -> Node:
        """A node for a read. Raises TransientError if none can serve."""
        if self._first is None:
            raise self.nobody_reads()
        self._turn = turn = (self._turn + GOLDEN) % 1.0
        return self.nodes[self._first.pick(turn)]

    def pick_without(self, tried: set[str]) -> Node | None:
        """The next best, None if all were tried."""
        for tier in self.routing.tiers:
            if (rest := tier.without(tried)) is not None:
                return self.nodes[rest.pick(self.turn())]
        return None

    def turn(self) -> float:
        self._turn = (self._turn + GOLDEN) % 1.0
        return self._turn

    @property
    def fresh(self) -> bool:
        """Whether the looks behind the decision are recent enough to act on it."""
        return monotonic() < self._good_until

    async def look_anew(self) -> None:
        """Have all nodes asked from now on, and wait for their answers, as long as a check may take. Not for the first one
        only: an old primary may be quicker to answer than the one that took over meanwhile.
        """
        began = monotonic()
        await self._look_until(
            lambda: all(each.checked > began or each.health is Health.DOWN for each in self.nodes.values())
        )

    @property
    def lacks_history(self) -> bool:
        """Whether the way to the primary's timeline is not known, and may be asked for now."""
        timeline, again = self.history_after
        waits = timeline == self.memory.floor and monotonic() < again
        return not self.memory.whole and self.routing.primary is not None and not waits

    async def learn_history(self) -> None:
        """Wait until there is a primary, and until it was asked for it, if it may be."""
        await self._look_until(lambda: self.routing.primary is not None and not self.lacks_history)

    async def someone_reads(self) -> None:
        """While no node can serve a read, wait for what new looks say: in a failover that lasts for a moment."""
        if not self.routing.tiers:
            await self._look_until(lambda: bool(self.routing.tiers))

    async def _look_until(self, done: Callable[[], bool]) -> None:
        for node in self.nodes.values():
            node.wake.set()
        async with self._changed:
            try:
                async with asyncio.timeout(2 * self.options.check_timeout):
                    await self._changed.wait_for(done)
            except TimeoutError:
                self.decide()

    async def first_looks(self) -> None:
        """Wait until every node has answered or has not, so that no first decision is made of a part of them."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    all(each.health is not Health.UNKNOWN for each in self.nodes.values())
                    and not self.lacks_history
                )
            )

    async def close(self) -> None:
        """End all pools; nothing is known of any node then."""
        await asyncio.gather(*(each.close() for each in self.nodes.values()))
        self.routing, self._first, self._good_until = Routing(), None, _NEVER

    def primary_now(self) -> Node:
        """The node to write to. Raises TransientError if there is none now, ConflictError if several claim to be it."""
        node = self._writer_now()
        if node is None:
            raise self._no_writer()
        return node

    def _no_writer(self) -> TransientError:
        return TransientError(
            "there is no primary to write to",
            hint="see whether it is being restarted or another takes over (the router follows by itself)",
            reason=self.routing.reason,
            waited_seconds=self.options.write_wait,
        )

    def nobody_reads(self) -> TransientError:
        reasons = dict(self.routing.unread)
        return TransientError(
            "no node can take the read",
            hint="see the router's status; primary_reads lets the primary answer while no replica can",
            **{name: node.reason or reasons.get(name, str(node.health)) for name, node in self.nodes.items()},
        )

    async def writer(self) -> Node:
        """The node to write to, waited for a bounded time.

        Raises TransientError if there is none by then, ConflictError if several nodes claim to be it.
        """
        if not self.fresh:
            await self.look_anew()
        node = self._writer_now()
        if node is not None:
            return node
        for each in self.nodes.values():
            each.wake.set()
        async with self._changed:
            try:
                async with asyncio.timeout(self.options.write_wait):
                    await self._changed.wait_for(lambda: self._writer_now() is not None)
            except TimeoutError:
                raise self._no_writer() from None
        found = self._writer_now()
        assert found is not None
        return found

    def _writer_now(self) -> Node | None:
        routing = self.routing
        if routing.rivals:
            raise ConflictError(
                "two nodes claim to be the primary, and nothing measured tells which is right",
                hint="end the wrong one, or make it a standby; then writes go on by themselves",
                reason=routing.reason,
            )
        if not routing.writable or routing.primary is None:
            return None
        node = self.nodes[routing.primary]
        return node if node.writer is not None else None

    def wrote(self, node: Node) -> None:
        """From now on no other node of this timeline is written to."""
        written = (node.id, self.memory.floor)
        if self.memory.written != written:
            self.memory = replace(self.memory, written=written)

    async def checked(self, node: Node, before: NodeState | None) -> None:
        """A check of `node` came in, good or not. `before` is what it said over the same connection before."""
        if before is not None and before.in_recovery and node.state is not None and node.state.primary:
            self.memory = self.memory.promoted(before, node.state)
        states = [each.state for each in self.nodes.values() if each.state is not None]
        floor, self.memory = self.memory.floor, self.memory.after(states)
        if 0 < floor < self.memory.floor:
            for each in self.nodes.values():
                each.wake.set()  # a standby may have told of it before its primary has
        self._measure(node)
        await self._apply()

    async def remember(self, memory: Memory) -> None:
        """With more that is known of the past."""
        self.memory = memory
        await self._apply()

    def decide(self) -> None:
        """Anew, of what is known; the loop has nothing to wait for."""
        seen = self._seen()
        routing = decide(seen, self.memory, self.rules)
        if (
            routing.writable
            and routing.primary
            and (why := self.patroni.forbids(self.nodes[routing.primary]))
        ):
            routing = replace(routing, writable=False, reason=why)
        self.routing = routing
        self._first = routing.tiers[0] if routing.tiers else None
        up = [self.nodes[each.node].checked for each in seen if each.health is Health.UP]
        # Until one of the nodes that serve is no longer known well enough. While none does, its checks decide alone.
        self._good_until = min(up, default=_EVER) + self.options.check_age

    async def follow_patroni(self) -> None:
        """Until cancelled: what it says is acted on at once."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.patroni.run(changed))
            while True:
                await changed.wait()
                changed.clear()
                await self._apply()

    async def _apply(self) -> None:
        was = self.routing
        self.decide()
        now = self.routing
        target = now.primary if now.writable else None
        for node in self.nodes.values():
            if node.id == target:
                await node.open_writer()
            elif node.writer is not None:
                node.close_writer()
        if now.primary and was.primary != now.primary:
            self.switches += 1
            _log.info("primary is node=%s timeline=%d", now.primary, self.memory.floor)
        async with self._changed:
            self._changed.notify_all()

    def _measure(self, node: Node) -> None:
        """How far `node` is behind, by its check that just came in."""
        state = node.state
        if state is None or state.system_identifier != self.memory.system_identifier:
            return
        if self._track.timeline != self.memory.floor:
            self._track = PrimaryTrack(self.memory.floor)
            self._primary_seen = _NEVER
        at_floor = state.timeline == self.memory.floor
        if state.primary:
            if at_floor and state.position is not None:
                self._track.saw(state.position, node.checked)
                self._primary_seen = node.checked
            return
        now = node.checked
        if not self._primary_alive():
            # What a standby holds, the primary had written: as good as a look at it. And without one, nothing gets older.
            if at_floor and (self._track.newest is None or state.held > self._track.newest):
                self._track.saw(state.held, now)
                self._primary_seen = now
            now = min(now, max(self._primary_seen, 0.0))
        node.lag = self._track.lag(state, now)

    def _primary_alive(self) -> bool:
        return any(
            node.health is Health.UP
            and node.state is not None
            and node.state.primary
            and node.state.timeline == self.memory.floor
            for node in self.nodes.values()
        )

    def _seen(self) -> list[Seen]:
        now = monotonic()
        return [node.seen(now) for node in self.nodes.values()]

    def role(self, name: str) -> Role:
        return self.routing.roles.get(name, Role.UNKNOWN)

    def node(self, name: str) -> Node:
        """Raises PreconditionError for a name that is not there."""
        if name not in self.nodes:
            raise PreconditionError(
                "there is no node of this name", hint=f"there are {', '.join(self.nodes)}", name=name
            )
        return self.nodes[name]
