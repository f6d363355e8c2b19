"""Fixtures on real servers; see tests/support for what they hand out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pgproof.repository import keyring
from tests.support import machine
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.s3 import S3Server

_INHERITED = ("PG", "BACKUP_", "AWS_", "PREFECT_", "READ_REPLICA_", "REPLICA_")

# At import, before any test module can read them: a developer's own servers are no part of a test.
for _name in [name for name in os.environ if name.startswith(_INHERITED)]:
    del os.environ[_name]

settings.register_profile("pgproof", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pgproof")

# As quick as a reader accepts, for what is made in this process: whoever opens a slot takes its own parameters.
keyring.PASSPHRASE_KDF |= {"memory_kib": 19456, "iterations": 1}

_SAMPLE = """
CREATE DATABASE app;
\\connect app
CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance numeric NOT NULL);
INSERT INTO accounts SELECT g, 'owner ' || g, g * 1.5 FROM generate_series(1, 1000) g;
CREATE TABLE notes (id int PRIMARY KEY, body text);
INSERT INTO notes SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 50) g;
SELECT lo_from_bytea(0, 'a large object');
"""


# Files of a minute and more, the longest first: the last files of a run are short, and no worker waits for another.
_BEGIN_FIRST = (
    "prefect/test_deployed.py",
    "prefect/test_service.py",
    "replicas/test_failover.py",
    "replicas/test_rebuild.py",
    "round_trip/test_awkward.py",
    "cli/test_demo.py",
    "repository/test_object_store_faults.py",
    "round_trip/test_incremental.py",
    "round_trip/test_under_load.py",
    "routing/test_failures.py",
    "campaigns/test_crash.py",
    "repository/test_crash.py",
    "round_trip/test_roles.py",
    "restore/test_drill.py",
    "prefect/test_shipped.py",
    "damage/test_find_damage.py",
    "restore/test_killed.py",
    "wal/test_standby_slots.py",
    "rescue/test_mistake.py",
    "campaigns/test_s3.py",
    "replicas/test_health.py",
    "routing/test_reads_and_writes.py",
    "campaigns/test_routing.py",
    "campaigns/test_failover.py",
    "round_trip/test_summaries.py",
    "wal/test_recovery.py",
    "round_trip/test_mirror.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long files begin first: xdist deals them out in this order. All else stays in the order that was drawn."""
    folder = Path(__file__).parent
    places = {folder / name: number for number, name in enumerate(_BEGIN_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    machine.remove_workspace()


def _sample(major: int) -> Iterator[Cluster]:
    with Cluster(major) as cluster:
        cluster.psql(_SAMPLE)
        yield cluster


@pytest.fixture(scope="session")
def pg18() -> Iterator[Cluster]:
    """PostgreSQL 18 with the database `app`, shared: for tests that change nothing others rely on."""
    yield from _sample(18)


@pytest.fixture(scope="session")
def pg17() -> Iterator[Cluster]:
    """PostgreSQL 17, else as `pg18`."""
    yield from _sample(17)


@pytest.fixture(scope="session")
def pg15() -> Iterator[Cluster]:
    """PostgreSQL 15, else as `pg18`."""
    yield from _sample(15)


@pytest.fixture
def cluster_factory() -> Iterator[ClusterFactory]:
    """Starts clusters of a test's own: `cluster_factory(17, settings={…})`, `cluster_factory.adopt(path)`."""
    with ExitStack() as stack:
        yield ClusterFactory(stack)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server for the whole run; make a bucket of your own in it."""
    with S3Server() as server:
        yield server


@pytest.fixture
def work_dir() -> Iterator[Path]:
    """A short path below which the service user can reach what it may read; removed after the test."""
    path = machine.new_dir("w")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ledger(cluster_factory: ClusterFactory) -> Iterator[Callable[..., Ledger]]:
    """Starts a ledger on a cluster: `ledger(cluster, clients=2)`; it is stopped before the cluster goes."""
    with ExitStack() as stack:

        def start(cluster: Cluster, **options: Any) -> Ledger:
            return stack.enter_context(Ledger(**options).start(cluster))

        yield start
