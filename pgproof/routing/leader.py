"""Beside a Patroni: the node that it names as leader is the only one that may be written to.

While it cannot be asked, what it said last stays; it had decided so, and our own measurements have to agree with it as well.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from pgproof.errors import EngineError
from pgproof.model.patroni import PatroniMember, PatroniView
from pgproof.postgres.patroni import patroni_leader
from pgproof.routing.node import Node


class PatroniWatch:
    """Asks until its task is cancelled; `urls` may be empty, and then it forbids nothing."""

    def __init__(self, urls: Sequence[str], interval: float, seconds: float) -> None:
        self.view: PatroniView | None = None
        self.problem = ""
        self.asked = asyncio.Event()  # at least once
        self._urls = tuple(urls)
        self._interval = interval
        self._seconds = seconds
        self._addresses: frozenset[str] = frozenset()
        self._wake = asyncio.Event()

    async def run(self, changed: asyncio.Event) -> None:
        """`changed` is set when it says something new."""
        while True:
            self._wake.clear()
            try:
                view, addresses = await asyncio.to_thread(_ask, self._urls, self._seconds)
            except EngineError as error:
                self.problem = str(error.context.get("reason", error.message))
            else:
                self.problem = ""
                if (view.leader, addresses) != (self._leader, self._addresses) or self.view is None:
                    self.view, self._addresses = view, addresses
                    changed.set()
                self.view = view
            self.asked.set()
            try:
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
                # Asked again because it disagreed; it may need a moment to see what we saw.
                await asyncio.sleep(min(0.2, self._interval))
            except TimeoutError:
                pass

    @property
    def _leader(self) -> PatroniMember | None:
        return self.view.leader if self.view else None

    def forbids(self, node: Node) -> str:
        """Why this node must not be written to; nothing if it may."""
        if self.view is None or self._is_leader(node):
            return ""
        self._wake.set()
        if self._leader is None:
            return f"{node.id} is out of recovery, and Patroni names no leader"
        place = f"{self._leader.name} at {self._leader.host}:{self._leader.port}"
        return (
            f"{node.id} is out of recovery, and Patroni names {place} as leader; "
            "if both are the same server, configure the node by that address or that name"
        )

    def _is_leader(self, node: Node) -> bool:
        leader = self._leader
        if leader is None:
            return False
        host, port = node.address or ("", 0)
        same_place = port == leader.port and (leader.host == node.config.host or host in self._addresses)
        return leader.name == node.id or same_place


def _ask(urls: Sequence[str], seconds: float) -> tuple[PatroniView, frozenset[str]]:
    """What it says, and the addresses of the leader's host."""
    view = patroni_leader(urls, seconds)
    if view.leader is None:
        return view, frozenset()
    try:
        found = socket.getaddrinfo(view.leader.host, view.leader.port, type=socket.SOCK_STREAM)
    except OSError:
        return view, frozenset({view.leader.host})
    return view, frozenset(str(each[4][0]) for each in found)
