"""docs/format.md is enough to get the data back: a reader written from it reads what our restore writes."""

from __future__ import annotations

import ast
import re
import stat
import sys
from pathlib import Path

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from tests.repository import reader
from tests.repository.reader import CLUSTER, INTENT, VERIFICATION, Reader
from tests.support.postgres import Cluster

_ALLOWED = {"cryptography", "blake3", "zstandard"}


def test_the_reader_shares_no_code_with_the_engine() -> None:
    tree = ast.parse(Path(reader.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= _ALLOWED | set(sys.stdlib_module_names)


@pytest.mark.parametrize("encryption", [True, False])
def test_both_readers_read_the_same(pg18: Cluster, work_dir: Path, encryption: bool) -> None:
    passphrase = "Grüße, ﬁrst" if encryption else None
    config = BackupConfig(
        backup_dir=str(work_dir / "repo"), passphrase=passphrase, encryption=encryption, cluster="shop"
    )
    recovery_key = init_repository(config).recovery_key
    backup_id = take_backup(pg18.config(), config, BackupType.FULL, Job()).backup_id
    verify_backup(config, backup_id, VerifyLevel.OBJECTS, Job())
    target = work_dir / "data"
    restore_cluster(config, backup_id, target, tablespaces={}, recover=False, owner=None, job=Job())

    other = Reader(work_dir / "repo", "shop", passphrase)
    manifest = other.manifest(backup_id)
    compared = 0
    for path, kind, mode, content in other.files(manifest):
        restored = target / path.decode()
        if path == b"tablespace_map":
            assert not content and not restored.exists()  # written anew by a restore, where there are any
        elif path == b"postgresql.auto.conf":
            assert restored.read_bytes().startswith(content.rstrip(b"\n"))  # with our recovery settings
        elif kind == 1:
            assert restored.is_dir()
        else:
            assert restored.read_bytes() == content, path
            assert stat.S_IMODE(restored.stat().st_mode) == mode & 0o777
            compared += 1
    assert compared == manifest["files"] - 2
    for name, content in other.wal(manifest):
        assert (target / "pg_wal" / name).read_bytes() == content

    for kind, key in ((CLUSTER, "cluster"), (INTENT, f"backups/{backup_id}/intent")):
        assert other.json(f"clusters/shop/{key}", kind)["format"] == 1
    (report,) = (work_dir / "repo" / "clusters/shop/backups" / backup_id / "verified").iterdir()
    assert re.fullmatch(r"\d{8}T\d{12}Z", report.name)
    assert other.json(str(report.relative_to(work_dir / "repo")), VERIFICATION)["ok"] is True
    if recovery_key:
        assert Reader(work_dir / "repo", "shop", recovery_key).master == other.master
