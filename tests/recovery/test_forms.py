"""Other forms of a restore to a point: over an older state, as a standby, as a branch, left to the server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.actions.restore_cluster import restore_cluster
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.recovery_request import RecoveryRequest, Standby
from pgproof.model.recovery_target import BACKUP_END, target_from
from pgproof.model.wal_commands import restore_command_by_client
from tests.postgres.clusters import processes_of
from tests.repository.places import starts
from tests.support import machine
from tests.support.faults import run_armed
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster
from tests.support.recovery_world import Mark, RecoveryWorld
from tests.wal.places import client, config_file, program


@pytest.fixture(scope="module")
def world() -> Iterator[RecoveryWorld]:
    """One backup on timeline 1, then marks 1 to 3, and a switch of segments between the last two."""
    with RecoveryWorld(18) as world:
        with world.busy(world.cluster, 1):
            world.backup()
            world.mark(world.cluster, 1)
            world.mark(world.cluster, 1)
            world.switch(world.cluster)
            world.mark(world.cluster, 1)
        world.switch(world.cluster)
        world.push()
        yield world


@pytest.fixture
def old(world: RecoveryWorld) -> Iterator[Path]:
    """A restored cluster at the end of the backup, which lived on differently and was shut down."""
    directory, _report = world.restore("old", RecoveryRequest(BACKUP_END), "latest")
    with world.adopt(directory) as cluster:
        cluster.psql("CREATE TABLE elsewhere AS SELECT g FROM generate_series(1, 20000) g; CHECKPOINT")
        cluster.psql("DELETE FROM ledger.recent; VACUUM ledger.recent; DROP TABLE ledger.counters")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def restore_by_command(world: RecoveryWorld, target: Path, *options: str) -> dict[str, Any]:
    """`pgproof restore` of a Python that the server's user can run, too."""
    path = config_file(world.config, world.root / "restore.toml")
    command = program(["restore", *options, "--data-dir", str(target), "--json", "--config", str(path)])
    done = subprocess.run(
        command, capture_output=True, text=True, env=machine.environment(TMPDIR="/tmp"), timeout=300
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def left_command(world: RecoveryWorld, target: Path) -> dict[str, str]:
    """What the restore left stands in the settings; here that Python needs to be told where pgproof is."""
    settings = (target / "postgresql.auto.conf").read_text()
    assert "wal_client.py" in settings
    assert (target / "pg_wal" / "pgproof" / "config.toml").stat().st_mode & 0o777 == 0o600
    options = ["wal", "worker", "--config", "pg_wal/pgproof/config.toml"]
    return {"restore_command": restore_command_by_client(client(), program(options))}


def marks(world: RecoveryWorld) -> list[Mark]:
    return world.lineages[1].marks


def test_a_delta_restore_writes_what_differs_and_removes_what_it_showed(
    world: RecoveryWorld, old: Path
) -> None:
    (old / "notes.txt").write_text("mine")
    (old / "base" / "1" / "99999").write_bytes(b"a stray relation")
    outside = world.root / "outside"
    outside.write_bytes(b"another cluster's page")
    version = old / "base" / "1" / "PG_VERSION"
    version.unlink()
    os.link(outside, version)
    conf = old / "postgresql.conf"
    saved = conf.read_bytes()
    conf.unlink()
    conf.symlink_to(outside)
    request = RecoveryRequest(target_from(xid=marks(world)[1].xid), delta=True)
    plan = world.plan(request, name="old")
    assert plan.delta is not None
    assert {"base/1/99999", "base/1/PG_VERSION", "postgresql.conf"} <= set(plan.delta.removed)
    assert plan.delta.kept == ("notes.txt",)
    assert "removes           base/1/99999" in plan.delta.lines()
    assert (old / "base/1/99999").exists(), "a plan changes nothing"
    assert (old / "global/pg_control").exists()
    _directory, report = world.restore("old", request)
    assert report.written_bytes < report.size_bytes / 2
    assert outside.read_bytes() == b"another cluster's page"
    assert not (old / "base/1/99999").exists()
    assert (old / "notes.txt").read_text() == "mine"
    assert conf.read_bytes() == saved
    assert not (old / "pgproof-delta-restore").exists()
    assert 3 not in world.judge(old, report, 1)


def restore_over(config: BackupConfig, target: Path, xid: int) -> None:
    """In a process of its own, which is killed."""
    request = RecoveryRequest(target_from(xid=xid), delta=True)
    restore_cluster(
        config, None, target, tablespaces={}, recover=True, owner=None, request=request, job=Job()
    )


def test_a_delta_restore_that_is_killed_does_not_start_and_can_be_repeated(
    world: RecoveryWorld, old: Path
) -> None:
    xid = marks(world)[1].xid
    points = ("delta.unlinked", "delta.removed@3", "delta.settle@9", "restore.write@5", "restore.synced")
    for point in (*points, "restore.control.written", "restore.recovered", "restore.tidied"):
        assert run_armed(f"{point}=kill", restore_over, world.config, old, xid) == -signal.SIGKILL, point
        machine.wait_until(lambda: not processes_of(old), "the server to die with its parent")
        assert not starts(old), point
    _directory, report = world.restore("old", RecoveryRequest(target_from(xid=xid), delta=True))
    world.judge(old, report, 1)


def test_a_delta_restore_refuses_what_is_not_a_stopped_server_of_the_same_cluster(
    world: RecoveryWorld, old: Path
) -> None:
    request = RecoveryRequest(delta=True)
    with world.adopt(old), pytest.raises(ConflictError, match="server uses"):
        world.restore("old", request, "latest")
    control = old / "global" / "pg_control"
    whole = control.read_bytes()
    for content in (whole[:100], b"\1" + whole[1:]):
        control.write_bytes(content)
        with pytest.raises(PreconditionError, match="whose cluster"):
            world.restore("old", request, "latest")
        assert control.read_bytes() == content
    control.unlink()
    with pytest.raises(PreconditionError, match="no pg_control"):
        world.restore("old", request, "latest")
    (old / "pgproof-delta-restore").write_text("12345\n")
    with pytest.raises(PreconditionError, match="another cluster"):
        world.restore("old", request, "latest")
    with pytest.raises(PreconditionError, match="nothing to overwrite"):
        world.restore("nowhere", request, "latest")


def test_a_standby_streams_from_its_primary(world: RecoveryWorld) -> None:
    primary = world.cluster
    primary.psql("SELECT pg_create_physical_replication_slot('copy', true)")
    target = world.root / "standby"
    passfile = machine.new_dir("pass", owned_by_service=True) / "pass"
    passfile.write_text(f"*:*:*:{STREAM_USER}:{STREAM_PASSWORD}\n")
    passfile.chmod(0o600)
    machine.give_to_service(passfile)
    conninfo = f"host=127.0.0.1 port={primary.port} user={STREAM_USER} passfile={passfile}"
    options = ["--standby", "--primary", conninfo, "--slot", "copy", "--timeline", "1"]
    report = restore_by_command(world, target, "latest", *options)
    assert report["recovered"] is False
    assert (target / "standby.signal").exists()
    assert not (target / "recovery.signal").exists()
    with world.adopt(target, **left_command(world, target)) as standby:
        written = world.mark(primary, 1)
        machine.wait_until(
            lambda: str(written.number) in standby.psql("SELECT number FROM marks").split(),
            "the standby to follow",
        )
        assert standby.psql("SELECT pg_is_in_recovery()") == "t"
        assert primary.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'copy'") == "t"
    primary.psql("SELECT pg_drop_replication_slot('copy')")
    shutil.rmtree(target)


def test_a_branch_of_a_restored_cluster_is_a_third_timeline_of_its_own(world: RecoveryWorld) -> None:
    directory, report = world.restore("branch", RecoveryRequest(target_from(xid=marks(world)[1].xid)))
    assert report.end_lsn is not None
    world.lineages[2] = world.lineages[1].branch(2, report.end_lsn)
    world.lineages[2].marks = marks(world)[:2]
    with world.adopt(directory, archive=True) as branch:
        with world.busy(branch, 2):
            written = world.mark(branch, 2)
        world.switch(branch)
        # Recovery archived nothing. `wal push` takes it out of pg_wal, beside what it is to push; here that is elsewhere.
        shutil.copy(directory / "pg_wal" / "00000002.history", world.archive)
    world.push()
    restored, report = world.restore("other", RecoveryRequest(target_from(time=written.time)))
    assert world.judge(restored, report, 2)[-1] == written.number, "by default along the newest timeline"
    restored, report = world.restore("other", RecoveryRequest(timeline=1), "latest")
    assert 3 in world.judge(restored, report, 1)
    with pytest.raises(PreconditionError, match="timelines that branched"):
        world.plan(RecoveryRequest(standby=Standby("host=primary")), "latest")


def test_a_recovery_that_is_left_to_the_server_stops_at_the_target(world: RecoveryWorld) -> None:
    mark = marks(world)[1]
    target = world.root / "left"
    options = ["--to-xid", str(mark.xid), "--timeline", "1", "--no-recover"]
    report = restore_by_command(world, target, *options)
    assert report["end_lsn"] is None
    settings = (target / "postgresql.auto.conf").read_text()
    assert settings.count("recovery_target_lsn") == 1
    assert "recovery_target_timeline = '1'" in settings
    assert (target / "recovery.signal").exists()
    with world.adopt(target, **left_command(world, target)) as cluster:
        machine.wait_until(lambda: has_recovered(cluster), "the end of recovery")
        assert cluster.psql("SELECT max(number) FROM marks") == str(mark.number)
    shutil.rmtree(target)


def has_recovered(cluster: Cluster) -> bool:
    """Without hot standby it lets nobody in before."""
    try:
        return cluster.psql("SELECT pg_is_in_recovery()") == "f"
    except RuntimeError as error:
        assert "not accepting connections" in str(error) or "starting up" in str(error)
        return False
