"""What the flows share, run with a real Prefect API where it needs one."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    ArtifactFilterType,
)
from prefect.context import hydrated_context, serialize_context
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.support.approval import once_per_run
from flows.support.engine import run_engine, worth_retrying
from flows.support.lateness import why_skip
from flows.support.logs import MaskSecrets
from flows.support.publishing import publish_report
from flows.support.settings import backup_config, postgres_config, secrets_of
from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.report import Progress, ProgressCallback

MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(TransientError("gone for a moment"), 3), (PreconditionError("no right"), 1), (DataError("broken"), 1)],
)
def test_only_a_transient_error_is_tried_again(
    prefect_backend: None, error: EngineError, attempts: int
) -> None:
    made = []

    @task(retries=2, retry_delay_seconds=0, retry_condition_fn=worth_retrying)
    def call() -> None:
        made.append(1)
        raise error

    @flow
    def calling() -> None:
        call()

    with pytest.raises(type(error)):
        calling()
    assert len(made) == attempts


def test_the_progress_of_an_engine_call_is_an_artifact_of_the_run(prefect_backend: None) -> None:
    async def work(progress: ProgressCallback) -> str:
        await asyncio.to_thread(progress, Progress("files", 5_000_000, 10_000_000))
        return "done"

    @flow
    def calling() -> tuple[str, Any]:
        return run_engine(work), runtime.flow_run.id

    answer, run_id = calling()
    assert answer == "done"
    with get_client(sync_client=True) as client:
        rings = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                type=ArtifactFilterType(any_=["progress"]), flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])
            )
        )
    assert [(ring.data, ring.description) for ring in rings] == [(100, "finished")]


def test_a_report_that_cannot_be_published_is_a_warning(
    prefect_backend: None, caplog: pytest.LogCaptureFixture
) -> None:
    # Port 9 is the discard service: nothing listens there.
    nowhere = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}

    def publish_nowhere(run: dict[str, Any]) -> None:
        with hydrated_context(run), temporary_settings(nowhere):
            publish_report("verify", "glue", "# Report", "unreachable")

    @flow
    def reporting() -> str:
        publish_report("backup", "glue", "# Report \udcff", "reachable")
        # A thread of its own, because the flow's thread has a client that reaches the server.
        with ThreadPoolExecutor() as pool:
            pool.submit(publish_nowhere, serialize_context()).result()
        return "durable"

    assert reporting() == "durable"
    with get_client(sync_client=True) as client:
        reports = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_="%-glue")))
    assert [(report.key, report.data) for report in reports] == [("backup-glue", "# Report ?")]
    assert "the report verify-glue could not be published" in caplog.text


def test_a_missing_block_is_named_with_the_way_to_make_it(prefect_backend: None) -> None:
    with pytest.raises(PreconditionError, match="nowhere") as server:
        postgres_config("nowhere")
    assert "bootstrap.py" in server.value.hint
    with pytest.raises(PreconditionError, match="nowhere"):
        backup_config("nowhere")


def test_an_empty_name_means_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.org")
    monkeypatch.setenv("BACKUP_DIR", "/backups")
    assert postgres_config("").host == "db.example.org"
    assert backup_config("").backup_dir == "/backups"


def test_every_secret_is_known_to_the_mask() -> None:
    postgres = PostgresConfig(password="server", options={"sslpassword": "key", "sslmode": "require"})
    config = BackupConfig(
        passphrase="phrase",
        s3_access_key_id="id",
        s3_secret_access_key="store",
        s3_options={
            "AWS_SESSION_TOKEN": "session",
            "aws_sse_customer_key_base64": "customer",
            "aws_virtual_hosted_style_request": "true",
        },
    )
    assert secrets_of(postgres, config) == {"server", "key", "phrase", "store", "session", "customer"}


def _record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("pgproof", logging.INFO, __file__, 1, message, arguments, info)


def test_secrets_are_masked_in_messages_arguments_and_tracebacks() -> None:
    mask = MaskSecrets()
    mask.learn(["hunter2", "hunter2-longer"])
    try:
        raise RuntimeError("refused hunter2-longer")
    except RuntimeError as error:
        record = _record("password %s of %s", "hunter2", "db", error=error)
    assert mask.filter(record)
    printed = logging.Formatter("%(message)s").format(record)
    assert "password ******** of db" in printed
    assert "refused ********\n" in printed + "\n"
    assert "hunter2" not in printed


def test_a_line_without_secrets_stays_as_it_is() -> None:
    mask = MaskSecrets()
    mask.learn(["", "a"])
    record = _record("100% of a disk")
    assert mask.filter(record)
    assert record.getMessage() == "100% of a disk"


@pytest.mark.parametrize(
    ("late", "newer", "allowed", "skipped"),
    [
        (timedelta(seconds=20), [], 12 * HOUR, False),
        (11 * HOUR, [], 12 * HOUR, False),
        (13 * HOUR, [], 12 * HOUR, True),
        (300 * HOUR, [], timedelta(0), False),
        (25 * HOUR, [MIDNIGHT + 24 * HOUR], timedelta(0), True),
        (2 * HOUR, [MIDNIGHT + 24 * HOUR], 12 * HOUR, False),
        (2 * HOUR, [MIDNIGHT], 12 * HOUR, False),
    ],
    ids=["on time", "late", "too late", "no limit", "replaced", "next one not due", "same time"],
)
def test_a_run_is_skipped_when_it_is_too_late_or_a_newer_one_is_due(
    late: timedelta, newer: list[datetime], allowed: timedelta, skipped: bool
) -> None:
    assert (why_skip(MIDNIGHT, MIDNIGHT + late, newer, allowed) is not None) == skipped


def test_a_run_that_begins_anew_goes_on_with_the_backup_it_chose_first(prefect_backend: None) -> None:
    @flow
    def chooses_twice() -> tuple[str, str]:
        return once_per_run("backup", lambda: "planned"), once_per_run("backup", lambda: "came in since")

    assert chooses_twice() == ("planned", "planned")
