"""A scratch server recovers to where it is told, or says who must act; and what is handed over is whole."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pgproof.errors import Cancelled, PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.postgres.programs import execute
from pgproof.postgres.scratch import Handover, Recovery
from pgproof.postgres.scratch_files import allow_start, forbid_start
from tests.postgres.clusters import (
    USER,
    Production,
    contents,
    copy,
    make_dir,
    one,
    processes_in,
    running_production,
    scratch,
    sql,
)
from tests.support import machine


@pytest.mark.parametrize("sandboxed", [True, False])
def test_recovery_stops_at_a_restore_point(production: Production, work: Path, sandboxed: bool) -> None:
    name = f"before {sandboxed}"
    with production.connect() as connection:
        row = connection.execute("SELECT pg_create_restore_point(%s)", [name]).fetchone()
        assert row is not None
        connection.execute(sql(f"CREATE TABLE after_{work.name.replace('-', '_')} ()"))
    production.switch_wal()
    data = copy(production.backup, work / "data")
    with scratch(
        production.programs,
        data,
        recovery=production.recovery(recovery_target_name=name),
        sandboxed=sandboxed,
        settings={"fsync": "on"},
    ) as server:
        assert server.end_of_recovery_lsn == Lsn.parse(row[0])
        assert one(server, "SELECT count(*) FROM rows") == 1000
        assert one(server, f"SELECT to_regclass('after_{work.name.replace('-', '_')}')") is None
        assert one(server, "SHOW fsync") == "on"
        assert "other" in server.databases()
    assert not (data / "recovery.signal").exists()


def test_a_target_behind_the_wal_is_the_operators_to_change(production: Production, work: Path) -> None:
    data = copy(production.backup, work / "data")
    with (
        pytest.raises(PreconditionError, match="the WAL ends before the recovery target"),
        scratch(production.programs, data, recovery=production.recovery(recovery_target_name="never made")),
    ):
        pass
    assert not (data / "recovery.signal").exists()
    assert processes_in(data) == set()


def test_wal_that_cannot_be_fetched_is_worth_another_try(production: Production, work: Path) -> None:
    data = copy(production.backup, work / "data")
    with (
        pytest.raises(TransientError, match="could not get the WAL"),
        scratch(production.programs, data, recovery=Recovery("exit 255", 1)),
    ):
        pass


def test_a_stopped_job_ends_a_recovery_that_waits(production: Production, work: Path) -> None:
    data = copy(production.backup, work / "data")
    stop = threading.Event()
    fetched = make_dir(work / "fetched")
    command = f"touch {fetched}/%f; sleep 600"

    def stop_when_fetching() -> None:
        machine.wait_until(lambda: any(fetched.iterdir()), "a segment to be asked for")
        stop.set()

    watcher = threading.Thread(target=stop_when_fetching)
    watcher.start()
    # The sandbox shows `reads` read-only: the fetcher can leave its mark only without one.
    with (
        pytest.raises(Cancelled),
        scratch(
            production.programs,
            data,
            recovery=Recovery(command, 1),
            sandboxed=False,
            job=Job(stop=stop),
        ),
    ):
        pass
    watcher.join()
    assert processes_in(data) == set()


def test_a_server_that_does_not_open_in_time_is_stopped(production: Production, work: Path) -> None:
    data = copy(production.backup, work / "data")
    with (
        pytest.raises(TransientError, match="did not open in time"),
        scratch(production.programs, data, recovery=Recovery("sleep 600", 1), timeout=0.5),
    ):
        pass
    assert processes_in(data) == set()


def test_what_is_handed_over_starts_only_when_it_is_whole(work: Path) -> None:
    """Tablespaces that the WAL creates are where they were mapped, and the cluster has its own settings."""
    with running_production(18) as production:
        spaces = [make_dir(production.base / name) for name in ("first", "second space")]
        with production.connect() as connection:
            for number, path in enumerate(spaces):
                connection.execute(sql(f"CREATE TABLESPACE space_{number} LOCATION '{path}'"))
                connection.execute(
                    sql(f"CREATE TABLE kept_{number} TABLESPACE space_{number} AS SELECT 42 AS n")
                )
        production.switch_wal()
        before = [contents(path) for path in spaces]
        data, mapped = copy(production.backup, work / "data"), work / "mapped"
        (data / "postgresql.auto.conf").write_text("work_mem = '77MB'\n")
        forbid_start(data, USER)
        handover = Handover(work / "others", {str(spaces[1]): mapped})
        with scratch(production.programs, data, recovery=production.recovery(), handover=handover) as server:
            assert one(server, "SHOW work_mem") == "4MB"
        assert [contents(path) for path in spaces] == before
        links = {path.readlink() for path in (data / "pg_tblspc").iterdir()}
        assert links == set(server.new_tablespaces.values())
        assert mapped in links and {path.parent for path in links} == {work, work / "others"}
        postgres = str(production.programs.path("postgres"))
        plain_start = [postgres, "-D", str(data), "-c", f"unix_socket_directories={work}"]
        refused = execute(plain_start, user=USER, timeout=60, what="a plain start")
        assert "pgproof-this-restore-is-not-finished" in refused.stderr
        allow_start(data)
        assert (data / "postgresql.auto.conf").read_text() == "work_mem = '77MB'\n"
        with scratch(production.programs, data, tablespaces=[*links]) as server:
            assert [one(server, f"SELECT n FROM kept_{number}") for number in range(2)] == [42, 42]
