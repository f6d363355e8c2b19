"""The runbook is executed: every command of docs/recovery.md, in its order, on a real repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import take_backup
from pgproof.actions.wal_single import push_one
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.model.wal_commands import restore_command_by_client
from pgproof.repository.catalog import list_backups
from tests.support import machine
from tests.support.machine import as_service_user
from tests.support.mounts import resize, small_disk
from tests.support.postgres import Cluster, ClusterFactory
from tests.wal.places import client, program

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "three in the morning"


PAGE = (ROOT / "docs/recovery.md").read_text()
# It wants a server whose disk is full.
(FULL_DISK,) = re.findall(r"^### The primary's disk is full.*?(?=^##)", PAGE, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def with_places(script: str, places: dict[str, str]) -> str:
    for said, here in places.items():
        assert said in script, said
        script = script.replace(said, here)
    return script


def test_every_command_of_the_runbook_works(cluster_factory: ClusterFactory, work_dir: Path) -> None:
    cluster = cluster_factory(major=18)
    cluster.psql("CREATE DATABASE shop")
    cluster.psql(
        "CREATE TABLE precious (g int PRIMARY KEY); INSERT INTO precious SELECT g FROM generate_series(1, 20) g",
        "shop",
    )
    cluster.psql("CREATE TABLE precious AS SELECT g FROM generate_series(1, 1000) g")
    cluster.psql("CREATE DATABASE app")
    cluster.psql("CREATE TABLE customers AS SELECT g FROM generate_series(1, 70) g", "app")
    config = BackupConfig(backup_dir=str(work_dir / "backups"), passphrase=PASSPHRASE)
    recovery_key = init_repository(config).recovery_key
    assert recovery_key is not None
    backup = take_backup(cluster.config(), config, BackupType.FULL, Job())
    cluster.psql("INSERT INTO precious SELECT g FROM generate_series(1001, 1500) g")
    moment = cluster.psql("SELECT clock_timestamp()")
    cluster.psql("DELETE FROM precious")
    cluster.psql("DROP DATABASE app")
    cluster.psql("DELETE FROM precious WHERE g <= 5; INSERT INTO precious VALUES (99)", "shop")
    cluster.psql("SELECT pg_switch_wal()")
    # Something of the next segment: what it is called is then beyond doubt, and all before it are complete.
    cluster.psql("SELECT pg_logical_emit_message(true, '', '')")
    names = cluster.psql(
        "SELECT name FROM pg_ls_waldir() WHERE name < pg_walfile_name(pg_current_wal_insert_lsn()) ORDER BY name"
    )
    for name in sorted(names.split()):
        push_one(config, cluster.data_dir / "pg_wal" / name)

    secrets = {
        "passphrase": PASSPHRASE,
        "recovery-key": recovery_key,
        "new-passphrase": "four in the morning",
    }
    for name, secret in secrets.items():
        (work_dir / name).touch(mode=0o600)
        (work_dir / name).write_text(secret + "\n")
    # The replica's user reads both.
    machine.give_to_service(work_dir / "backups")
    machine.give_to_service(work_dir / "passphrase")
    restored, replica = work_dir / "restored", work_dir / "replica1"
    worker = program(["wal", "worker", "--config", "pg_wal/pgproof/config.toml"])
    # The servers' user may not be able to run our Python.
    fetching = shlex.quote(f"restore_command={restore_command_by_client(client(), worker)}")
    pg_ctl = shlex.join(as_service_user([str(cluster.bin / "pg_ctl")]))
    options = f"-c port=5432 -c listen_addresses= -c unix_socket_directories={work_dir} -c fsync=off"
    places = {
        "/var/lib/postgresql/18/restored": str(restored),
        "/var/lib/postgresql/18/at-two": str(work_dir / "at-two"),
        "2026-11-25 14:00:00+01:00": moment,
        "/var/lib/postgresql/18/by-hand": str(work_dir / "by-hand"),
        '"host=db.example.com user=replicator"': f'"host={cluster.socket_dir} port={cluster.port} user=postgres"',
        "--host db.example.com": f"--host {cluster.socket_dir} --port {cluster.port} --user postgres",
        "/tmp/venv": str(work_dir / "venv"),
        **{f"/etc/pgproof/{name}": str(work_dir / name) for name in secrets},
        "/backups": str(work_dir / "backups"),
        "--owner postgres": f"--owner {restored_owner()}",
        "pg_ctl ": f"{pg_ctl} -w -l {work_dir}/log -o {shlex.quote(options)} ",
        "replica1:5432": f"{work_dir}:5433",
        "systemctl start postgresql@18-replica1": f"sh {work_dir}/start-replica",
        "/var/lib/postgresql/18/replica1": str(replica),
        "psql ": f"{cluster.bin}/psql -X -v ON_ERROR_STOP=1 ",
        "pgproof replicas rebuild": shlex.join(program(["replicas", "rebuild"])),
        "/srv/elsewhere": str(work_dir / "elsewhere"),
        " ID ": f" {backup.backup_id} ",
        "--dbname shop": f"--dbname shop --host {cluster.socket_dir} --port {cluster.port} --user postgres",
        "/tmp/rows.csv": str(work_dir / "rows.csv"),
    }
    (work_dir / "start-replica").write_text(
        f"{pg_ctl} -D {replica} -W -o {shlex.quote(f'{options} -c port=5433 -c {fetching}')} -l {work_dir}/log1 start"
    )
    script = with_places("set -eu\n" + "".join(commands(PAGE.replace(FULL_DISK, ""))), places)
    work_dir.chmod(0o777)
    try:
        done = run(script)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "to write" in done.stdout, "the plan was shown"
        assert (work_dir / "by-hand" / "global" / "pg_control").exists(), "restored without pgproof"
        rows = subprocess.run(
            [
                cluster.bin / "psql",
                "-XAt",
                "-h",
                work_dir,
                "-U",
                "postgres",
                "-c",
                "SELECT count(*) FROM precious",
            ],
            capture_output=True,
            text=True,
        )
        assert rows.stdout.strip() == "0", f"all WAL was replayed: {rows.stderr}"
        assert cluster.psql("SELECT count(*) FROM customers", "app") == "70"
        assert cluster.psql("SELECT count(*), sum(g) FROM precious", "shop") == "21|309"
        assert (work_dir / "rows.csv").read_text().splitlines()[1] == "missing,backup,1"
        machine.wait_until(
            lambda: (
                cluster.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'replica1'") == "t"
            ),
            "the replica to follow",
        )
        anew = BackupConfig(backup_dir=str(work_dir / "elsewhere"), passphrase=PASSPHRASE)
        assert len(list_backups(open_repository(anew))) == 1
        open_repository(replace(config, passphrase=secrets["new-passphrase"]))
        with Cluster.adopt(work_dir / "at-two", 18) as before:
            assert before.psql("SELECT count(*) FROM precious") == "1500"
        with Cluster.adopt(work_dir / "by-hand", 18) as by_hand:
            assert by_hand.psql("SELECT count(*) FROM precious") == "1000"
    finally:
        for data_dir in (restored, replica):
            if (data_dir / "postmaster.pid").exists():
                stop_now(cluster, data_dir)


def stop_now(cluster: Cluster, data_dir: Path) -> None:
    stop = [str(cluster.bin / "pg_ctl"), "-D", str(data_dir), "-m", "immediate", "stop"]
    subprocess.run(as_service_user(stop), check=True, capture_output=True)


def test_a_primary_whose_disk_is_full_because_of_our_slot_runs_again(work_dir: Path) -> None:
    """Before its disk is full, and when it has stopped and cannot start."""
    config = BackupConfig(backup_dir=str(work_dir / "backups"), passphrase=PASSPHRASE)
    init_repository(config)
    settings = {"max_wal_size": "48MB", "min_wal_size": "32MB"}
    with small_disk(96) as disk, Cluster(18, settings=settings) as cluster:
        cluster.stop()
        wal = cluster.data_dir / "pg_wal"
        shutil.move(wal, disk / "pg_wal")
        wal.symlink_to(disk / "pg_wal")
        machine.give_to_service(disk / "pg_wal")
        cluster.start()
        take_backup(cluster.config(), config, BackupType.FULL, Job())
        cluster.psql("SELECT pg_create_physical_replication_slot('pgproof', true); CREATE TABLE t (x text)")
        own = f"-c port={cluster.port} -c unix_socket_directories={cluster.socket_dir} -c fsync=off"
        places = {
            "max_slot_wal_keep_size=1GB": f"max_slot_wal_keep_size=32MB {own}",
            "/var/lib/postgresql/18/main": f"{cluster.data_dir} -w -l {work_dir}/log",
            "pg_ctl ": f"{shlex.join(as_service_user([str(cluster.bin / 'pg_ctl')]))} ",
            "psql ": f"{cluster.bin}/psql -X -v ON_ERROR_STOP=1 ",
            "--host db.example.com": f"--host {cluster.socket_dir} --port {cluster.port} --user postgres",
        }
        head = f"set -eu; export BACKUP_DIR={config.backup_dir} BACKUP_PASSPHRASE='{PASSPHRASE}'\n"
        look, give_up, start, *afterwards = commands(
            with_places(FULL_DISK.replace("'20GB'", "'64MB'"), places)
        )
        work_dir.chmod(0o777)

        done = run(head + look + give_up)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "✗ not-streaming" in done.stdout, done.stdout
        assert cluster.psql("SELECT count(*) FROM pg_replication_slots") == "0"

        cluster.psql("SELECT pg_create_physical_replication_slot('pgproof', true)")
        with pytest.raises(RuntimeError):
            for _ in range(40):
                cluster.psql("INSERT INTO t SELECT repeat(md5(g::text), 30) FROM generate_series(1, 5000) g")
        machine.wait_until(lambda: not cluster.running, "the server to stop")
        assert "No space left on device" in cluster.log.read_text()
        resize(disk, 128)
        try:
            done = run(head + start + "".join(afterwards))
            assert done.returncode == 0, done.stdout + done.stderr
            assert cluster.psql("SELECT wal_status FROM pg_replication_slots") == "lost"
            assert len(list_backups(open_repository(config))) == 2
        finally:
            if (cluster.data_dir / "postmaster.pid").exists():
                stop_now(cluster, cluster.data_dir)


def restored_owner() -> str:
    from tests.support.machine import service_user

    user = service_user()
    return user.pw_name if user else os.environ["USER"]


def run(script: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environ, cwd="/")
