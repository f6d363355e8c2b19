"""What a Patroni's REST endpoint answers, said by a test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.routing.world import World


class Patroni:
    """`leader` is a node's name or None; while `silent` it answers as one that does not reach its store."""

    def __init__(self, nodes: World) -> None:
        self.leader: str | None = "primary"
        self.silent = False
        self.url = ""
        self._ports = {
            "primary": nodes.primary.port,
            **{name: each.port for name, each in nodes.replicas.items()},
        }

    def cluster(self) -> bytes:
        """As GET /cluster (Patroni documentation, "REST API")."""
        members = [
            {
                "name": name,
                "role": "leader" if name == self.leader else "replica",
                "state": "running",
                "api_url": f"{self.url}/patroni",
                "host": "localhost",
                "port": port,
                "timeline": 1,
            }
            for name, port in self._ports.items()
        ]
        return json.dumps({"members": members, "scope": "main"}).encode()


@contextmanager
def patroni(nodes: World) -> Iterator[Patroni]:
    says = Patroni(nodes)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path == "/cluster" and not says.silent
            self.send_response(200 if good else 503)
            self.end_headers()
            if good:
                self.wfile.write(says.cluster())

        def log_message(self, *arguments: object) -> None:
            """Nothing: it is asked every moment."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        says.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield says
        finally:
            server.shutdown()
            thread.join()
