"""The runbook is executed: every command of docs/recovery.md, in its order, on a real repository."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from pgproof.actions.init_repository import init_repository
from pgproof.actions.take_backup import take_backup
from pgproof.actions.wal_single import push_one
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from tests.support.machine import as_service_user
from tests.support.postgres import Cluster, ClusterFactory

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "three in the morning"


def commands(page: Path) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


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
    init_repository(config)
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

    passphrase_file = work_dir / "passphrase"
    passphrase_file.touch(mode=0o600)
    passphrase_file.write_text(PASSPHRASE + "\n")
    restored = work_dir / "restored"
    pg_ctl = shlex.join(as_service_user([str(cluster.bin / "pg_ctl")]))
    options = f"-c port=5432 -c listen_addresses= -c unix_socket_directories={work_dir} -c fsync=off"
    places = {
        "/var/lib/postgresql/18/restored": str(restored),
        "/var/lib/postgresql/18/at-two": str(work_dir / "at-two"),
        "2026-11-25 14:00:00+01:00": moment,
        "/var/lib/postgresql/18/by-hand": str(work_dir / "by-hand"),
        "--host db.example.com": f"--host {cluster.socket_dir} --port {cluster.port} --user postgres",
        "/tmp/venv": str(work_dir / "venv"),
        "/etc/pgproof/passphrase": str(passphrase_file),
        "/backups": str(work_dir / "backups"),
        "--owner postgres": f"--owner {restored_owner()}",
        "pg_ctl ": f"{pg_ctl} -w -l {work_dir}/log -o {shlex.quote(options)} ",
        " ID ": f" {backup.backup_id} ",
        "--dbname shop": f"--dbname shop --host {cluster.socket_dir} --port {cluster.port} --user postgres",
        "/tmp/rows.csv": str(work_dir / "rows.csv"),
    }
    script = "set -eu\n" + "".join(commands(ROOT / "docs/recovery.md"))
    for said, here in places.items():
        assert said in script, said
        script = script.replace(said, here)
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
        with Cluster.adopt(work_dir / "at-two", 18) as before:
            assert before.psql("SELECT count(*) FROM precious") == "1500"
        with Cluster.adopt(work_dir / "by-hand", 18) as by_hand:
            assert by_hand.psql("SELECT count(*) FROM precious") == "1000"
    finally:
        if (restored / "postmaster.pid").exists():
            stop = [str(cluster.bin / "pg_ctl"), "-D", str(restored), "-m", "immediate", "stop"]
            subprocess.run(as_service_user(stop), check=True, capture_output=True)


def restored_owner() -> str:
    from tests.support.machine import service_user

    user = service_user()
    return user.pw_name if user else os.environ["USER"]


def run(script: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environ, cwd="/")
