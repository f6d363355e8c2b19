"""Beside a Patroni nothing is promoted.

Patroni itself is no part of the suite (it needs a store of its own). The answer below is what Patroni 4.1.5 gave to
`GET /cluster`, with two members over raft; the command was tried beside that one by hand.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pgproof.actions.failover import failover
from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.failover_evidence import FailoverRequest
from pgproof.model.job import Job
from pgproof.model.replication_config import ReplicaInfo, ReplicationConfig
from tests.support.machine import free_ports

_ANSWER = (
    b'{"members": [{"name": "node1", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:18001/patroni", '
    b'"host": "127.0.0.1", "port": 18021, "timeline": 1}, {"name": "node2", "role": "replica", "state": "streaming", '
    b'"api_url": "http://127.0.0.1:18002/patroni", "host": "127.0.0.1", "port": 18022, "timeline": 1, "receive_lag": 0, '
    b'"receive_lsn": "0/3000000", "replay_lag": 0, "replay_lsn": "0/3000000", "lag": 0, "lsn": "0/3000000"}], "scope": "t"}'
)


class _Recorded(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/cluster"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(_ANSWER)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("answers", [True, False])
def test_patronis_leader_is_named_and_the_decision_left_to_it(answers: bool) -> None:
    first, second, nobody = free_ports(3)
    with HTTPServer(("127.0.0.1", 0), _Recorded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            port = server.server_port if answers else nobody
            config = ReplicationConfig(
                (ReplicaInfo("replica1", "127.0.0.1", second),),
                fence_command="true",
                patroni_urls=(f"http://127.0.0.1:{port}",),
            )
            primary = PostgresConfig(host="127.0.0.1", port=first, user="postgres")
            with pytest.raises(PreconditionError, match="Patroni manages this cluster") as caught:
                failover(primary, config, None, FailoverRequest(unfenced=True), Job())
        finally:
            server.shutdown()
    assert ("now: node1" if answers else "cannot be asked now") in caught.value.message
    assert "patronictl switchover" in caught.value.hint
