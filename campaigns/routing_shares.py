"""Whether reads fall on the replicas by their weights."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from campaigns.routing_view import serves
from campaigns.routing_world import World
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.routing import ReadPolicy
from pgproof.replication import ReadReplicaRouter
from pgproof.routing.options import RouterOptions

WEIGHTS = {"b": 1.0, "c": 2.0, "d": 5.0}
_CLIENTS = 50
_WITHIN = 0.05
_FAR = 1 << 40  # nothing here is to leave a replica out but its weight


async def shares(world: World, options: RouterOptions, reads: int) -> float:
    """Read so often by clients of a router that has weights; return the worst deviation of a share, as a part of it.

    Raises AssertionError for one above 5 %.
    """
    config = ReplicationConfig(world.replicas(WEIGHTS), max_lag_bytes=_FAR, max_lag_seconds=3600.0)
    options = replace(options, policy=ReadPolicy.WEIGHTED)
    found: Counter[str] = Counter()

    async with ReadReplicaRouter(world.primary_config(), config, options) as router:

        async def client(times: int) -> None:
            for _ in range(times):
                name = await router.fetch_val_read("SELECT current_setting('cluster_name')")
                found[name.partition(".")[0]] += 1

        await _until_all_serve(router)
        await asyncio.gather(*(client(reads // _CLIENTS) for _ in range(_CLIENTS)))
    total = sum(WEIGHTS.values())
    worst = max(abs(found[node] / found.total() / (weight / total) - 1) for node, weight in WEIGHTS.items())
    assert found.total() == reads // _CLIENTS * _CLIENTS and set(found) == set(WEIGHTS), found
    assert worst <= _WITHIN, f"the shares are {found}"
    return worst


async def _until_all_serve(router: ReadReplicaRouter) -> None:
    while sum(map(serves, router.status().nodes)) < len(WEIGHTS):
        await asyncio.sleep(0.05)
