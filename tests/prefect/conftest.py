"""Prefect for the tests: one ephemeral server a session for the glue, none of it outside a temporary home."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

# Prefect reads its settings when it is imported, so its home is decided before that.
_HOME = tempfile.mkdtemp(prefix="pgproof-prefect-")
# A worker that is given none of these tests has collected them all the same.
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[_name]
os.environ |= {"PREFECT_HOME": _HOME, "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: E402
from prefect.testing.utilities import prefect_test_harness  # noqa: E402


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    # As well as at exit: a worker is killed that takes its time then.
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_backend() -> Iterator[None]:
    """A Prefect API with an empty database. Heartbeats are off: each flow would wait a second for them."""
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield
