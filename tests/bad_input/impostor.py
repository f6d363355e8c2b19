"""Servers that are not PostgreSQL, for a client that has the wrong port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Let `answer` speak to each client of a port on 127.0.0.1; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            while True:
                client, _address = server.accept()
                if done.is_set():
                    client.close()
                    return
                threading.Thread(target=speak, args=(client,), daemon=True).start()

        def speak(client: socket.socket) -> None:
            with closing(client):
                answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try:
            yield port
        finally:
            done.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


def web_server(client: socket.socket) -> None:
    client.recv(100)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def silent(client: socket.socket) -> None:
    while client.recv(1000):
        pass


def hangs_up(client: socket.socket) -> None:
    client.recv(100)


def pooler(client: socket.socket) -> None:
    """What PgBouncer answers to a replication connection."""
    client.recv(8)
    client.sendall(b"N")  # no TLS
    client.recv(1000)
    fields = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"
    client.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
