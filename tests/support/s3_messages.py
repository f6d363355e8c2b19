"""Requests to an S3 server and its answers, as bytes: a head is forwarded exactly as it was signed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from email.utils import formatdate, parsedate_to_datetime
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

_MOST_HEAD = 64 << 10


@dataclass(frozen=True)
class Request:
    """`verb` is the method, or LIST; `key` the object's key, or the prefix of a list."""

    head: bytes
    body: bytes
    verb: str
    key: str

    @classmethod
    async def read_head(cls, reader: asyncio.StreamReader) -> Self | None:
        """A request without its body, None where the client has closed the connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        method, target, _version = head.split(b"\r\n", 1)[0].decode().split(" ")
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        _bucket, _slash, key = unquote(parts.path).lstrip("/").partition("/")
        if method == "GET" and "list-type" in query:
            return cls(head, b"", "LIST", query.get("prefix", [""])[0])
        return cls(head, b"", method, key)

    async def read_body(self, reader: asyncio.StreamReader) -> Self:
        length = int(_header(self.head, b"content-length") or 0)
        return replace(self, body=await reader.readexactly(length)) if length else self

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    @property
    def conditional(self) -> bool:
        return _header(self.head, b"if-none-match") == b"*"


@dataclass(frozen=True)
class Response:
    """An answer; `encode` gives what goes over the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """An answer as it came over a connection that was closed after it. ConnectionError if it is cut short."""
        head, end, body = raw.partition(b"\r\n\r\n")
        if not end:
            raise ConnectionError("the server closed the connection")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
        headers = tuple((name.lower(), value) for name, value in pairs if name.lower() != "connection")
        if ("transfer-encoding", "chunked") in headers:
            headers = tuple(pair for pair in headers if pair[0] != "transfer-encoding")
            return cls(int(first.split()[1]), headers, b"").with_body(_unchunked(body))
        return cls(int(first.split()[1]), headers, body)

    @classmethod
    def error(cls, status: int, code: str, *, to: Request) -> Self:
        """The answer of a store to a request that it does not carry out; to HEAD without the body."""
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>a test</Message></Error>'
        headers = (("content-type", "application/xml"), ("date", formatdate(usegmt=True)))
        answer = cls(status, headers, b"").with_body(body.encode())
        return replace(answer, body=b"") if to.verb == "HEAD" else answer

    def with_body(self, body: bytes) -> Self:
        rest = tuple(pair for pair in self.headers if pair[0] != "content-length")
        return replace(self, headers=(*rest, ("content-length", str(len(body)))), body=body)

    def with_headers(self, **changes: str) -> Self:
        """Other values for headers that are there; `last_modified` stands for Last-Modified."""
        named = {name.replace("_", "-"): value for name, value in changes.items()}
        return replace(self, headers=tuple((name, named.get(name, value)) for name, value in self.headers))

    def header(self, name: str) -> str:
        return next((value for found, value in self.headers if found == name), "")

    def encode(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Whatever", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


async def forward(request: Request, host: str, port: int) -> Response:
    """Send a request on a connection of its own and read the answer."""
    reader, writer = await asyncio.open_connection(host, port, limit=_MOST_HEAD)
    try:
        # No header of the connection is ever signed.
        writer.write(request.head[:-2] + b"Connection: close\r\n\r\n" + request.body)
        await writer.drain()
        answer = Response.parse(await reader.read())
        if request.verb != "HEAD" and len(answer.body) != int(answer.header("content-length") or 0):
            raise ConnectionError("the server closed the connection within its answer")
        return answer
    finally:
        writer.close()


def shifted(date: str, seconds: float) -> str:
    """The same HTTP date, so much later."""
    return formatdate(parsedate_to_datetime(date).timestamp() + seconds, usegmt=True)


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        found, _colon, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return b""


def _unchunked(body: bytes) -> bytes:
    found = bytearray()
    while True:
        size, end, rest = body.partition(b"\r\n")
        if not end:
            raise ConnectionError("the server closed the connection within its answer")
        length = int(size.split(b";")[0], 16)
        if not length:
            return bytes(found)
        found += rest[:length]
        body = rest[length + 2 :]
