"""A network that can be cut: TCP links on 127.0.0.1 that pass everything on, until they are told otherwise.

    with Network() as network:
        port = network.link("to a", server.port)
        network.set("to a", Flow.FROZEN)  # a partition: packets vanish, nobody is told
        network.set("to a", Flow.PASS)  # healed: what was sent meanwhile arrives, as TCP sends it again

It is a process of its own, so that a busy caller does not look like a slow network. It ends with its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from tests.support import machine
from tests.support.faults import forks

_CHUNK = 65536


class Flow(StrEnum):
    """How a link treats what is sent through it.

    CUT ends connections with a reset and lets none in. FROZEN passes nothing, neither bytes nor the end of a connection;
    one that is opened meanwhile waits.
    """

    PASS = "pass"
    CUT = "cut"
    FROZEN = "frozen"


class Network:
    """Links by name. Its methods may be called by any thread."""

    def __init__(self) -> None:
        self._pipe, self._theirs = forks.Pipe()
        self._lock = threading.Lock()
        self._process = forks.Process(target=_live, args=(self._theirs,), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()
        self._process.join()

    def link(self, name: str, target: int) -> int:
        """Make a link to a port of 127.0.0.1, and return the port to connect to instead."""
        (port,) = machine.free_ports(1)
        self._tell("link", name, port, target)
        return port

    def lead(self, name: str, target: int) -> None:
        """What connects from now on is led to another port."""
        self._tell("lead", name, target)

    def set(self, name: str, flow: Flow, *, delay: float = 0.0) -> None:
        """`delay` seconds are added to every chunk of bytes, in both directions."""
        self._tell("set", name, flow, delay)

    def _tell(self, *command: Any) -> None:
        with self._lock:
            self._pipe.send(command)
            error = self._pipe.recv()
        if error:
            raise RuntimeError(error)


@dataclass
class _Link:
    target: int
    flow: Flow = Flow.PASS
    delay: float = 0.0
    _moving: asyncio.Event = field(default_factory=asyncio.Event)
    _open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = field(default_factory=dict)

    def set(self, flow: Flow, delay: float) -> None:
        self.flow, self.delay = flow, delay
        if flow is Flow.PASS:
            self._moving.set()
        else:
            self._moving.clear()
        if flow is Flow.CUT:
            for task, writers in list(self._open.items()):
                _reset(*writers)
                task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.flow is Flow.CUT:
            _reset(writer)
            return
        writers = [writer]
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writers
        try:
            await self._moving.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(far_writer)
            pumps = [
                asyncio.ensure_future(self._pump(*pair))
                for pair in ((reader, far_writer), (far_reader, writer))
            ]
            try:
                # Once a side has said its last, PostgreSQL and its clients both have.
                done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in done:
                    pump.result()
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            _reset(*writers)
        except asyncio.CancelledError:
            pass  # cut: asyncio logs what a connection's task ends with
        finally:
            del self._open[task]
            for ours in writers:
                ours.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(_CHUNK)
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._moving.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()


def _reset(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        with contextlib.suppress(OSError):  # it is gone already
            ours: socket.socket = writer.get_extra_info("socket")
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def _live(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    """Obey until the other end of the pipe is closed, which it is when its process has ended."""
    loop = asyncio.get_running_loop()
    links: dict[str, _Link] = {}
    servers: list[asyncio.Server] = []
    told = asyncio.Event()
    loop.add_reader(pipe.fileno(), told.set)
    while True:
        await told.wait()
        told.clear()
        try:
            if not pipe.poll():
                continue  # the reader's callback comes again before the first has been obeyed
            match pipe.recv():
                case "link", name, port, target:
                    links[name] = _Link(target)
                    links[name].set(Flow.PASS, 0.0)
                    servers.append(await asyncio.start_server(links[name].serve, "127.0.0.1", port))
                case "lead", name, target:
                    links[name].target = target
                case "set", name, flow, delay:
                    links[name].set(flow, delay)
            pipe.send("")
        except (EOFError, BrokenPipeError):
            return
        except (OSError, KeyError) as error:
            pipe.send(f"{type(error).__name__}: {error}")
