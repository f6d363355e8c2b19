"""Whatever a restored cluster tries, it reaches neither production's files nor its archive nor our secrets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgproof.errors import PreconditionError
from pgproof.postgres.programs import Programs, run
from tests.postgres.clusters import (
    USER,
    contents,
    copy,
    make_dir,
    one,
    processes_in,
    running_production,
    scratch,
    sql,
)


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
        before = [contents(path) for path in (production.archive, *spaces)]
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
        assert [contents(path) for path in (production.archive, *spaces)] == before
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
        assert [contents(path) for path in (production.archive, *spaces)] == before
        assert processes_in(data) == set()


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
