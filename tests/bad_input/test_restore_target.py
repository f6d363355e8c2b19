"""A restore that cannot go well is refused before the first byte is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_input.program import WITHOUT_ROOTS_RIGHTS, Program
from tests.support import machine
from tests.support.postgres import Cluster, find_bin


def test_a_target_that_is_not_empty(stocked: Program, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    arguments = ["restore", "latest", "--data-dir", str(tmp_path)]
    for more in ([], ["--plan"], ["--no-recover"]):
        error = stocked.refused(*arguments, *more, message="not empty", hint="nothing was changed")
        assert error["facts"] == {"path": str(tmp_path), "found": "precious"}
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_target_that_a_server_uses(stocked: Program, server: Cluster) -> None:
    stocked.refused(
        "restore",
        "latest",
        "--data-dir",
        str(server.data_dir),
        message="a server uses this directory",
        hint="into another one",
    )
    assert server.psql("SELECT 1") == "1"


def test_a_target_that_is_a_file_or_below_one(stocked: Program, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for target in (file, file / "data"):
        stocked.refused(
            "restore",
            "latest",
            "--data-dir",
            str(target),
            message="not a directory",
            hint="nothing was changed",
        )
    assert file.read_text() == "precious"


def test_a_target_where_we_may_not_write(stocked: Program, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    arguments = ["restore", "latest", "--data-dir", str(closed / "new" / "data")]
    for more in ([], ["--plan"]):
        stocked.refused(
            *arguments,
            *more,
            message="the target cannot be created here",
            hint=f"write in {closed}",
            prefix=WITHOUT_ROOTS_RIGHTS,
        )
    assert not list(closed.iterdir())


def test_a_target_that_the_servers_user_cannot_reach(stocked: Program, work_dir: Path) -> None:
    closed = work_dir / "closed"
    closed.mkdir(mode=0o700)
    if machine.service_user() is None:
        closed.chmod(0o600)  # we are that user ourselves
    stocked.refused(
        "restore",
        "latest",
        "--data-dir",
        str(closed / "data"),
        message="cannot",
        hint="choose another place",
    )
    closed.chmod(0o700)
    assert not list(closed.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--tablespace", "/nowhere=/elsewhere"], "no tablespace at this location", "its tablespaces are"),
        (
            ["--tablespace", "/a=/b", "--tablespace", "/a=/c"],
            "one tablespace is mapped twice",
            "once for each",
        ),
        (["--bin-dir", "/nowhere"], "holds no PostgreSQL programs", "postgres"),
        (["--bin-dir", str(find_bin(17))], "PostgreSQL 18 is needed", "PostgreSQL 18's programs"),
    ],
)
def test_arguments_that_do_not_fit(
    stocked: Program, work_dir: Path, arguments: list[str], message: str, hint: str
) -> None:
    target = work_dir / "data"
    stocked.refused("restore", "latest", "--data-dir", str(target), *arguments, message=message, hint=hint)
    assert not target.exists()


def test_owners_that_cannot_be(stocked: Program, work_dir: Path) -> None:
    for owner in ("root", "no-such-user"):
        arguments = ["restore", "latest", "--data-dir", str(work_dir / "data"), "--owner", owner]
        error = stocked.json(*arguments, status=3)["error"]
        assert error["hint"] and error["facts"]["user"] == owner
    assert not (work_dir / "data").exists()


def test_verify_without_programs_says_what_is_missing(stocked: Program) -> None:
    stocked.refused(
        "verify",
        "latest",
        "--bin-dir",
        "/nowhere",
        message="holds no PostgreSQL programs",
        hint="leave it out",
    )


def test_a_mapping_that_is_none(stocked: Program) -> None:
    stocked.refused(
        "restore",
        "latest",
        "--data-dir",
        "/nowhere/data",
        "--tablespace",
        "/a",
        status=2,
        message="not OLD=NEW",
        hint="--help",
    )


def test_no_target_at_all(stocked: Program) -> None:
    stocked.refused("restore", message="neither a backup nor a recovery target", hint="--data-dir DIR")
    stocked.refused("restore", "latest", "--database", "app", message="needs a confirmation", hint="--yes")


def test_options_of_a_database_and_of_a_cluster_do_not_mix(stocked: Program) -> None:
    stocked.refused("restore", "latest", "--delta", message="for whole clusters", hint="--data-dir DIR")
    stocked.refused(
        "restore",
        "latest",
        "--data-dir",
        "/nowhere/data",
        "--drop-old",
        message="for one database",
        hint="leave it out",
    )
    stocked.refused(
        "restore",
        "latest",
        "--database",
        "app",
        "--yes",
        "--no-clean",
        "--drop-old",
        message="nothing is replaced",
        hint="leave out",
    )
    stocked.refused(
        "restore",
        "latest",
        "--database",
        "app",
        "--yes",
        "--jobs",
        "0",
        message="out of range",
        hint="1 to 64",
    )
