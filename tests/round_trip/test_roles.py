"""The roles that `roles` makes are enough for the work, and have no more than that."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from pgproof.actions.drill import run_drill
from pgproof.actions.init_repository import init_repository
from pgproof.actions.recorded import list_actions
from pgproof.actions.restore_point import create_restore_point
from pgproof.actions.roles import server_roles
from pgproof.actions.source_fingerprints import fingerprint_source
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.actions.wal_status import wal_status
from pgproof.cli.main import run
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupMethod, BackupType, VerifyLevel
from pgproof.model.drill import DrillReport, DrillRequest
from pgproof.model.job import Job
from pgproof.model.recovery_target import target_from
from pgproof.model.report import VerificationReport
from pgproof.model.roles import Purpose
from tests.repository.places import new_repository
from tests.support.postgres import STREAM_USER, ClusterFactory, find_bin
from tests.support.streaming import OPTIONS, Streamer, wait_for_flush

_ATTRIBUTES = """
    SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
    FROM pg_roles WHERE rolname ~ '^pgproof_' ORDER BY 1
"""
_MEMBERS = """
    SELECT m.rolname || ' in ' || r.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = roleid
    JOIN pg_roles m ON m.oid = member WHERE m.rolname ~ '^pgproof_' ORDER BY 1
"""


@pytest.mark.parametrize("major", [15, 17, 18])
def test_the_roles_do_the_work_and_no_superuser_is_needed(
    major: int, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    cluster = cluster_factory(major)
    cluster.psql("CREATE TABLE secret AS SELECT generate_series(1, 100) AS id")
    cluster.psql("ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
    # What promotes replicas is tried on replicas (tests/replicas).
    purposes = [each for each in Purpose if each is not Purpose.FAILOVER]
    for _ in range(2):  # may be run again
        plan = server_roles(cluster.config(), purposes, apply=True)
    assert plan.roles == ("pgproof_backup", "pgproof_read")
    assert [line.split()[:3] for line in plan.hba] == [
        ["local", "replication", "pgproof_backup"],
        ["local", "all", "pgproof_backup"],
        ["local", "all", "pgproof_read"],
    ]
    with cluster.connect() as connection:
        assert connection.execute(_ATTRIBUTES).fetchall() == [
            ("pgproof_backup", False, False, False, True, False),
            ("pgproof_read", False, False, False, False, True),
        ]
        members = [row[0] for row in connection.execute(_MEMBERS).fetchall()]
        assert members == ["pgproof_backup in pg_monitor", "pgproof_read in pg_read_all_data"]
    for user, refused in [("pgproof_backup", "SELECT * FROM secret"), ("pgproof_read", "CREATE TABLE t ()")]:
        with cluster.connect(user=user) as connection, pytest.raises(psycopg.Error):
            connection.execute(refused)

    backup, read = (cluster.config(user=user) for user in plan.roles)
    config = BackupConfig(
        backup_dir=str(work_dir / "repo"),
        encryption=False,
        bin_dir=str(find_bin(major)),
        scratch_dir=str(work_dir),
    )
    init_repository(config)
    info = take_backup(backup, config, BackupType.FULL, Job())
    assert info.status == "ok" and "no-ordinary-connection" not in {each.kind for each in info.findings}
    with Streamer(backup, config) as streamer:
        create_restore_point(backup, "here")
        source = fingerprint_source(read, config, [], Job())
        cluster.psql("INSERT INTO secret VALUES (101)")
        wait_for_flush(cluster, cluster.insert_lsn())
        status = wal_status(backup, config, slot=OPTIONS.slot)
        streamer.stop()
    assert status.primary is not None and status.primary.slot is not None
    report: VerificationReport | DrillReport
    if major == 18:  # a drill that goes to a point with fingerprints compares with them
        report = run_drill(config, None, DrillRequest(target=target_from(lsn=source.lsn)), Job())
        assert report.again.endswith(f"--to-lsn {source.lsn}")
    else:
        report = verify_backup(config, info.backup_id, VerifyLevel.FULL, Job(), against=str(source.lsn))
    (same,) = [check for check in report.checks if check.name == "same as the source"]
    assert report.ok and same.ok, report
    logical = BackupConfig(
        backup_dir=config.backup_dir,
        encryption=False,
        bin_dir=config.bin_dir,
        method=BackupMethod.LOGICAL,
        cluster="dumps",
    )
    assert take_backup(read, logical, BackupType.FULL, Job()).status == "ok"


def test_the_command_prints_what_is_asked_for_and_applies_only_when_told(
    cluster_factory: ClusterFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    work_dir: Path,
) -> None:
    cluster = cluster_factory(18)
    for name, value in cluster.libpq_environment().items():
        monkeypatch.setenv(name, value)
    assert run(["roles", "--for", "wal", "--address", "10.0.0.7", "--prefix", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "ALTER ROLE mine_backup LOGIN REPLICATION" in shown and "pg_read_all_data" not in shown
    assert "10.0.0.7/32" in shown and "\\password mine_backup" in shown and "pg_monitor" not in shown
    assert cluster.psql("SELECT count(*) FROM pg_roles WHERE rolname ~ '^mine_'") == "0"
    config = new_repository(work_dir / "r")
    monkeypatch.setenv("BACKUP_DIR", str(config.backup_dir))
    monkeypatch.setenv("BACKUP_PASSPHRASE", str(config.passphrase))
    assert run(["roles", "--for", "find-damage", "--prefix", "mine", "--apply", "--json", "--yes"]) == 0
    (record,), _damaged = list_actions(config)
    assert (record.command, record.outcome) == ("roles --apply", "done")
    assert record.subject.startswith("mine_read on ")
    assert json.loads(capsys.readouterr().out)["roles"] == ["mine_read"]
    attributes = "SELECT rolcanlogin, rolbypassrls, rolsuper FROM pg_roles WHERE rolname = 'mine_read'"
    assert cluster.psql(attributes) == "t|f|f"
    for arguments, words in [
        (["--for", "everything"], "not a purpose"),
        (["--prefix", "a b"], "not a prefix"),
    ]:
        assert run(["roles", *arguments]) == 3
        assert words in capsys.readouterr().err
    with pytest.raises(PreconditionError, match="may not make other roles"):
        server_roles(cluster.config(user=STREAM_USER), [Purpose.WAL], apply=True)
