"""A connection that is cut at any byte never gives a backup."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import take_backup
from pgproof.errors import EngineError
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.repository.catalog import list_backups
from tests.support.postgres import Cluster

CUTS = 20


class CuttingProxy:
    """Passes connections on to `port` until `budget` bytes came from the server; then everything is cut."""

    def __init__(self, port: int, budget: int) -> None:
        self._target = port
        self._budget = budget
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.passed = 0
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for source, sink, counted in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    left = self._budget - self.passed
                    self.passed += min(len(data), left)
                    if len(data) >= left:
                        sink.sendall(data[:left])
                        self.close()
                        return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextlib.contextmanager
def cutting(port: int, budget: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(port, budget)
    try:
        yield proxy
    finally:
        proxy.close()


def test_a_stream_that_is_cut_is_no_backup(pg18: Cluster, work_dir: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    config = BackupConfig(backup_dir=str(work_dir / "repository"), encryption=False)
    init_repository(config)
    direct = pg18.tcp_config()
    with cutting(pg18.port, 1 << 60) as proxy:
        whole = take_backup(replace(direct, port=proxy.port), config, BackupType.FULL, Job())
        total = proxy.passed
    # How much WAL comes along differs from run to run, so cuts near the end may come too late to matter.
    budgets = [rng.randrange(total // 2) for _ in range(CUTS)]
    budgets += [rng.randrange(total // 2, total) for _ in range(8)]
    refused = 0
    for number, budget in enumerate(budgets, 1):
        with cutting(pg18.port, budget) as proxy:
            try:
                take_backup(replace(direct, port=proxy.port), config, BackupType.FULL, Job())
            except EngineError:
                refused += 1
        found = {info.backup_id for info in list_backups(open_repository(config))}
        assert whole.backup_id in found
        # What got through whole may be a backup; what was cut before its end may not.
        assert len(found) == 1 + number - refused
    assert refused >= CUTS
