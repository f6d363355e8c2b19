"""From an empty directory to a restored server, each step as a person would type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Cluster

ROOT = Path(__file__).parent.parent.parent
PASSPHRASE = "a passphrase for tests"


class Shop:
    """A cluster with a little data, a directory repository, and the program to run on them."""

    def __init__(self, cluster: Cluster, repository: Path) -> None:
        self.cluster = cluster
        self.repository = repository
        connection = cluster.config().parameters()
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PGHOST": connection["host"],
            "PGPORT": connection["port"],
            "PGUSER": connection["user"],
            "BACKUP_DIR": str(repository),
            "BACKUP_PASSPHRASE": PASSPHRASE,
        }
        self.init_answer = self.json("init")
        self.backup_id: str = self.json("create")["backup_id"]

    def run(self, *arguments: str, status: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "scripts/db_backup.py", *arguments],
            cwd=ROOT,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, status: int = 0, **environ: str) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status, **environ).stdout)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Cluster(major=18) as cluster:
        cluster.psql("create table orders as select n, md5(n::text) as note from generate_series(1, 50000) n")
        yield Shop(cluster, tmp_path_factory.mktemp("cli") / "repository")


def test_init_gave_a_recovery_key_that_opens_the_repository(shop: Shop) -> None:
    answer = shop.init_answer
    assert answer["encrypted"] is True and answer["recovery_key"]
    assert all(check["ok"] is not False for check in answer["guarantees"])
    listed = shop.json("list", BACKUP_PASSPHRASE=answer["recovery_key"])
    assert shop.backup_id in [backup["backup_id"] for backup in listed]


def test_init_says_what_the_key_is_for(shop: Shop, tmp_path: Path) -> None:
    text = shop.run("init", "--repository", str(tmp_path / "other")).stdout
    assert "RECOVERY KEY" in text and "only way to your backups" in text
    assert "\x1b" not in text


def test_init_without_a_passphrase_and_without_a_terminal_is_refused(shop: Shop, tmp_path: Path) -> None:
    error = shop.json("init", "--repository", str(tmp_path / "other"), status=3, BACKUP_PASSPHRASE="")[
        "error"
    ]
    assert "PASSPHRASE" in error["hint"]
    plain = shop.json("init", "--no-encryption", "--repository", str(tmp_path / "p"), BACKUP_PASSPHRASE="")
    assert (plain["encrypted"], plain["recovery_key"]) == (False, None)


def test_no_other_command_makes_a_repository(shop: Shop, tmp_path: Path) -> None:
    place = tmp_path / "unmounted"
    error = shop.json("create", "--repository", str(place), status=3)["error"]
    assert "init" in error["hint"]
    assert not place.exists()


def test_a_wrong_passphrase_is_refused_and_never_printed(shop: Shop) -> None:
    done = shop.run("list", status=3, BACKUP_PASSPHRASE="wrong secret words")
    assert "HINT:" in done.stderr and "wrong secret words" not in done.stderr


def test_list_is_a_plain_table_with_a_row_for_each_backup(shop: Shop) -> None:
    lines = shop.run("list").stdout.splitlines()
    assert lines[0].split() == [
        "id", "type", "method", "status", "when", "duration", "size", "stored", "ratio", "verified", "findings",
    ]  # fmt: skip
    assert any(line.startswith(shop.backup_id) for line in lines[1:])
    assert "\x1b" not in "".join(lines)
    assert shop.json("list", "--type", "incremental") == []


def test_check_and_stats(shop: Shop) -> None:
    assert shop.json("check")["ok"] is True
    document = shop.json("stats")
    assert document["backups"] >= 1 and document["windows"] and document["cost_per_month"] is None
    priced = shop.run("stats", BACKUP_STORAGE_PRICE_PER_GB_MONTH="0.023").stdout
    assert "restorable     only 2" in priced and "a month (backups" in priced
    assert "✗" in shop.run("check", "--host", "/nowhere", status=7).stdout


def test_verify_proves_by_starting(shop: Shop) -> None:
    report = shop.json("verify", "latest", "--level", "start")
    assert (report["ok"], report["proven"], report["backup_id"]) == (True, True, shop.backup_id)
    assert "proven (start" in shop.run("list").stdout
    assert "✓" in shop.run("verify", shop.backup_id, "--level", "frames").stdout


def test_restore_plan_writes_nothing(shop: Shop, work_dir: Path) -> None:
    target = work_dir / "planned"
    assert shop.run("restore", "latest", "--data-dir", str(target), "--plan").stdout.strip()
    assert shop.json("restore", "latest", "--data-dir", str(target), "--plan")
    assert not target.exists()


def test_the_restored_cluster_has_the_same_rows(shop: Shop, work_dir: Path) -> None:
    target = work_dir / "restored"
    report = shop.json("restore", shop.backup_id[:-2], "--data-dir", str(target))
    assert (report["backup_id"], report["recovered"]) == (shop.backup_id, True)
    question = "select count(*), md5(string_agg(note, ',' order by n)) from orders"
    with Cluster.adopt(target, major=18) as restored:
        assert restored.psql(question) == shop.cluster.psql(question)


def test_an_unknown_backup_is_named(shop: Shop) -> None:
    error = shop.json("verify", "no-such-backup", status=3)["error"]
    assert error["hint"]


def test_keys(shop: Shop, tmp_path: Path) -> None:
    place = ["--repository", str(tmp_path / "repository")]
    shop.json("init", *place)
    new = tmp_path / "new"
    new.write_text("another passphrase\n")
    slot = shop.json("keys", "add", "--new-passphrase-file", str(new), *place)["slot_id"]
    assert slot in shop.run("keys", "list", *place, BACKUP_PASSPHRASE="another passphrase").stdout
    assert "--yes" in shop.json("keys", "remove", slot, *place, status=3)["error"]["hint"]
    assert shop.json("keys", "remove", slot, "--yes", *place) == {"removed": slot}
    shop.run("list", *place, status=3, BACKUP_PASSPHRASE="another passphrase")
    shop.json("keys", "change", "--new-passphrase-file", str(new), *place)
    shop.run("list", *place, status=3)
    assert len(shop.json("keys", "list", *place, BACKUP_PASSPHRASE="another passphrase")) == 2


def test_sigterm_stops_a_backup_and_leaves_no_lease(shop: Shop, tmp_path: Path) -> None:
    place = tmp_path / "repository"
    shop.json("init", "--repository", str(place))
    command = [
        sys.executable,
        "scripts/db_backup.py",
        "create",
        "--repository",
        str(place),
        "--max-rate",
        "100",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=shop.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        sending = "select count(*) from pg_stat_replication where state = 'backup'"
        while shop.cluster.psql(sending).strip() != "1":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert shop.json("list", "--repository", str(place)) == []
    leases = place / "clusters" / "main" / "leases"
    assert not leases.exists() or not [path for path in leases.rglob("*") if path.is_file()]


def test_damage_is_found(shop: Shop, tmp_path: Path) -> None:
    place = tmp_path / "repository"
    shop.json("init", "--repository", str(place))
    shop.json("create", "--repository", str(place))
    pack = max((path for path in place.rglob("packs/**/*") if path.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    report = shop.json("verify", "latest", "--level", "frames", "--repository", str(place), status=7)
    assert report["ok"] is False and report["damage"]
    assert "FAILED" in shop.run("list", "--repository", str(place)).stdout
