"""The deployments of prefect.yaml on a real Prefect server and worker, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import BackupRepository, PostgresServer, ReadReplicas
from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, BackupType
from tests.prefect.stack import Stack, prefect_stack, processes_of, worker
from tests.support import machine
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster, ClusterFactory
from tests.support.receiver import Receiver, receiver
from tests.support.replicas import replicated, stop_command

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
    assert re.fullmatch(r"main-full-20\d\d-\d\d-\d\d-\d{4}", run["name"])
    assert "| Status | ✓ ok |" in stack.artifact("backup-main")

    storage = stack.artifact("storage-main")
    incremental = stack.start("backup/hourly-incremental", change_detection="summaries")
    assert stack.wait_for(incremental, *ENDED) == "Completed", stack.logs_of(incremental)
    # The server of these tests makes no summaries: the backup is there all the same, and the report says why.
    report = stack.artifact("backup-main")
    assert "| Changes found by | compare |" in report and "summarize_wal is off" in report

    assert stack.artifact("storage-main") == storage, (
        "what hourly runs published would fill Prefect's database"
    )
    assert "backup begins id=" in stack.logs_of(incremental)

    verification = stack.start("verify/weekly")
    assert stack.wait_for(verification, *ENDED) == "Completed", stack.logs_of(verification)
    assert "**✓ Proven" in stack.artifact("verify-main")
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
            ("cluster", 0),
            ("daily-differential", 1),
            ("daily-full", 2),
            ("database", 0),
            ("database", 0),
            ("every-minute", 1),
            ("fleet-member", 0),
            ("hourly", 1),
            ("hourly", 2),
            ("hourly-incremental", 1),
            ("monthly", 1),
            ("often", 1),
            ("replica", 0),
            ("table", 0),
            ("wal", 0),
            ("weekly", 1),
            ("weekly", 2),
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


def test_each_failure_is_notified_once_and_each_recovery_once(stack: Stack) -> None:
    with receiver() as hook, temporary_settings({PREFECT_API_URL: stack.api_url}):
        CustomWebhookNotificationBlock.model_validate(
            {"name": "ops", "url": hook.url, "json_data": {"title": "{{subject}}", "text": "{{body}}"}}
        ).save("ops", overwrite=True)
        cluster = {"--cluster": "lonely", "--max-age-hours": str(10 / 3600), "--wal-minutes": "60"}
        command = ["deployments/automations.py", "--block", "custom-webhook/ops"]
        for _ in range(2):  # the second time updates what the first one made
            stack.run(*command, *(word for pair in cluster.items() for word in pair))
        automations = stack.post("/automations/filter", {})
        assert len({each["name"] for each in automations}) == len(automations) == 3 + 2 * 4

        failed = stack.prefect(
            "deployment", "run", "backup/daily-full", "-p", "repository=absent", "--watch", check=False
        )
        assert failed.returncode == 1
        message = _told(hook, r"backup absent-full-\d{4}-\d\d-\d\d-\d{4}: Failed")
        titles = [message["title"]]
        reason = "there is no usable Backup Repository block of this name (name=absent)\nHINT: create it"
        assert reason in message["text"]
        # The worker of these tests shall not take them: they begin as if it had.
        for state, name, told in (
            ("CRASHED", "Crashed", "Crashed"),
            ("FAILED", "WalInDanger", "WalInDanger"),
            ("COMPLETED", "Completed", "recovered"),
            ("COMPLETED", "Completed", None),
        ):
            run = _ended_run(stack, "watch-wal/often", state, name)
            if told is not None:
                titles.append(f"watch-wal {run}: {told}")
                _told(hook, re.escape(titles[-1]))
        missed, again = "no backup of lonely for 10 s", "backup of lonely: recovered"
        _told(hook, missed)

        def told_after_a_backup() -> bool:
            # Again and again, because the server may take the first one in before its own word of the alarm.
            _emit(stack, "pgproof.backup.completed", "pgproof.cluster.lonely")
            time.sleep(2)
            return any(each["title"] == again for each in hook.received)

        machine.wait_until(told_after_a_backup, "the recovery to be told", timeout=240)
        for each in automations:
            stack.delete(f"/automations/{each['id']}")
        found = [each["title"] for each in hook.received]
        assert sorted({*found} - {missed}) == sorted([*titles, again])
        assert all(found.count(title) == 1 for title in titles), found
        # Silence is told again after each ten seconds of it, and each time has an end.
        assert found.count(again) <= found.count(missed), found


def _told(hook: Receiver, title: str) -> dict[str, str]:
    """The first notification with such a title, which is a pattern."""

    def those() -> list[dict[str, str]]:
        return [each for each in hook.received if re.fullmatch(title, each["title"])]

    machine.wait_until(
        lambda: bool(those()), f"{title!r} to be told, and not only {hook.received}", timeout=240
    )
    return those()[0]


def _emit(stack: Stack, event: str, resource: str) -> None:
    body = {"id": str(uuid4()), "event": event, "occurred": datetime.now(UTC).isoformat()}
    answer = httpx.post(
        f"{stack.api_url}/events", json=[{**body, "resource": {"prefect.resource.id": resource}}], timeout=60
    )
    answer.raise_for_status()


def _ended_run(stack: Stack, deployment: str, state: str, name: str) -> str:
    """The name of a run of this deployment that ended so."""
    found = stack.get(f"/deployments/name/{deployment}")
    run = stack.post(
        "/flow_runs/",
        {
            "flow_id": found["flow_id"],
            "deployment_id": found["id"],
            "tags": found["tags"],
            "state": {"type": "RUNNING", "name": "Running"},
        },
    )
    ended = {"type": state, "name": name, "message": "as the test says"}
    stack.post(f"/flow_runs/{run['id']}/set_state", {"state": ended, "force": True})
    return str(run["name"])


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


def test_a_failover_waits_for_approval_and_does_what_was_approved(
    stack: Stack, cluster_factory: ClusterFactory
) -> None:
    them = replicated(cluster_factory, 18, settings={"wal_retrieve_retry_interval": "100ms"})
    places = [f"{each.socket_dir}:{each.port}" for each in them.replicas.values()]
    with temporary_settings({PREFECT_API_URL: stack.api_url}):
        PostgresServer.from_config(them.postgres).save("shop", overwrite=True)
        ReadReplicas(hosts=places, fence_command=stop_command(them.primary)).save("shop", overwrite=True)
    them.wait_for_replay()

    def asked() -> str:
        them.primary.kill9()
        run_id = stack.start("failover/cluster", server="shop", replicas="shop", cluster="shop")
        assert stack.wait_for(run_id, "Suspended", *ENDED) == "Suspended", stack.logs_of(run_id)
        return run_id

    def require_nothing_changed() -> None:
        for replica in them.replicas.values():
            assert replica.psql("SELECT pg_is_in_recovery()") == "t"

    # What was approved is a failover; the primary is back before it is done.
    run_id = asked()
    plan = stack.artifact("failover-plan-shop")
    (chosen,) = (name for name in places if f"**Failover: {name} takes over from primary" in plan)
    them.primary.start()
    assert stack.answer(run_id, approve=True, node=chosen) == "ACCEPT"
    assert stack.wait_for(run_id, *ENDED) == "Failed", stack.logs_of(run_id)
    require_nothing_changed()
    run_id = asked()
    assert stack.answer(run_id, approve=True, node=chosen) == "ACCEPT"
    assert stack.wait_for(run_id, *ENDED) == "Completed", stack.logs_of(run_id)
    assert f"{chosen} is the primary, on timeline 2" in stack.artifact("failover-shop")
    wanted = {"filter": {"event": {"name": ["pgproof.replicas.failed-over"]}}}
    machine.wait_until(lambda: bool(stack.post("/events/filter", wanted)["events"]), "the event")
    assert [each["payload"]["node"] for each in stack.post("/events/filter", wanted)["events"]] == [chosen]


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
