"""The flows on a real Prefect server, good runs and bad ones, and everything that Prefect keeps of them."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import MinIOCredentials
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from blocks import BackupRepository, PostgresServer
from campaigns.campaign import Campaign
from campaigns.canaries import MARK, Canaries, Guard
from pgproof.actions.init_repository import init_repository
from pgproof.model.config import BackupConfig, PostgresConfig
from tests.prefect.stack import Stack, prefect_stack, processes_of, worker
from tests.support import machine
from tests.support.postgres import Cluster

# By what is asked of the API: everything that people and other programs can read there.
_READABLE = (
    "flow_runs",
    "task_runs",
    "logs",
    "artifacts",
    "deployments",
    "block_documents",
    "variables",
    "work_pools",
)
_PAGE, _EVENTS = 200, 50


def search_prefect(campaign: Campaign, canaries: Canaries, cluster: Cluster) -> set[str]:
    """Run the flows with planted secrets; return where any of them turned up."""
    place = machine.new_dir("watched")
    passphrase = canaries.plant("passphrase of the flows")
    config = BackupConfig(backup_dir=str(place / "repository"), passphrase=passphrase)
    canaries.add("recovery key of the flows", init_repository(config).recovery_key or "")
    password = canaries.plant("password of the flows")
    quoted = password.replace("'", "''")
    cluster.psql(f"CREATE ROLE watched_flows LOGIN SUPERUSER PASSWORD '{quoted}'")
    postgres = cluster.tcp_config(user="watched_flows", password=password)
    found: set[str] = set()
    with prefect_stack() as stack:
        given = {
            MARK: "1",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(cluster.port),
            "PGUSER": "watched_flows",
            "PGPASSWORD": password,
            "BACKUP_DIR": str(place / "repository"),
            "BACKUP_PASSPHRASE": passphrase,
        }
        with Guard(canaries, [stack.home]) as guard:
            made = stack.run("deployments/bootstrap.py", "--blocks-from-env", env=given)
            found |= _in(canaries, "the output of bootstrap.py", made.stdout + made.stderr)
            _blocks_that_fail(stack, canaries, postgres, config)
            with worker(stack):
                _runs(stack, campaign, cluster)
            for kind, document in _documents(stack):
                campaign.count("documents of Prefect searched")
                campaign.count(f"{kind} searched")
                found |= _in(canaries, f"{kind} of Prefect's API", document)
        found |= guard.leaks
        found |= canaries.search().in_folder(stack.home) | canaries.search().in_folder(place)
        campaign.count("environments looked at", guard.environments)
    campaign.require("flow runs that succeeded", 2)
    campaign.require("flow runs that failed", 4)
    for kind in ("flow_runs", "task_runs", "logs", "artifacts", "block_documents", "events"):
        campaign.require(f"{kind} searched", 2)
    return found


def _blocks_that_fail(
    stack: Stack, canaries: Canaries, postgres: PostgresConfig, config: BackupConfig
) -> None:
    """Blocks with secrets that are wrong, which are secrets as well: the right ones of another place."""
    wrong = replace(postgres, password=canaries.plant("wrong password of the flows"))
    with temporary_settings({PREFECT_API_URL: stack.api_url}):
        PostgresServer.from_config(wrong).save("wrong-password")
        closed = BackupRepository.from_config(config)
        closed.passphrase = SecretStr(canaries.plant("wrong passphrase of the flows"))
        closed.save("wrong-passphrase")
        keys = MinIOCredentials(
            minio_root_user="nobody",
            minio_root_password=SecretStr(canaries.plant("key of the flows")),
            aws_client_parameters=AwsClientParameters(endpoint_url="http://127.0.0.1:1"),
        )
        keys.save("no-store")
        BackupRepository(bucket="none", credentials=keys, passphrase=closed.passphrase).save("no-store")
        slow = BackupRepository.from_config(config)
        slow.max_rate = 32
        slow.save("slow")


def _runs(stack: Stack, campaign: Campaign, cluster: Cluster) -> None:
    def attempt(deployment: str, *parameters: str, fails: bool = False) -> None:
        done = stack.prefect("deployment", "run", deployment, *parameters, "--watch", check=False)
        assert (done.returncode != 0) == fails, (
            f"{deployment} {parameters}: {done.stdout}{stack.worker_log()}"
        )
        campaign.count("flow runs that failed" if fails else "flow runs that succeeded")

    attempt("backup/daily-full", "-p", "verify=frames")
    attempt("verify/weekly")
    attempt("backup/daily-full", "-p", "server=wrong-password", fails=True)
    attempt("backup/daily-full", "-p", "repository=wrong-passphrase", fails=True)
    attempt("verify/weekly", "-p", "repository=wrong-passphrase", fails=True)
    attempt("backup/daily-full", "-p", "repository=absent", fails=True)
    _killed(stack, cluster)
    campaign.count("flow runs that failed")


def _killed(stack: Stack, cluster: Cluster) -> None:
    """A run that ends without a word of its own."""
    stack.prefect("deployment", "run", "backup/daily-full", "-p", "repository=slow")
    machine.wait_until(
        lambda: "streaming" in cluster.psql("SELECT phase FROM pg_stat_progress_basebackup"),
        "the base backup to be under way",
        timeout=120,
    )
    run_id = str(stack.newest_run("backup/daily-full")["id"])
    for pid in processes_of(run_id):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    machine.wait_until(
        lambda: stack.state_of(run_id) == "Crashed", "the run to be seen as crashed", timeout=120
    )


def _documents(stack: Stack) -> Iterator[tuple[str, str]]:
    """Everything that the API shows, secrets left out as it does by itself."""
    for kind in _READABLE:
        for offset in itertools.count(step=_PAGE):
            documents = stack.post(f"/{kind}/filter", {"limit": _PAGE, "offset": offset})
            yield from ((kind, json.dumps(each, ensure_ascii=False)) for each in documents)
            if len(documents) < _PAGE:
                break
    # The newest ones; all of them are in the database.
    events = stack.post("/events/filter", {"limit": _EVENTS})["events"]
    yield from (("events", json.dumps(each, ensure_ascii=False)) for each in events)


def _in(canaries: Canaries, where: str, content: str) -> set[str]:
    return {f"{what} in {where}" for what in canaries.search().in_text(content)}
