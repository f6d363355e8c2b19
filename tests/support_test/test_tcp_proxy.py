"""The network that can be cut does what its words say, or what is shown with it proves nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.tcp_proxy import Flow, Network


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1000):
                connection.sendall(data)

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve, args=(listening,), daemon=True)
        serving.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        serving.join()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def test_a_frozen_link_passes_nothing_and_loses_nothing(network: Network, echo: int) -> None:
    port = network.link("a", echo)
    with _connect(port) as connection:
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
        network.set("a", Flow.FROZEN)
        connection.sendall(b"two")
        with _connect(port) as late:
            late.sendall(b"three")
            for each in (connection, late):
                each.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    each.recv(100)
                each.settimeout(10)
            network.set("a", Flow.PASS)
            assert (connection.recv(100), late.recv(100)) == (b"two", b"three")


def test_a_cut_link_resets_and_lets_nobody_in(network: Network, echo: int) -> None:
    port = network.link("a", echo)
    with _connect(port) as connection:
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
        network.set("a", Flow.CUT)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with pytest.raises(ConnectionResetError), _connect(port) as late:
        late.recv(100)
    network.set("a", Flow.PASS)
    with _connect(port) as connection:
        connection.sendall(b"two")
        assert connection.recv(100) == b"two"


def test_an_end_passes_and_a_target_that_is_gone_is_a_reset(network: Network, echo: int) -> None:
    port = network.link("a", echo)
    with _connect(port) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    network.lead("a", port + 1)
    with pytest.raises(ConnectionResetError), _connect(port) as connection:
        connection.recv(100)
