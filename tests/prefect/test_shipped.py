"""What is shipped for hosts: the list of deployments, systemd units, the crontab. Each is used as an operator would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.utilities.schema_tools import is_valid_schema
from prefect.utilities.templating import apply_values, find_placeholders
from prefect_aws.workers.ecs_worker import ECSJobConfiguration

from deployments.automations import wanted
from deployments.recommended import for_service, recommended
from pgproof.model.config import BackupConfig
from tests.prefect.stack import ROOT
from tests.repository.places import new_repository
from tests.support.postgres import STREAM_PASSWORD, Cluster

UNITS = sorted((ROOT / "deployments" / "systemd").glob("*.service"))


def test_the_service_serves_what_prefect_yaml_says() -> None:
    """With the default intervals only the blocks differ, and that WAL and replicas are watched."""
    expected, served = recommended(), for_service(recommended(), BackupConfig(), wal=True, replicas=True)
    assert [(each.flow, each.name) for each in served] == [(each.flow, each.name) for each in expected]
    for usual, here in zip(expected, served, strict=True):
        blocks = {"server", "repository", "replicas"} & set(usual.parameters)
        assert dict(here.parameters) == {**usual.parameters, **dict.fromkeys(blocks, "")} | (
            # The file leaves out what is the flow's default.
            {"max_lateness_hours": here.parameters["max_lateness_hours"]}
            if "max_lateness_hours" in here.parameters
            else {}
        )
        assert usual.parameters.get("max_lateness_hours", 12) == here.parameters.get("max_lateness_hours", 12)
        if here.flow in ("watch_wal", "replica_health"):
            assert [each["active"] for each in here.schedules] == [True]
        else:
            assert list(map(_when, here.schedules)) == list(map(_when, usual.schedules))


def test_a_proof_a_week_is_no_alarm() -> None:
    (proof,) = (each for each in recommended() if each.flow == "verify")
    assert [cron for cron, active in map(_when, proof.schedules) if active] == ["30 4 * * 0"]
    defaults = Namespace(
        repository=None,
        cluster=None,
        max_age_hours=None,
        proof_days=None,
        wal_minutes=None,
        replica_minutes=None,
        watch_hours=3,
    )
    missed = {silence.what: silence.within for silence in wanted(defaults)[1]}
    assert missed["proof"] > timedelta(days=7)


def test_the_intervals_and_the_name_of_the_cluster_reach_the_schedules() -> None:
    config = BackupConfig(
        cluster="shop",
        full_backup_interval="weekly",
        differential_interval="12h",
        incremental_interval="never",
    )
    served = {each.name: each for each in for_service(recommended(), config, wal=False)}
    full, differential = served["daily-full-shop"], served["daily-differential-shop"]
    assert next(map(_when, full.schedules)) == ("30 2 * * 0", True)
    assert list(map(_when, differential.schedules)) == [(timedelta(hours=12), True)]
    assert served["every-minute-shop"].parameters["cluster"] == "shop"
    for never in (
        served["hourly-incremental-shop"],
        served["often-shop"],
        served["every-minute-shop"],
    ):
        assert [active for _, active in map(_when, never.schedules)] == [False]


def _when(schedule: object) -> tuple[object, bool]:
    assert isinstance(schedule, dict)
    return schedule.get("cron", schedule.get("interval")), schedule.get("active", True)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    # systemd looks whether the program is there; /opt/pgproof is where operators put what lies here.
    adjusted = tmp_path / unit.name
    adjusted.write_text(unit.read_text().replace("/opt/pgproof", str(ROOT)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", adjusted], capture_output=True, text=True, check=False
    )
    # About other units of this machine it may complain.
    said = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert said == []
    assert done.returncode == 0, done.stderr


def test_each_line_of_the_crontab_works_and_is_silent_unless_it_fails(pg18: Cluster, work_dir: Path) -> None:
    config = new_repository(work_dir / "r")
    postgres = pg18.tcp_config()
    settings = {
        "PGHOST": postgres.host,
        "PGPORT": postgres.port,
        "PGUSER": postgres.user,
        "PGPASSWORD": STREAM_PASSWORD,
        "BACKUP_DIR": config.backup_dir,
        "BACKUP_PASSPHRASE": config.passphrase,
    }
    env_file = work_dir / "cron.env"
    env_file.write_text("".join(f"export {name}='{value}'\n" for name, value in settings.items()))
    text = (ROOT / "deployments" / "crontab" / "pgproof").read_text()
    commands = re.findall(r"^[\d*/,-]+(?:\s+[\d*/,-]+){4}\s+pgproof\s+(.+)$", text, re.MULTILINE)
    jobs = [
        line for line in text.splitlines() if line and not line.startswith("#") and "=" not in line.split()[0]
    ]
    assert len(commands) == len(jobs) == 7
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(work_dir),
        "ENV": str(env_file),
    }
    for command in commands:
        assert "%" not in command, "cron makes a new line of it"
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=environment, cwd="/", capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        if "wal status" in command:
            assert "✗ slot-missing" in done.stdout
        else:
            assert done.stdout == "", command


@pytest.mark.parametrize("where", ["kubernetes", "ecs"])
def test_a_work_pool_takes_the_template(where: str) -> None:
    """What the worker makes of it is a job without root, whose secrets are references."""
    template = json.loads((ROOT / "deployments" / where / "base-job-template.json").read_text())
    variables = template["variables"]["properties"]
    is_valid_schema(template["variables"])
    assert {each.name for each in find_placeholders(template["job_configuration"])} <= set(variables)
    defaults = {name: each["default"] for name, each in variables.items() if "default" in each}
    job = apply_values(template["job_configuration"], {**defaults, "command": "prefect flow-run execute"})
    if where == "ecs":
        task = ECSJobConfiguration.model_validate(job).task_definition
        assert isinstance(task, dict)
        (container,) = task["containerDefinitions"]
        assert container["user"] == "10001:10001" and task["ephemeralStorage"] == {"sizeInGiB": 100}
        assert {each["name"] for each in container["secrets"]} == {"BACKUP_PASSPHRASE", "PGPASSWORD"}
    else:
        pod = job["job_manifest"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["args"] == "prefect flow-run execute" and pod["securityContext"]["runAsNonRoot"]
        assert container["envFrom"] == [{"secretRef": {"name": "pgproof", "optional": True}}]
        assert {each["name"] for each in container["volumeMounts"]} == {
            each["name"] for each in pod["volumes"]
        }


def test_the_image_is_built_of_what_is_there() -> None:
    text = (ROOT / "deployments" / "Dockerfile").read_text()
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()
    }
    admitted = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == admitted and all((ROOT / name).exists() for name in copied)
    assert {"flows", "blocks", "pgproof", "uv.lock", "prefect.yaml"} <= copied
    (uv,) = re.findall(r"astral-sh/uv:([\d.]+)", text)
    assert f"UV_VERSION={uv}\n" in (ROOT / "scripts" / "setup.sh").read_text()
    assert text.rindex("USER 10001:10001") > text.rindex("RUN ")
