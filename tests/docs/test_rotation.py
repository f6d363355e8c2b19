"""Secrets are changed by docs/rotation.md while backups and the streamer go on: nothing is missed, and old ones open nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory
from tests.support.s3 import S3Server

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/rotation.md").read_text()
SETTINGS, PASSPHRASE, RECOVERY, ACCESS, PASSWORD, AFTERWARDS = re.findall(
    r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
)
_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}],
}


@dataclass
class Ground:
    """A cluster, a bucket that a user has access keys for, and a folder in place of /etc/pgproof."""

    cluster: Cluster
    s3: S3Server
    folder: Path
    streamer: subprocess.Popen[bytes] | None = None

    def store_client(self, service: Any) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.s3.endpoint,
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            region_name="us-east-1",
        )

    def new_pair(self) -> str:
        """Make an access key and write it down; return its id."""
        pair = self.store_client("iam").create_access_key(UserName="pgproof")["AccessKey"]
        self.write_settings(pair["AccessKeyId"], pair["SecretAccessKey"])
        return str(pair["AccessKeyId"])

    def write_settings(self, key_id: str, secret: str) -> None:
        self.write(
            "stream.env",
            "".join(
                f"{name}='{value}'\n"
                for name, value in {
                    "AWS_ACCESS_KEY_ID": key_id,
                    "AWS_SECRET_ACCESS_KEY": secret,
                    "AWS_S3_REGION": "us-east-1",
                    "AWS_ENDPOINT_URL": self.s3.endpoint,
                    "AWS_S3_BUCKET": "rotated",
                    "BACKUP_PASSPHRASE_FILE": self.folder / "passphrase",
                    "PGHOST": "127.0.0.1",
                    "PGPORT": self.cluster.port,
                    "PGUSER": "pgproof_backup",
                    "PGDATABASE": "postgres",
                    "PGPASSFILE": self.folder / "pgpass",
                }.items()
            ),
        )

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)

    def run(self, script: str, *, status: int = 0, answers: str = "", **places: str) -> str:
        """A block of the page, with the settings as the page takes them."""
        for said, here in places.items():
            assert said in script
            script = script.replace(said, here)
        psql = f"{self.cluster.bin}/psql -X -h {self.cluster.socket_dir} -p {self.cluster.port} -U postgres"
        script = f"set -eu\n{SETTINGS}{script}".replace("/etc/pgproof", str(self.folder))
        script = script.replace("psql --host db.example.com", psql)
        # Without a terminal psql asks for a password on its standard input.
        done = subprocess.run(
            ["setsid", "--wait", "bash", "-c", script],
            input=answers,
            capture_output=True,
            text=True,
            env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"},
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def slot(self, kind: str) -> str:
        """The oldest slot of this kind."""
        found = json.loads(self.run("pgproof keys list --json\n"))
        return next(str(slot["slot_id"]) for slot in found if slot["kind"] == kind)

    def restart_streamer(self) -> None:
        """As the unit's ExecStart, with what lies in its EnvironmentFile now."""
        self.stop_streamer()
        script = f"{SETTINGS}exec pgproof wal stream --create-slot".replace("/etc/pgproof", str(self.folder))
        environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"}
        self.streamer = machine.spawn(["bash", "-c", script], self.folder / "stream.log", environ)

    def stop_streamer(self) -> None:
        if self.streamer is not None:
            self.streamer.send_signal(signal.SIGTERM)
            assert self.streamer.wait(60) == 130
            self.streamer = None

    def work(self) -> None:
        """Twenty rows more, and their WAL is in the repository."""
        assert self.streamer is not None and self.streamer.poll() is None
        self.cluster.psql("INSERT INTO t SELECT generate_series(1, 20)")
        end = self.cluster.psql("SELECT pg_current_wal_lsn()")
        stored = f"SELECT bool_or(flush_lsn >= '{end}') FROM pg_stat_replication"
        machine.wait_until(lambda: self.cluster.psql(stored) == "t", "the WAL to be stored")


@pytest.fixture
def ground(cluster_factory: ClusterFactory, work_dir: Path) -> Iterator[Ground]:
    cluster = cluster_factory(major=18)
    cluster.psql("CREATE TABLE t (n int)")
    cluster.psql(
        "CREATE ROLE pgproof_backup LOGIN REPLICATION PASSWORD 'the first'; GRANT pg_monitor TO pgproof_backup"
    )
    with S3Server(("-s3.iam.readOnly=false",)) as s3:
        found = Ground(cluster, s3, work_dir)
        iam = found.store_client("iam")
        iam.create_user(UserName="pgproof")
        iam.put_user_policy(UserName="pgproof", PolicyName="all", PolicyDocument=json.dumps(_POLICY))
        s3.make_bucket("rotated")
        try:
            yield found
        finally:
            if found.streamer is not None and found.streamer.poll() is None:
                found.streamer.kill()
                found.streamer.wait()


def test_every_secret_is_changed_while_the_service_goes_on(ground: Ground) -> None:
    first_pair = ground.new_pair()
    ground.write("passphrase", "the first passphrase\n")
    ground.write("new-passphrase", "the second passphrase\n")
    ground.write("old-passphrase", "the first passphrase\n")
    ground.write("pgpass", "*:*:*:pgproof_backup:the first\n")
    first_recovery = json.loads(ground.run("pgproof init --json\n"))["recovery_key"]
    ground.run("pgproof create --type full\n")
    ground.restart_streamer()
    ground.work()

    ground.run(PASSPHRASE, OLD_SLOT=ground.slot("passphrase"))
    ground.work()
    told = ground.run("BACKUP_PASSPHRASE_FILE=/etc/pgproof/old-passphrase pgproof list\n", status=3)
    assert "does not open this repository" in told
    ground.run("pgproof create --type incremental\n")

    told = ground.run(RECOVERY, RECOVERY_SLOT=ground.slot("recovery"))
    (second_recovery,) = re.findall(r"PGP1-[A-Z2-7-]+", told)
    for key, status in ((first_recovery, 3), (second_recovery, 0)):
        ground.write("recovery-key", key + "\n")
        ground.run("BACKUP_PASSPHRASE_FILE=/etc/pgproof/recovery-key pgproof list\n", status=status)

    old_settings = (ground.folder / "stream.env").read_text()
    ground.new_pair()
    head, restart, *rest = ACCESS.partition("systemctl restart pgproof-wal-stream\n")
    assert (head, bool(restart)) == ("", True)
    ground.restart_streamer()
    checked = ground.run("".join(rest))
    assert "✓ repository write and read back" in checked and "✗" not in checked
    ground.store_client("iam").delete_access_key(UserName="pgproof", AccessKeyId=first_pair)
    ground.work()
    new_settings = (ground.folder / "stream.env").read_text()
    ground.write("stream.env", old_settings)
    assert "the object store refused the request" in ground.run("pgproof list\n", status=3)
    ground.write("stream.env", new_settings)

    ground.run(PASSWORD, answers="the second\nthe second\n")
    ground.work()
    assert "the server refused the password" in ground.run("pgproof create --type incremental\n", status=3)
    ground.write("pgpass", "*:*:*:pgproof_backup:the second\n")
    ground.run(AFTERWARDS)
    ground.work()
    ground.stop_streamer()

    ground.run(f"pgproof restore latest --data-dir {ground.folder}/restored\n")
    with Cluster.adopt(ground.folder / "restored", 18) as restored:
        assert restored.psql("SELECT count(*) FROM t") == "100"
