"""Thirty databases of one server, each a cluster of its own to pgproof, backed up by the flow `fleet` on a real Prefect server.

Two of them lack a block. Each run is a process of its own, as in a fleet of thousands.
"""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import BackupRepository, PostgresServer
from campaigns.campaign import Campaign
from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, PostgresConfig
from tests.prefect.stack import Stack, prefect_stack, serving
from tests.support import machine
from tests.support.postgres import Cluster

_TARGETS, _BROKEN, _AT_ONCE, _PER_HOST = 30, 2, 4, 3
_PASSPHRASE = "a fleet has one passphrase here"


def run(campaign: Campaign) -> None:
    count = campaign.times(_TARGETS, least=3)
    names = [f"shop-{number:02}" for number in range(count)]
    directory = str(machine.new_dir("fleet") / "repository")
    with Cluster(18) as cluster, prefect_stack() as stack:
        asyncio.run(_manager(cluster, directory, names[0]).init_repository())
        for name in names:
            cluster.psql(f'CREATE DATABASE "{name}"')
        with temporary_settings({PREFECT_API_URL: stack.api_url}):
            _save_blocks(cluster, directory, names)
        # One place is the fleet's own.
        with serving(stack, at_once=_AT_ONCE + 1):
            begun = time.monotonic()
            state, rows, runs = _run_fleet(stack, count)
            campaign.notes["seconds"] = round(time.monotonic() - begun)
    broken = set(names[:_BROKEN])
    assert state["name"] == "FleetFailed", state
    assert state["message"].startswith(f"{count - _BROKEN} of {count} clusters backed up"), state
    assert {row["cluster"] for row in rows[:_BROKEN]} == broken and "✗" not in rows[_BROKEN]["result"], rows
    for name in names[_BROKEN:]:
        (info,) = asyncio.run(_manager(cluster, directory, name).list_backups())
        assert info.status == "ok" and info.cluster == name
        campaign.count("clusters backed up")
    campaign.count("clusters that failed alone", len(broken))
    campaign.notes["most runs at once"] = _most_at_once(runs)
    assert campaign.notes["most runs at once"] <= _PER_HOST, "the limit of the host they share"


def _save_blocks(cluster: Cluster, directory: str, names: list[str]) -> None:
    postgres = cluster.config()
    for number, name in enumerate(names):
        PostgresServer.from_config(
            PostgresConfig(host=postgres.host, port=postgres.port, user=postgres.user, database=name)
        ).save(name, overwrite=True)
        if number >= _BROKEN:
            BackupRepository(
                directory=directory,
                passphrase=SecretStr(_PASSPHRASE),
                cluster=name,
                databases=[name],
                method="logical",
            ).save(name, overwrite=True)


def _run_fleet(stack: Stack, count: int) -> tuple[dict[str, Any], list[dict[str, str]], list[dict[str, Any]]]:
    run_id = stack.start(
        "fleet/hourly",
        name="campaign",
        targets=["shop-*"],
        type="full",
        verify="none",
        spread_minutes=0.5,
        at_once=_AT_ONCE,
        per_host=_PER_HOST,
    )
    stack.wait_for(run_id, "Completed", "FleetFailed", "Failed", "Crashed", timeout=120 + 60 * count)
    state = stack.get(f"/flow_runs/{run_id}")["state"]
    runs = stack.post("/flow_runs/filter", {"flow_runs": {"name": {"like_": "shop-"}}, "limit": 200})
    return state, json.loads(stack.artifact("fleet-campaign")), runs


def _most_at_once(runs: list[dict[str, Any]]) -> int:
    """How many runs were between their start and their end at the same moment."""
    moments = sorted(
        [(run["start_time"], 1) for run in runs if run["start_time"]]
        + [(run["end_time"], -1) for run in runs if run["end_time"] and run["start_time"]]
    )
    assert all(earlier <= later for earlier, later in pairwise(moment for moment, _ in moments))
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def _manager(cluster: Cluster, directory: str, name: str) -> BackupManager:
    return BackupManager(
        cluster.config(), BackupConfig(backup_dir=directory, passphrase=_PASSPHRASE, cluster=name)
    )
