"""A scratch server starts on copies of real clusters, says why if it cannot, and leaves nothing behind."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.postgres.programs import Programs, find_programs
from pgproof.postgres.sandbox import find_sandbox
from tests.postgres.clusters import (
    SUPERUSER,
    USER,
    Production,
    control_of,
    copy,
    make_dir,
    one,
    processes_in,
    processes_of,
    scratch,
    sql,
)
from tests.support import machine
from tests.support.faults import run_armed


@pytest.mark.parametrize("sandboxed", [True, False])
@pytest.mark.parametrize("cold", [15, 17, 18], indirect=True)
def test_a_stopped_cluster_starts_and_nothing_is_left_behind(
    cold: tuple[Programs, Path], work: Path, sandboxed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, source = cold
    data, temporary = copy(source, work / "data"), make_dir(work / "tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with scratch(programs, data, sandboxed=sandboxed) as server:
        assert server.superuser == SUPERUSER
        assert server.databases() == ["postgres", "template1"]
        assert "CREATE DATABASE" in server.run("pg_dump", "--create", "postgres", timeout=60)
        assert one(server, "SHOW archive_mode") == "off"
        assert server.end_of_recovery_lsn == control_of(source).checkpoint_lsn
        assert processes_in(data)
        assert [path.stat().st_mode & 0o777 for path in temporary.iterdir()] == [0o700]
    assert processes_in(data) == set()
    assert list(temporary.iterdir()) == []
    assert control_of(data).state == "shut down"
    assert {path.name for path in work.iterdir()} == {"data", "tmp"}


def test_damaged_files_are_damage(cold: tuple[Programs, Path], work: Path) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    for path in (data / "pg_wal").glob("0*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="checkpoint record"), scratch(programs, data):
        pass
    assert processes_in(data) == set()
    assert not list(work.glob(".*"))


def test_a_missing_library_cannot_be_checked_here(cold: tuple[Programs, Path], work: Path) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    with (
        pytest.raises(PreconditionError, match=r"cannot be checked here.*\n.*brings no_such_library"),
        scratch(programs, data, preload=["no_such_library"]),
    ):
        pass


def test_other_programs_cannot_check_these_files(cold: tuple[Programs, Path], work: Path) -> None:
    _programs, source = cold
    data = copy(source, work / "data")
    other = find_programs(17)
    with pytest.raises(PreconditionError, match="cannot be checked here"), scratch(other, data):
        pass


def test_the_clusters_own_settings_do_not_count(cold: tuple[Programs, Path], work: Path) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    (data / "postgresql.auto.conf").write_text(
        "a_setting_that_was_removed = 1\nshared_preload_libraries = 'no_such_library'\n"
        "archive_mode = on\nrecovery_target = 'immediate'\nport = 1\nwork_mem = '77MB'\n"
    )
    (data / "standby.signal").touch()
    (data / "pg_hba.conf").write_text("local all all reject\n")
    with scratch(programs, data) as server:
        assert one(server, "SHOW work_mem") == "4MB"
        assert one(server, "SHOW shared_preload_libraries") == ""


@pytest.mark.parametrize("cold", [15, 18], indirect=True)
def test_a_cluster_may_have_no_database_but_template1_and_any_superuser(
    cold: tuple[Programs, Path], work: Path
) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    with scratch(programs, data) as server, server.connect("template1") as connection:
        connection.execute("DROP DATABASE postgres")
        connection.execute("CREATE ROLE postgres NOLOGIN")
        connection.execute('CREATE ROLE "we""ird" SUPERUSER LOGIN')
        connection.execute(sql(f'ALTER ROLE "{SUPERUSER}" NOLOGIN'))
    with scratch(programs, data) as server:
        assert server.superuser == 'we"ird'
        assert server.databases() == ["template1"]
        assert server.run("psql", "-Atc", "SELECT current_user", timeout=60).strip() == 'we"ird'


@pytest.mark.parametrize("cold", [15, 18], indirect=True)
def test_settings_of_roles_and_databases_do_not_count(cold: tuple[Programs, Path], work: Path) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    with scratch(programs, data) as server, server.connect() as connection:
        connection.execute(
            sql(f"ALTER ROLE \"{SUPERUSER}\" SET session_preload_libraries = 'no_such_library'")
        )
        connection.execute("ALTER DATABASE postgres SET statement_timeout = 1")
    with scratch(programs, data) as server:
        assert one(server, "SHOW statement_timeout") == "0"
        assert "PostgreSQL database dump complete" in server.run("pg_dump", "postgres", timeout=60)


def test_the_environment_does_not_lead_elsewhere(
    cold: tuple[Programs, Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, source = cold
    for name, value in {
        "PGHOST": "production.example.com",
        "PGHOSTADDR": "192.0.2.1",
        "PGSSLMODE": "verify-full",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGCHANNELBINDING": "require",
        "PGTARGETSESSIONATTRS": "standby",
        "PGOPTIONS": "-c work_mem=1MB",
    }.items():
        monkeypatch.setenv(name, value)
    with scratch(programs, copy(source, work / "data")) as server:
        assert one(server, "SHOW cluster_name") == "pgproof-scratch"
        assert one(server, "SHOW work_mem") == "4MB"


def test_files_in_use_are_left_alone(cold: tuple[Programs, Path], production: Production, work: Path) -> None:
    with pytest.raises(ConflictError), scratch(production.programs, production.data):
        pass
    with production.connect() as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (1000,)
    programs, source = cold
    data = copy(source, work / "data")
    with scratch(programs, data), pytest.raises(ConflictError), scratch(programs, data):
        pass


def test_a_pid_file_that_was_copied_does_not_matter(
    cold: tuple[Programs, Path], production: Production, work: Path
) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    shutil.copy(production.data / "postmaster.pid", data)
    with scratch(programs, data) as server:
        assert server.databases()


def _run(major: int, data: Path, sandboxed: bool) -> None:
    with scratch(find_programs(major), data, sandboxed=sandboxed):
        pass


@pytest.mark.parametrize("sandboxed", [True, False])
@pytest.mark.parametrize("point", ["launched", "starting", "open"])
def test_the_server_dies_with_its_parent(
    cold: tuple[Programs, Path], work: Path, point: str, sandboxed: bool
) -> None:
    """Even with one that is killed before the kernel was asked to kill the server then."""
    programs, source = cold
    data = copy(source, work / "data")
    killed = run_armed(f"server.{point}=kill", _run, programs.major, data, sandboxed)
    assert killed == -signal.SIGKILL
    machine.wait_until(lambda: not processes_of(data), "the server to end")
    with scratch(programs, data) as server:  # crash recovery on what was left
        assert server.databases()


def test_the_sandbox_can_be_switched_off() -> None:
    assert find_sandbox(find_programs(18), USER).isolated
    assert not find_sandbox(find_programs(18), USER, wanted=False).isolated
