"""A scratch server starts on copies of real clusters, says why if it cannot, and never touches production."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from pgproof.errors import Cancelled, ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.control_file import CONTROL_FILE, ControlFile, parse_control_file
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.postgres.osuser import give_to, service_user
from pgproof.postgres.programs import Programs, find_programs, run
from pgproof.postgres.sandbox import find_sandbox
from pgproof.postgres.scratch import Recovery, ScratchServer, scratch_server

USER = service_user()
SUPERUSER = "the boss"


@dataclass
class Production:
    """A running cluster with an archive, and a base backup taken from it before anything happened."""

    programs: Programs
    base: Path
    data: Path
    archive: Path
    backup: Path

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.base), user=SUPERUSER, dbname="postgres", autocommit=True, port=5432
        )

    def switch_wal(self) -> None:
        """End the current segment and wait until it is in the archive."""
        with self.connect() as connection:
            row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
        wait_until((self.archive / row[0]).exists)

    def recovery(self, **target: str) -> Recovery:
        return Recovery(f"cp {self.archive}/%f %p", 1, target, (self.archive,))


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory that the server's user owns and can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="pgproof-test-"))
    give_to(USER, path)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def sql(text: str) -> bytes:
    """A query that is put together here; psycopg wants literal text otherwise."""
    return text.encode()


def make_dir(path: Path) -> Path:
    path.mkdir(mode=0o700)
    give_to(USER, path)
    return path


@contextlib.contextmanager
def running_production(major: int) -> Iterator[Production]:
    programs = find_programs(major)
    with directory() as base:
        data, archive = base / "data", make_dir(base / "archive")
        initdb: list[str | Path] = [
            programs.path("initdb"),
            "-D",
            data,
            "-U",
            SUPERUSER,
            "--no-sync",
            "-A",
            "trust",
        ]
        run([*initdb, "--wal-segsize=1"], user=USER, timeout=120, what="initdb")
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{base}'\nlisten_addresses = ''\nautovacuum = off\n")
            conf.write(f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\nfsync = off\n")
            conf.write("max_connections = 33\n")
        control: list[str | Path] = [programs.path("pg_ctl"), "-D", data, "-w", "-l", base / "log"]
        run([*control, "start"], user=USER, timeout=120, what="pg_ctl start")
        try:
            backup = base / "backup"
            command: list[str | Path] = [
                programs.path("pg_basebackup"),
                "-D",
                backup,
                "-X",
                "none",
                "-c",
                "fast",
                "--no-sync",
            ]
            env = {"PGHOST": str(base), "PGUSER": SUPERUSER, "PGPORT": "5432"}
            run(command, user=USER, env=env, timeout=120, what="pg_basebackup")
            yield Production(programs, base, data, archive, backup)
        finally:
            run([*control, "stop", "-m", "immediate"], user=USER, timeout=120, what="pg_ctl stop")


@pytest.fixture(scope="module", params=[15, 18])
def production(request: pytest.FixtureRequest) -> Iterator[Production]:
    with running_production(request.param) as cluster:
        with cluster.connect() as connection:
            connection.execute("CREATE TABLE rows AS SELECT generate_series(1, 1000) AS n")
            connection.execute("CREATE DATABASE other")
        cluster.switch_wal()
        yield cluster


@pytest.fixture(scope="module", params=[15, 17, 18])
def cold(request: pytest.FixtureRequest) -> Iterator[tuple[Programs, Path]]:
    """A cluster that was stopped, for tests that need no production beside it."""
    programs = find_programs(request.param)
    with directory() as base:
        initdb: list[str | Path] = [
            programs.path("initdb"),
            "-D",
            base / "data",
            "-U",
            SUPERUSER,
            "--no-sync",
            "-A",
            "trust",
        ]
        run([*initdb, "--wal-segsize=1"], user=USER, timeout=120, what="initdb")
        yield programs, base / "data"


@pytest.fixture
def work() -> Iterator[Path]:
    with directory() as path:
        yield path


def copy(source: Path, target: Path) -> Path:
    run(["/bin/cp", "-a", source, target], user=USER, timeout=120, what="copying")
    return target


def control_of(data: Path) -> ControlFile:
    return parse_control_file((data / CONTROL_FILE).read_bytes())


@contextlib.contextmanager
def scratch(programs: Programs, data: Path, **more: object) -> Iterator[ScratchServer]:
    arguments: dict[str, object] = {"user": USER, "control": control_of(data), "job": Job(), "timeout": 60}
    with scratch_server(programs, data, **{**arguments, **more}) as server:  # type: ignore[arg-type]
        yield server


def one(server: ScratchServer, query: str) -> object:
    with server.connect() as connection:
        row = connection.execute(sql(query)).fetchone()
    assert row is not None
    return row[0]


def fingerprint(root: Path) -> dict[str, str]:
    """Every path under `root` with what is in it."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def processes_in(data: Path) -> set[int]:
    """The processes whose working directory is that data directory, as a server's always is."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            if (entry / "cwd").readlink() == data:
                found.add(int(entry.name))
    return found


@pytest.mark.parametrize("sandboxed", [True, False])
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


def test_the_sandbox_holds_nothing_but_the_server(cold: tuple[Programs, Path], work: Path) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    (work / "secret").write_text("not for restored code")
    with scratch(programs, data) as server, server.connect() as connection:
        assert server.sandbox == "own user, mount, network, pid, ipc and uts namespaces"
        connection.execute("CREATE TABLE seen (line text)")

        def inside(command: str) -> list[str]:
            connection.execute("TRUNCATE seen")
            connection.execute(sql(f"COPY seen FROM PROGRAM '{command}' (DELIMITER '|')"))
            return [str(row[0]) for row in connection.execute("SELECT line FROM seen")]

        assert inside(f"ls {work}") == ["data"]
        assert inside("ls /etc | grep -c shadow || true") == ["0"]
        assert [line.split(":")[0].strip() for line in inside("tail -n +3 /proc/net/dev")] == ["lo"]
        assert all(
            line.startswith("Cap") and int(line[7:], 16) == 0 for line in inside("grep Cap /proc/self/status")
        )
        assert {line.split("=")[0] for line in inside("env")} <= {
            *("PATH", "LANG", "TZ", "PWD", "_", "SHLVL", "OLDPWD"),  # given, or set by bwrap and the shell
            *("LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC", "LC_TIME"),
            *("PGLOCALEDIR", "PGSYSCONFDIR", "PG_GRANDPARENT_PID"),
        }


@pytest.mark.parametrize("major", [15, 18])
def test_replay_touches_neither_the_archive_nor_a_tablespace_of_production(major: int, work: Path) -> None:
    """Both tablespaces are created after the base backup, so replay meets production's own paths."""
    with running_production(major) as production:
        spaces = [make_dir(production.base / name) for name in ("first space", "second")]
        with production.connect() as connection:
            for number, path in enumerate(spaces):
                connection.execute(sql(f"CREATE TABLESPACE space_{number} LOCATION '{path}'"))
                table = f"CREATE TABLE kept_{number} TABLESPACE space_{number}"
                connection.execute(sql(f"{table} AS SELECT generate_series(1, 5000) AS n"))
                connection.execute("CHECKPOINT")
        production.switch_wal()
        before = [fingerprint(path) for path in (production.archive, *spaces)]
        assert all(before)

        data = copy(production.backup, work / "data")
        with scratch(production.programs, data, recovery=production.recovery()) as server:
            for number in range(2):
                assert one(server, f"SELECT sum(n) FROM kept_{number}") == 12502500
            with server.connect() as connection:
                connection.execute("INSERT INTO kept_0 SELECT generate_series(1, 5000)")
                connection.execute("DROP TABLE kept_1")
                connection.execute("SELECT pg_switch_wal()")
                connection.execute("CHECKPOINT")
        assert [fingerprint(path) for path in (production.archive, *spaces)] == before
        assert set(server.new_tablespaces) == {str(path) for path in spaces}
        assert [path.name for path in work.iterdir()] == ["data"]

        shutil.rmtree(data)
        copy(production.backup, data)
        with (
            pytest.raises(PreconditionError, match="cannot be checked safely here"),
            scratch(production.programs, data, recovery=production.recovery(), sandboxed=False),
        ):
            pass
        run(["/bin/cp", "-rT", production.archive, data / "pg_wal"], user=USER, timeout=60, what="copying")
        with (
            pytest.raises(PreconditionError, match="cannot be checked safely here"),
            scratch(production.programs, data, sandboxed=False),
        ):
            pass
        assert [fingerprint(path) for path in (production.archive, *spaces)] == before
        assert processes_in(data) == set()


