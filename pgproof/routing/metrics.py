"""A router's figures for Prometheus: `REGISTRY.register(RouterCollector(router))`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pgproof.model.routing import Health, Role

if TYPE_CHECKING:
    from pgproof.routing.router import ReadReplicaRouter

_COUNTERS = {
    "reads": "Reads that this node answered.",
    "writes": "Writes and transactions that were begun on this node.",
    "retries": "Reads that this node failed and another one was asked for.",
    "failures": "Queries whose connection broke.",
    "checks_failed": "Checks of the node that failed.",
}


class RouterCollector(Collector):
    """Costs the servers nothing: it tells what the router knows already."""

    def __init__(self, router: ReadReplicaRouter) -> None:
        self._router = router

    def collect(self) -> Iterator[Metric]:
        status = self._router.status()
        yield GaugeMetricFamily(
            "pgproof_router_writable", "Whether there is a node to write to.", value=status.writer is not None
        )
        yield GaugeMetricFamily(
            "pgproof_router_timeline", "The highest timeline that was seen.", value=status.timeline
        )
        yield CounterMetricFamily(
            "pgproof_router_switches", "How often another node became the primary.", value=status.switches
        )
        up = _gauge("up", "Whether the node answered its last check.")
        role = GaugeMetricFamily(
            "pgproof_router_node_role", "1 for what the node is.", labels=["node", "role"]
        )
        share = _gauge("read_share", "The node's part of the reads.")
        lag_bytes = _gauge("lag_bytes", "WAL that the replica has not replayed.")
        lag_seconds = _gauge("lag_seconds", "How far the replica is behind, an upper bound.")
        latency = _gauge("latency_seconds", "Smoothed time that a check takes.")
        checked = _gauge("last_check_age_seconds", "Age of the last good check.")
        busy = GaugeMetricFamily(
            "pgproof_router_connections_in_use",
            "Connections that are lent to queries.",
            labels=["node", "pool"],
        )
        size = GaugeMetricFamily(
            "pgproof_router_connections", "Connections that are open.", labels=["node", "pool"]
        )
        waiting = GaugeMetricFamily(
            "pgproof_router_waiting", "Queries that wait for a connection.", labels=["node", "pool"]
        )
        counters = {
            name: CounterMetricFamily(f"pgproof_router_{name}", text, labels=["node"])
            for name, text in _COUNTERS.items()
        }
        for node in status.nodes:
            labels = [node.id]
            up.add_metric(labels, node.health is Health.UP)
            for each in Role:
                role.add_metric([node.id, str(each)], node.role is each)
            share.add_metric(labels, node.share if node.tier == 0 else 0)
            latency.add_metric(labels, node.latency_seconds)
            if node.lag is not None:
                lag_bytes.add_metric(labels, node.lag.nbytes)
                if node.lag.seconds is not None:
                    lag_seconds.add_metric(labels, node.lag.seconds)
            if node.checked_seconds_ago is not None:
                checked.add_metric(labels, node.checked_seconds_ago)
            for pool, figures in node.pools.items():
                busy.add_metric([node.id, pool], figures["busy"] if figures else 0)
                size.add_metric([node.id, pool], figures["pool_size"] if figures else 0)
                waiting.add_metric([node.id, pool], figures["requests_waiting"] if figures else 0)
            for name, counter in counters.items():
                counter.add_metric(labels, getattr(node.counts, name))
        yield from (up, role, share, lag_bytes, lag_seconds, latency, checked, busy, size, waiting)
        yield from counters.values()


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pgproof_router_{name}", text, labels=["node"])
