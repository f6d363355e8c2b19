"""A repository for each test, in a directory or in an S3 bucket of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgproof.model.config import BackupConfig, PostgresConfig
from tests.round_trip.front_doors import FrontDoors
from tests.support.postgres import Cluster

OpenDoors = Callable[..., FrontDoors]


@pytest.fixture
def front_doors(request: pytest.FixtureRequest, work_dir: Path) -> OpenDoors:
    """Makes a repository for a cluster: `front_doors(cluster, "s3", encryption=False)`.

    The store is "local" or "s3"; further keywords are fields of BackupConfig.
    """

    def open_them(
        cluster: Cluster, store: str = "local", *, postgres: PostgresConfig | None = None, **fields: Any
    ) -> FrontDoors:
        fields = {"scratch_dir": str(work_dir), **fields}
        if store == "s3":
            server = request.getfixturevalue("s3")
            config = server.backup_config(
                s3_bucket=server.make_bucket(f"trip-{secrets.token_hex(6)}"), **fields
            )
        else:
            config = BackupConfig(**{"backup_dir": str(work_dir / "repository"), **fields})
        doors = FrontDoors(cluster, config, postgres)
        doors.init()
        return doors

    return open_them
