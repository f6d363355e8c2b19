"""What the router says of itself while it works: whom it reads from, whom it writes to, which timelines it has seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pgproof.model.replication_config import PRIMARY
from pgproof.model.routing import Health, Role
from pgproof.replication import ReadReplicaRouter
from pgproof.routing.status import NodeStatus

_INTERVAL = 0.05


@dataclass
class View:
    """Looks all the time. Nodes go by the world's names; `timelines` has the moment at which each was first seen."""

    router: ReadReplicaRouter
    used: frozenset[str] = frozenset()
    primary: str = ""
    timeline: int = 0
    timelines: dict[int, float] = field(default_factory=dict)
    _stopping: bool = False
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        self._stopping = True
        if self._task is not None:
            await self._task

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it came true in that time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_INTERVAL)
        return True

    async def _look(self) -> None:
        while not self._stopping:
            self.look()
            await asyncio.sleep(_INTERVAL)

    def look(self) -> None:
        status = self.router.status()
        self.used = frozenset(_name(node.id) for node in status.nodes if serves(node))
        self.primary = _name(status.writer or "")
        self.timeline = status.timeline
        self.timelines.setdefault(self.timeline, time.time())


def serves(node: NodeStatus) -> bool:
    """Whether it is a replica that is read from without a doubt."""
    return node.tier is not None and node.role is Role.STANDBY and node.health is Health.UP


def _name(node: str) -> str:
    return "a" if node == PRIMARY else node
