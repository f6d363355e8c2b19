"""`check` on a set-up that is right, and on repositories that are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgproof.actions.check_setup import compare_clocks
from tests.bad_input.conftest import over_tcp
from tests.bad_input.program import WITHOUT_ROOTS_RIGHTS, Program
from tests.support import machine
from tests.support.postgres import Cluster

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


def test_everything_that_a_backup_needs_is_looked_at(stocked: Program) -> None:
    checks = stocked.checks()
    assert all(checks[name]["ok"] is True and checks[name]["detail"] for name in (
        "replication connection",
        "server",
        "WAL senders",
        "replication slots",
        "repository",
        "repository write and read back",
        "cluster main is this one",
        "programs for verification",
        "ordinary connection",
        "role may replicate",
        "wal_level",
        "clocks agree",
    ))  # fmt: skip
    assert "GRANT pg_read_all_settings TO bk_stream" in checks["external-config"]["detail"]


def test_people_see_the_remedy_below_what_failed(stocked: Program) -> None:
    said = stocked.run("check", status=7, env={"BACKUP_PASSPHRASE": "a wrong passphrase"}).stdout
    lines = said.splitlines()
    failed = next(number for number, line in enumerate(lines) if line.startswith("✗"))
    assert lines[failed] == "✗ repository: the passphrase does not open this repository"
    assert lines[failed + 1].startswith("  HINT: check BACKUP_PASSPHRASE")


def test_check_changes_nothing(stocked: Program) -> None:
    place = Path(stocked.environ["BACKUP_DIR"])
    before = sorted(place.rglob("*"))
    stocked.checks()
    assert sorted(place.rglob("*")) == before


def test_the_repository_of_another_cluster(stocked: Program, pg17: Cluster) -> None:
    other = over_tcp(pg17)
    error = stocked.refused("create", message="another cluster", hint="--cluster", env=other)
    assert error["facts"]["expected"] != error["facts"]["found"]
    stocked.fails_check("cluster main is this one", "--cluster", env=other)
    checks = {check["name"] for check in stocked.json("check", "--cluster", "second", env=other)["checks"]}
    assert "cluster second is this one" in checks


def test_a_repository_that_cannot_be_written(plain: Program, tmp_path: Path) -> None:
    program = plain.with_(BACKUP_DIR=str(tmp_path / "repository"))
    program.run("init")
    for folder in (tmp_path / "repository", *(tmp_path / "repository").rglob("*")):
        folder.chmod(0o500 if folder.is_dir() else 0o400)
    hint = "make it belong to the user who runs this"
    program.fails_check("repository write and read back", hint, prefix=WITHOUT_ROOTS_RIGHTS)
    program.refused(
        "create", message="no permission in the repository", hint=hint, prefix=WITHOUT_ROOTS_RIGHTS
    )
    (tmp_path / "repository").chmod(0o700)


def test_programs_that_are_missing_do_not_prevent_backups(plain: Program, work_dir: Path) -> None:
    config = work_dir / "pgproof.toml"
    config.write_text(f'[backup]\nbin_dir = "{work_dir}"\n')
    checks = plain.checks(env={"PGPROOF_CONFIG": str(config)})
    assert checks["programs for verification"]["ok"] is None
    assert "holds no PostgreSQL programs" in checks["programs for verification"]["detail"]


def test_clocks_that_are_apart() -> None:
    assert compare_clocks(NOW, NOW - timedelta(seconds=59)).ok is True
    for apart in (timedelta(seconds=61), -timedelta(hours=1)):
        check = compare_clocks(NOW, NOW + apart)
        assert check.ok is False and "NTP" in check.hint
        assert f"{abs(apart.total_seconds()):.1f} s apart" in check.detail


def test_an_unmounted_disk(plain: Program) -> None:
    missing = machine.new_dir("gone") / "repository"
    env = {"BACKUP_DIR": str(missing)}
    for command in ("create", "list", "stats"):
        plain.refused(command, message="the repository's directory is missing", hint="mount", env=env)
    assert "pgproof init" in plain.fails_check("repository", "mount", env=env)
    assert not missing.exists()
