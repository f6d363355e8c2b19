"""A proxy between the engine and an S3 server that breaks what it is told to break, and counts it.

    with S3Proxy(server, bucket) as proxy, proxy.breaking(Rule(Fault.RESET_AFTER, "PUT", "/packs/", nth=2)):
        …  # what talks to proxy.endpoint

Signatures stay good: heads are forwarded as they came. Everything is on the loopback device.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import obstore
from blake3 import blake3

from tests.support.s3 import S3Server
from tests.support.s3_messages import Request, Response, forward, shifted

T = TypeVar("T")


class Fault(StrEnum):
    """What can go wrong with one request. "Before" means that the store never heard of it."""

    DELAY = "delay"
    STALL = "stall"  # no answer for as long as the client waits
    STALL_IN_BODY = "stall-in-body"
    RESET_BEFORE = "reset-before"
    RESET_AFTER = "reset-after"  # carried out, the answer is lost
    ERROR_500 = "500"
    ERROR_500_AFTER = "500-after"
    SLOW_DOWN = "503-slow-down"
    TOO_MANY = "429"
    FORBIDDEN = "403"
    SKEW_REFUSED = "403-clock"
    CONFLICT = "409"
    PRECONDITION = "412"
    NOT_FOUND = "404"
    OK_WITH_ERROR = "200-with-error"
    TRUNCATED = "truncated-body"
    CUT_SHORT = "short-body"  # as truncated, and the length given fits it
    FLIPPED = "flipped-bit"
    DUPLICATE = "duplicate"  # carried out twice, the second answer is returned
    STALE = "stale"  # what was changed does not show for some time, or what is there not at all
    DROPPED_PAGE = "dropped-page"
    IGNORED_CONDITION = "ignored-if-none-match"
    SKEWED_DATE = "skewed-date"


_REFUSALS = {
    Fault.ERROR_500: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.TOO_MANY: (429, "TooManyRequests"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
    Fault.SKEW_REFUSED: (403, "RequestTimeTooSkewed"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.PRECONDITION: (412, "PreconditionFailed"),
    Fault.NOT_FOUND: (404, "NoSuchKey"),
    Fault.OK_WITH_ERROR: (200, "InternalError"),
}
_SKEWS = (2 * 3600, -2 * 3600, 2 * 86400, -2 * 86400, -30 * 365 * 86400)
_CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_LISTED_DATE = re.compile(rb"<LastModified>(\d{4})-")
# An answer that shows the store as it was lasts for so many requests for the object or its folder.
_STALE_FOR = 3


def applies(fault: Fault, verb: str) -> bool:
    """Whether the fault exists for requests of this verb."""
    if fault is Fault.IGNORED_CONDITION:
        return verb == "PUT"
    return fault is not Fault.DROPPED_PAGE or verb == "LIST"


@dataclass
class Rule:
    """Break the `nth` matching request, or every one from it on; without `nth`, each with `probability`.

    `verb` is PUT, GET, HEAD, DELETE, LIST or empty for all; `key` is searched in the key as a pattern.
    """

    fault: Fault
    verb: str = ""
    key: str = ""
    nth: int | None = None
    lasting: bool = False
    probability: float = 0.0
    seen: int = 0

    def strikes(self, request: Request, chance: random.Random) -> bool:
        if self.verb not in ("", request.verb) or not re.search(self.key, request.key):
            return False
        if not applies(self.fault, request.verb):
            return False
        self.seen += 1
        if self.nth is None:
            return chance.random() < self.probability
        return self.seen >= self.nth if self.lasting else self.seen == self.nth


@dataclass
class _Hidden:
    """How many requests an object is still shown as it was for: absent, or not yet deleted."""

    left: int = _STALE_FOR
    delete: Request | None = None


@dataclass
class _State:
    rules: list[Rule] = field(default_factory=list)
    hidden: dict[str, _Hidden] = field(default_factory=dict)
    listings: dict[str, Response] = field(default_factory=dict)


class S3Proxy:
    """`endpoint` takes the place of the server's; `requests` and `faults` count by verb, and by fault and verb."""

    def __init__(self, server: S3Server, bucket: str, *, seed: int = 0, delay: float = 0.2) -> None:
        parts = urlsplit(server.endpoint)
        self._upstream = parts.hostname or "", parts.port or 0
        self.bucket = bucket
        self._store = server.store(bucket)
        self._chance = random.Random(f"{seed} proxy")
        self._delay = delay
        self._state = _State()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="s3-proxy", daemon=True)
        self.requests: Counter[str] = Counter()
        self.faults: Counter[tuple[str, str]] = Counter()
        # What the server itself acknowledged to have stored: when, and the hash of the bytes.
        self.acknowledged: dict[str, tuple[datetime, str]] = {}
        self.endpoint = ""

    def __enter__(self) -> Self:
        self._thread.start()
        server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20))
        self._server = server
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextlib.contextmanager
    def breaking(self, *rules: Rule) -> Iterator[None]:
        """Break what the rules say; at the end nothing is broken or shown as it was any more."""
        self._state.rules = list(rules)
        try:
            yield
        finally:
            self._state.rules = []
            self._do(self._catch_up())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        # Tasks end with their connections; those that are cancelled would complain.
        for writer in self._connections:
            writer.transport.abort()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    async def _catch_up(self) -> None:
        hidden, self._state = self._state.hidden, _State()
        for each in hidden.values():
            if each.delete:
                await forward(each.delete, *self._upstream)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        # A client that goes away, or a server that is being killed, ends the connection.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await Request.read_head(reader):
                if not await self._request(request, reader, writer):
                    break
        self._connections.discard(writer)
        writer.close()

    async def _request(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer a request, or not; whether the connection can be used further."""
        self.requests[request.verb] += 1
        fault = next((r.fault for r in self._state.rules if r.strikes(request, self._chance)), None)
        if fault:
            self.faults[str(fault), request.verb] += 1
        if fault is Fault.RESET_BEFORE:
            return _reset(writer)
        request = await request.read_body(reader)
        if fault is Fault.STALL:
            await reader.read()
            return False
        answer = await self._broken(request, fault) if fault else await self._truth(request)
        if fault is Fault.RESET_AFTER:
            return _reset(writer)
        raw = answer.encode()
        if fault in (Fault.TRUNCATED, Fault.STALL_IN_BODY):
            # Half of the body, of an answer without one half of its head.
            raw = raw[: len(raw) - (len(answer.body) or len(raw)) // 2]
        writer.write(raw)
        await writer.drain()
        if fault is Fault.STALL_IN_BODY:
            await reader.read()
        return fault not in (Fault.TRUNCATED, Fault.STALL_IN_BODY)

    async def _broken(self, request: Request, fault: Fault) -> Response:
        if fault in _REFUSALS:
            return Response.error(*_REFUSALS[fault], to=request)
        if fault is Fault.STALE:
            return await self._stale(request)
        if fault is Fault.IGNORED_CONDITION and request.conditional:
            put = await asyncio.to_thread(obstore.put, self._store, request.key, request.body)
            answer = Response.error(200, "", to=request).with_body(b"")
            return replace(answer, headers=(*answer.headers, ("etag", put["e_tag"] or '"none"')))
        if fault is Fault.DELAY:
            await asyncio.sleep(self._delay)
        elif fault is Fault.DUPLICATE:
            await self._truth(request)
        answer = await self._truth(request)
        match fault:
            case Fault.ERROR_500_AFTER:
                return Response.error(*_REFUSALS[Fault.ERROR_500], to=request)
            case Fault.CUT_SHORT if answer.body:
                return answer.with_body(answer.body[: len(answer.body) // 2])
            case Fault.FLIPPED:
                return self._flipped(request, answer)
            case Fault.DROPPED_PAGE:
                entries = _CONTENTS.findall(answer.body)
                return _without(answer, entries[len(entries) // 2 :])
            case Fault.SKEWED_DATE:
                return self._skewed(answer)
        return answer

    async def _truth(self, request: Request) -> Response:
        """What the server answers, except for objects that are shown as they were."""
        for key, hidden in list(self._state.hidden.items()):
            if request.verb == "PUT" or not (key == request.key or request.verb == "LIST"):
                continue
            hidden.left -= 1
            if hidden.left < 0:
                del self._state.hidden[key]
                if hidden.delete:
                    await forward(hidden.delete, *self._upstream)
            elif hidden.delete is None and request.verb in ("GET", "HEAD"):
                return Response.error(404, "NoSuchKey", to=request)
        answer = await forward(request, *self._upstream)
        if request.verb == "PUT" and answer.status == 200:
            self.acknowledged[request.key] = datetime.now(UTC), blake3(request.body).hexdigest()
        elif request.verb == "DELETE":
            self.acknowledged.pop(request.key, None)
        if request.verb == "LIST":
            absent = [f"<Key>{k}</Key>".encode() for k, h in self._state.hidden.items() if h.delete is None]
            entries = _CONTENTS.findall(answer.body)
            answer = _without(answer, [e for e in entries if any(key in e for key in absent)])
            self._state.listings[request.line] = answer
        return answer

    async def _stale(self, request: Request) -> Response:
        match request.verb:
            case "LIST":
                before = self._state.listings.get(request.line)
                answer = await forward(request, *self._upstream)
                return before or _without(answer, _CONTENTS.findall(answer.body))
            case "PUT":
                answer = await forward(request, *self._upstream)
                self._state.hidden[request.key] = _Hidden()
                return answer
            case "DELETE":
                self._state.hidden[request.key] = _Hidden(delete=request)
                return Response(204, (), b"")
        return Response.error(404, "NoSuchKey", to=request)

    def _flipped(self, request: Request, answer: Response) -> Response:
        if answer.body:
            at = self._chance.randrange(len(answer.body))
            changed = bytes([answer.body[at] ^ 1 << self._chance.randrange(8)])
            return replace(answer, body=answer.body[:at] + changed + answer.body[at + 1 :])
        if request.verb == "HEAD":  # its length frames nothing
            return answer.with_headers(content_length=str(int(answer.header("content-length") or 0) ^ 1))
        return answer.with_headers(etag='"' + "0" * 32 + '"')

    def _skewed(self, answer: Response) -> Response:
        seconds = self._chance.choice(_SKEWS)
        dates = {
            name.replace("-", "_"): shifted(answer.header(name), seconds)
            for name in ("date", "last-modified")
            if answer.header(name)
        }
        years = 1 if seconds > 0 else -1
        body = _LISTED_DATE.sub(lambda m: b"<LastModified>%04d-" % (int(m[1]) + years), answer.body)
        return replace(answer.with_headers(**dates), body=body)


def _without(answer: Response, entries: list[bytes]) -> Response:
    if not entries:
        return answer
    body = answer.body
    for entry in entries:
        body = body.replace(entry, b"")
    body = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", body)
    return answer.with_body(body.replace(b"<IsTruncated>true<", b"<IsTruncated>false<"))


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Break the connection so that the client is told "connection reset by peer"."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
