"""`metrics`: the repository's figures for Prometheus, as a file for node_exporter or over HTTP."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pgproof.cli.engine import open_backups, open_replicas, replication_config
from pgproof.cli.exits import Exit, exit_status
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.errors import EngineError, PreconditionError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

    from pgproof.backup import BackupManager
    from pgproof.model.metrics import Metric
    from pgproof.replica_manager import ReplicaManager

_log = logging.getLogger(__name__)
_DESCRIPTION = """Print the repository's figures for Prometheus.

With --textfile they are written, at once and whole, to a file for node_exporter's textfile
collector (its name ends in .prom); with --listen they are served at /metrics. While the
repository cannot be read pgproof_up is 0 and nothing else is told; the exit status, unless
it serves, is that of the error. monitoring/ has alerts and a dashboard."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "metrics", metrics, "figures for Prometheus", _DESCRIPTION)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--textfile", metavar="PATH", help="write them to this file, such as pgproof.prom")
    where.add_argument(
        "--listen", metavar="HOST:PORT", type=_address, help="serve them, such as 127.0.0.1:9187"
    )
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=whole_number,
        default=60,
        help="with --listen: look at the repository at most so often (60)",
    )
    parser.add_argument(
        "--with-server",
        action="store_true",
        help="ask the server as well: lag of the WAL, its slot, and the replicas if any are configured",
    )


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"not a host and a port: {text!r}")
    return host.strip("[]"), int(port)


def metrics(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    replicas = open_replicas(args) if args.with_server and replication_config(args).replicas else None
    if args.listen:
        return _serve(manager, replicas, args, screen)
    failure: EngineError | None = None
    try:
        found = wait_for(_read(manager, replicas, args.with_server))
    except EngineError as error:
        from pgproof.model.metrics import up

        found, failure = [up(manager.config.cluster, False)], error
    if args.textfile:
        _write(args.textfile, found)
    else:
        screen.say(_exposition(found).rstrip("\n"))
    if failure is None:
        screen.document({"metrics": [metric.to_json() for metric in found]})
        return Exit.OK
    screen.error(failure)
    return exit_status(failure)


async def _read(manager: BackupManager, replicas: ReplicaManager | None, with_server: bool) -> list[Metric]:
    from pgproof.model.metrics import replica_metrics, repository_metrics, server_metrics

    found = repository_metrics(await manager.stats())
    if with_server:
        found += server_metrics(await manager.wal_status())
    if replicas is not None:
        found += replica_metrics(await replicas.status())
    return found


class _Figures:
    """Prometheus' collector: looks again when what it knows is `every` seconds old."""

    def __init__(self, look: Callable[[], list[Metric]], every: float) -> None:
        self._look, self._every = look, every
        self._lock = threading.Lock()
        self._known: list[Metric] = []
        self._until = float("-inf")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._known = self._look()
                self._until = time.monotonic() + self._every
            known = self._known
        yield from _families(known)


def _serve(
    manager: BackupManager, replicas: ReplicaManager | None, args: argparse.Namespace, screen: Screen
) -> int:
    import asyncio

    from prometheus_client import CollectorRegistry, start_http_server

    from pgproof.model.metrics import up

    def look() -> list[Metric]:
        try:
            return asyncio.run(_read(manager, replicas, args.with_server))
        except EngineError as error:
            _log.warning("the repository cannot be read: %s", error)
            return [up(manager.config.cluster, False)]

    registry = CollectorRegistry()
    registry.register(_Figures(look, args.every))
    host, port = args.listen
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise PreconditionError(
            "the metrics cannot be served there",
            hint="name another address or port with --listen",
            host=host,
            port=port,
            reason=error.strerror,
        ) from error
    where = f"http://{args.listen[0]}:{server.server_port}/metrics"
    screen.document({"listening": where})
    screen.say(f"Serving {where}")
    try:
        wait_for(asyncio.Event().wait())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    return Exit.OK


def _write(path: str, found: list[Metric]) -> None:
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(path, _registry(found))
    except OSError as error:
        raise PreconditionError(
            "the metrics cannot be written",
            hint="name a file in a directory that this user may write to",
            file=path,
            reason=error.strerror,
        ) from error


def _exposition(found: list[Metric]) -> str:
    from prometheus_client import generate_latest

    return generate_latest(_registry(found)).decode()


def _registry(found: list[Metric]) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(_Figures(lambda: found, 0))
    return registry


def _families(found: list[Metric]) -> Iterator[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    for metric in found:
        if not metric.samples:
            continue
        family = GaugeMetricFamily(metric.name, metric.help, labels=list(metric.samples[0].labels))
        for sample in metric.samples:
            family.add_metric(list(sample.labels.values()), sample.value)
        yield family