def test_new_tablespaces_can_be_kept(work: Path) -> None:
    with running_production(18) as production:
        space = make_dir(production.base / "space")
        with production.connect() as connection:
            connection.execute(sql(f"CREATE TABLESPACE space LOCATION '{space}'"))
            connection.execute("CREATE TABLE kept TABLESPACE space AS SELECT 42 AS n")
        production.switch_wal()
        data = copy(production.backup, work / "data")
        with scratch(
            production.programs, data, recovery=production.recovery(), new_tablespaces_dir=work / "spaces"
        ) as server:
            kept = server.new_tablespaces[str(space)]
        again = copy(production.backup, work / "again")
        with (
            pytest.raises(PreconditionError, match="no directory in this restore"),
            scratch(production.programs, again, recovery=production.recovery(), keep_auto_conf=True),
        ):
            pass
        (link,) = (data / "pg_tblspc").iterdir()
        link.unlink()
        link.symlink_to(kept)
        with scratch(production.programs, data, tablespaces=[kept]) as server:
            assert one(server, "SELECT n FROM kept") == 42


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
    programs, source = cold
    data = copy(source, work / "data")
    other = find_programs(17 if programs.major == 18 else 18)
    with pytest.raises(PreconditionError, match="cannot be checked here"), scratch(other, data):
        pass


