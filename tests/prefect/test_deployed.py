"""The deployments of prefect.yaml on a real Prefect server and worker, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import BackupRepository
from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, BackupType
from tests.prefect.stack import Stack, prefect_stack, processes_of, worker
from tests.support import machine
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster

PASSPHRASE = "correct horse battery staple"
ENDED = ("Completed", "Cancelled", "Failed", "Crashed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(major=18) as cluster:
        cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n")
        yield cluster


@pytest.fixture(scope="module")
def repository(cluster: Cluster) -> Path:
    directory = machine.new_dir("repository") / "backups"
    config = BackupConfig(backup_dir=str(directory), passphrase=PASSPHRASE)
    asyncio.run(BackupManager(cluster.config(), config).init_repository())
    return directory


@pytest.fixture(scope="module")
def stack(cluster: Cluster, repository: Path) -> Iterator[Stack]:
    """A server made ready by the documented command, and a worker."""
    postgres = cluster.tcp_config()
    configured = {
        "PGHOST": str(postgres.host),
        "PGPORT": str(postgres.port),
        "PGUSER": str(postgres.user),
        "PGPASSWORD": STREAM_PASSWORD,
        "PGDATABASE": "postgres",
        "BACKUP_DIR": str(repository),
        "BACKUP_PASSPHRASE": PASSPHRASE,
    }
    with prefect_stack() as stack:
        stack.run("deployments/bootstrap.py", "--blocks-from-env", env=configured)
        with worker(stack):
            yield stack


def test_a_backup_and_its_verification_run_and_are_reported(stack: Stack) -> None:
    stack.prefect("deployment", "run", "backup/daily-full", "--watch")
    run = stack.newest_run("backup/daily-full")
    assert run["name"].startswith("main-full-20")
    assert "| Status | ✓ ok |" in stack.artifact("backup-main")

    incremental = stack.start("backup/hourly-incremental", change_detection="summaries")
    assert stack.wait_for(incremental, *ENDED) == "Completed", stack.logs_of(incremental)
    # The server of these tests makes no summaries: the backup is there all the same, and the report says why.
    report = stack.artifact("backup-main")
    assert "| Changes found by | compare |" in report and "summarize_wal is off" in report

    verification = stack.start("verify/daily")
    assert stack.wait_for(verification, *ENDED) == "Completed", stack.logs_of(verification)
    assert "**Proven" in stack.artifact("verify-main")
    assert "✓ proven (" in stack.artifact("catalog-main")

    logs = stack.logs_of(run["id"])
    assert "\npgproof." in f"\n{logs}", "the engine's own lines are in the run's log"
    everything = (
        logs + stack.worker_log() + json.dumps(run) + json.dumps(stack.post("/deployments/filter", {}))
    )
    assert PASSPHRASE not in everything
    assert STREAM_PASSWORD not in everything


def test_bootstrapping_and_deploying_again_changes_nothing(stack: Stack) -> None:
    before = _deployments(stack)
    stack.run("deployments/bootstrap.py")
    assert (
        _deployments(stack)
        == before
        == [
            ("cluster", 0),
            ("daily", 2),
            ("daily-differential", 1),
            ("daily-full", 2),
            ("database", 0),
            ("database", 0),
            ("fleet-member", 0),
            ("hourly", 2),
            ("hourly-incremental", 1),
            ("often", 1),
            ("table", 0),
            ("wal", 0),
            ("weekly", 1),
        ]
    )


def test_the_schedules_make_runs(stack: Stack) -> None:
    def scheduled() -> set[str]:
        runs = stack.post("/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}}})
        parameters = [run["parameters"] for run in runs]
        # A cleanup has neither.
        return {str(each.get("type") or each.get("level")) for each in parameters}

    machine.wait_until(
        lambda: scheduled() >= {"full", "incremental", "start", "None"},
        "runs of the cron schedules",
        timeout=120,
    )


def test_a_cancelled_backup_leaves_nothing_behind(stack: Stack, cluster: Cluster, repository: Path) -> None:
    leases = repository / "clusters" / "main" / "leases"
    with temporary_settings({PREFECT_API_URL: stack.api_url}):
        # The slowest rate that PostgreSQL takes: the backup is far from its end when it is cancelled.
        BackupRepository(directory=str(repository), passphrase=SecretStr(PASSPHRASE), max_rate=32).save(
            "slow", overwrite=True
        )
    run_id = stack.start("backup/daily-full", repository="slow")
    machine.wait_until(
        lambda: "streaming" in cluster.psql("SELECT phase FROM pg_stat_progress_basebackup"),
        "the base backup to be under way",
        timeout=120,
    )
    assert processes_of(run_id)
    assert _files_in(leases)

    stack.prefect("flow-run", "cancel", run_id)

    machine.wait_until(lambda: stack.state_of(run_id) == "Cancelled", "the run to be cancelled", timeout=120)
    machine.wait_until(lambda: not processes_of(run_id), "the run's processes to end", timeout=60)
    machine.wait_until(
        lambda: cluster.psql("SELECT count(*) FROM pg_stat_replication") == "0", "the server's sender to end"
    )
    assert cluster.psql("SELECT slot_name FROM pg_replication_slots") == ""
    assert _files_in(leases) == []


def test_a_failed_run_fails_the_command_and_is_notified(stack: Stack) -> None:
    received: list[dict[str, str]] = []

    def expected(message: dict[str, str]) -> bool:
        fact = "there is no usable Backup Repository block of this name (name=absent)"
        return message["title"].startswith("backup absent-full") and fact in message["text"]

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{receiver.server_port}/"
        for _ in range(2):  # the second time updates what the first one made
            stack.run("deployments/automations.py", env={"PGPROOF_WEBHOOK_URL": url})
        automations = stack.post("/automations/filter", {})
        assert len({each["name"] for each in automations}) == len(automations) == 3

        failed = stack.prefect(
            "deployment", "run", "backup/daily-full", "-p", "repository=absent", "--watch", check=False
        )
        assert failed.returncode == 1
        machine.wait_until(lambda: any(map(expected, received)), "the notification", timeout=60)
        receiver.shutdown()


def test_a_restore_that_overwrites_waits_for_approval(
    stack: Stack, cluster: Cluster, repository: Path
) -> None:
    config = BackupConfig(backup_dir=str(repository), passphrase=PASSPHRASE)
    asyncio.run(BackupManager(cluster.config(), config).create_backup(BackupType.FULL))
    work = machine.new_dir("restored")
    work.chmod(0o755)
    target = work / "data"
    run = ("deployment", "run", "restore/cluster", "-p", f"data_dir={target}", "-p", "to_backup_end=true")
    stack.prefect(*run, "--watch")
    control, stray = target / "global" / "pg_control", target / "base" / "1" / "77777"
    assert control.exists()
    assert "into an empty directory" in stack.artifact("restore-plan-main")
    assert f"| Data directory | {target} |" in stack.artifact("restore-main")
    for approve, directory, state in (
        (False, str(target), "Cancelled"),
        (True, "/elsewhere", "Cancelled"),
        (True, str(target), "Completed"),
    ):
        stray.touch()
        run_id = stack.start("restore/cluster", data_dir=str(target), to_backup_end=True, delta=True)
        assert stack.wait_for(run_id, "Suspended", *ENDED) == "Suspended", stack.logs_of(run_id)
        assert control.exists()
        assert stray.exists(), "nothing was changed yet"
        assert "base/1/77777" in stack.artifact("restore-plan-main")
        assert stack.answer(run_id, approve=approve, directory=directory) == "ACCEPT"
        assert stack.wait_for(run_id, *ENDED) == state, stack.logs_of(run_id)
        assert stray.exists() == (state == "Cancelled")


def test_rows_are_put_back_only_when_somebody_approved(
    stack: Stack, cluster: Cluster, repository: Path
) -> None:
    cluster.psql(f"GRANT ALL ON t TO {STREAM_USER}; GRANT CREATE ON SCHEMA public TO {STREAM_USER}")
    config = BackupConfig(backup_dir=str(repository), passphrase=PASSPHRASE)
    asyncio.run(BackupManager(cluster.config(), config).create_backup(BackupType.FULL))
    cluster.psql("DELETE FROM t WHERE n <= 100")
    run = ("deployment", "run", "rescue-table/table", "-p", "table=public.t", "-p", "to_backup_end=true")
    stack.prefect(*run, "--watch")
    assert cluster.psql("SELECT count(*) FROM t") == "49900", "it was not asked to put back any"
    answers = (("public.other", "Cancelled", "49900"), ("public.t", "Completed", "50000"))
    for number, (table, state, rows) in enumerate(answers, 2):
        run_id = stack.start("rescue-table/table", table="public.t", to_backup_end=True, merge="missing")
        assert stack.wait_for(run_id, "Suspended", *ENDED) == "Suspended", stack.logs_of(run_id)
        assert "100 rows missing, 0 changed, 0 new since" in stack.artifact("rescue-main")
        assert stack.answer(run_id, approve=True, table=table) == "ACCEPT"
        assert stack.wait_for(run_id, *ENDED) == state, stack.logs_of(run_id)
        assert cluster.psql("SELECT count(*) FROM t") == rows
        # The run that went on did not rescue it once more.
        assert cluster.psql("SELECT count(*) FROM pg_class WHERE relname ~ '^t_rescued_'") == str(number)
    assert "| Put back | 100 |" in stack.artifact("rescue-merge-main")


def test_runs_that_an_outage_delayed_skip_themselves(stack: Stack) -> None:
    deployment = stack.get("/deployments/name/backup/daily-full")["id"]
    too_late = datetime.now(UTC) - timedelta(hours=13)
    missed = {"start_time": str(too_late - timedelta(days=3)), "end_time": str(too_late), "max_runs": 2}
    stack.post(f"/deployments/{deployment}/schedule", missed)

    def delayed() -> list[tuple[str, str, str]]:
        runs = stack.post(
            "/flow_runs/filter",
            {
                "deployments": {"id": {"any_": [deployment]}},
                "flow_runs": {"expected_start_time": {"before_": str(too_late)}},
            },
        )
        return sorted(
            (run["expected_start_time"], run["state"]["type"], run["state"]["message"]) for run in runs
        )

    machine.wait_until(
        lambda: [kind for _, kind, _ in delayed()] == ["COMPLETED", "COMPLETED"],
        "the delayed runs to be over",
        timeout=180,
    )
    first, second = (message for _, _, message in delayed())
    assert "takes its place" in first
    assert "h late" in second


def _deployments(stack: Stack) -> list[tuple[str, int]]:
    found = stack.post("/deployments/filter", {})
    return sorted((each["name"], len(each["schedules"])) for each in found)


def _files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]
