"""Fixtures for the scratch server; see clusters.py for what they hand out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.postgres.programs import Programs
from tests.postgres.clusters import Production, cold_cluster, running_production
from tests.support import machine


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory that the server's user owns and can reach, unlike pytest's."""
    path = machine.new_dir("w", owned_by_service=True)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def cold(request: pytest.FixtureRequest) -> tuple[Programs, Path]:
    """A cluster that was never started, of version 18, or of those that a test names as `cold`."""
    return cold_cluster(getattr(request, "param", 18))


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    with running_production(18) as cluster:
        yield cluster