@pytest.mark.parametrize("keep", [True, False])
def test_the_clusters_own_settings_do_not_count(cold: tuple[Programs, Path], work: Path, keep: bool) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    inherited = (
        "a_setting_that_was_removed = 1\nshared_preload_libraries = 'no_such_library'\n"
        "archive_mode = on\nrecovery_target = 'immediate'\nport = 1\nwork_mem = '77MB'\n"
    )
    (data / "postgresql.auto.conf").write_text(inherited)
    (data / "standby.signal").touch()
    (data / "pg_hba.conf").write_text("local all all reject\n")
    with scratch(programs, data, keep_auto_conf=keep) as server:
        assert one(server, "SHOW work_mem") == "4MB"
        assert one(server, "SHOW shared_preload_libraries") == ""
    assert (data / "postgresql.auto.conf").read_text() == (inherited if keep else "")
    assert not list(data.glob("*.parked"))


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


def test_what_protects_production_cannot_be_set(cold: tuple[Programs, Path], work: Path) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    with (
        pytest.raises(PreconditionError, match="protection"),
        scratch(programs, data, settings={"archive_mode": "on"}),
    ):
        pass


@pytest.mark.parametrize("how", ["link", "map", "wal"])
def test_a_link_to_another_directory_is_refused(cold: tuple[Programs, Path], work: Path, how: str) -> None:
    programs, source = cold
    data, foreign = copy(source, work / "data"), make_dir(work / "foreign")
    if how == "link":
        (data / "pg_tblspc" / "16400").symlink_to(foreign)
    elif how == "map":
        (data / "tablespace_map").write_text(f"16400 {foreign}\n")
    else:
        (data / "pg_wal").rename(foreign / "wal")
        (data / "pg_wal").symlink_to(foreign / "wal")
    with pytest.raises(PreconditionError, match="not part of the restore"), scratch(programs, data):
        pass
    if how == "wal":
        with scratch(programs, data, tablespaces=[foreign]) as server:
            assert server.databases()


def test_files_in_use_are_left_alone(production: Production, cold: tuple[Programs, Path], work: Path) -> None:
    with pytest.raises(ConflictError), scratch(production.programs, production.data):
        pass
    with production.connect() as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (1000,)
    programs, source = cold
    data = copy(source, work / "data")
    with scratch(programs, data), pytest.raises(ConflictError), scratch(programs, data):
        pass


def test_a_pid_file_that_was_copied_does_not_matter(
    production: Production, cold: tuple[Programs, Path], work: Path
) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    shutil.copy(production.data / "postmaster.pid", data)
    with scratch(programs, data) as server:
        assert server.databases()


def test_a_stopped_job_ends_a_recovery_that_waits(production: Production, work: Path) -> None:
    data = copy(production.backup, work / "data")
    stop = threading.Event()
    fetched = make_dir(work / "fetched")
    command = f"touch {fetched}/%f; sleep 600"

    def stop_when_fetching() -> None:
        wait_until(lambda: any(fetched.iterdir()))
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


_CHILD = """
import pathlib, sys
from pgproof.model.control_file import parse_control_file
from pgproof.model.job import Job
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import find_programs
from pgproof.postgres.scratch import scratch_server

data = pathlib.Path(sys.argv[2])
control = parse_control_file((data / "global/pg_control").read_bytes())
with scratch_server(
    find_programs(int(sys.argv[1])), data, user=service_user(), control=control,
    sandboxed=sys.argv[3] == "True", job=Job(), timeout=60,
) as server:
    print(server.conninfo("postgres"), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("sandboxed", [True, False])
def test_the_server_dies_with_its_parent(cold: tuple[Programs, Path], work: Path, sandboxed: bool) -> None:
    programs, source = cold
    data = copy(source, work / "data")
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(programs.major), str(data), str(sandboxed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None and child.stdin is not None
    conninfo = child.stdout.readline().decode().strip()
    try:
        with psycopg.connect(conninfo):
            assert processes_in(data)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            wait_until(lambda: not processes_in(data))
    finally:
        child.stdin.close()
        child.stdout.close()
        shutil.rmtree(str(psycopg.conninfo.conninfo_to_dict(conninfo)["host"]))
    with scratch(programs, data) as server:  # crash recovery on what was left
        assert server.databases()


def test_the_sandbox_can_be_switched_off() -> None:
    assert find_sandbox(find_programs(18), USER).isolated
    assert not find_sandbox(find_programs(18), USER, wanted=False).isolated
