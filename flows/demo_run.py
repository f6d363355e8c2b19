"""The Prefect side of `pgproof demo`: saves the blocks `main` and runs the real flows on request.

It reads the name of a flow from standard input, runs it, and prints JSON, one object a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import PREFECT_UI_URL

from blocks import BackupRepository, PostgresServer
from flows.backup import backup
from flows.verify import verify
from pgproof.model.config import BackupConfig, PostgresConfig

_INTERVAL = 0.5
_FLOWS: dict[str, Callable[[], State[Any]]] = {
    "backup": lambda: backup(server="main", repository="main", type="full", return_state=True),
    "verify": lambda: verify(
        repository="main", backup_id="latest", level="full", server="main", return_state=True
    ),
}


def main() -> None:
    # What libraries print must not come between our lines.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # The flows then stop the way they do on Ctrl-C: the engine cleans up first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with get_client(sync_client=True) as client:
        _wait_for_server(client)
        PostgresServer.from_config(PostgresConfig.from_env()).save("main", overwrite=True)
        BackupRepository.from_config(BackupConfig.from_env()).save("main", overwrite=True)
        _tell(output, event="ready")
        for line in sys.stdin:
            with _progress(client, output):
                state = _FLOWS[line.strip()]()
            _tell(
                output,
                event="result",
                state=state.name,
                message=state.message,
                value=state.result() if state.is_completed() else None,
                url=f"{PREFECT_UI_URL.value()}/runs/flow-run/{state.state_details.flow_run_id}",
            )


def _wait_for_server(client: SyncPrefectClient) -> None:
    while client.api_healthcheck() is not None:
        time.sleep(0.1)


@contextmanager
def _progress(client: SyncPrefectClient, output: TextIO) -> Iterator[None]:
    """Pass on what the run shows in the Prefect UI: the newest progress artifact."""
    finished = threading.Event()
    known = {artifact.id for artifact in _rings(client)}

    def watch() -> None:
        with get_client(sync_client=True) as own_client:
            while not finished.wait(_INTERVAL):
                for artifact in _rings(own_client)[:1]:
                    if artifact.id not in known:
                        _tell(
                            output,
                            event="progress",
                            percent=float(str(artifact.data or 0)),
                            note=artifact.description or "",
                        )

    thread = threading.Thread(target=watch, name="demo-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _rings(client: SyncPrefectClient) -> list[Any]:
    return client.read_artifacts(
        artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=["progress"])),
        sort=ArtifactSort.CREATED_DESC,
        limit=10,
    )


def _tell(output: TextIO, **event: Any) -> None:
    output.write(json.dumps(event) + "\n")
    output.flush()


if __name__ == "__main__":
    main()
