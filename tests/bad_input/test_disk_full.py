"""Disks that really run full: the error has the figures, nothing is half there, and the repetition works."""

from __future__ import annotations

from tests.bad_input.program import Program, committed
from tests.bad_input.small_disk import SmallDisk

MEGABYTE = 1 << 20
FULL = "the repository's disk is full"


def test_the_repository(plain: Program) -> None:
    with SmallDisk(24) as disk:
        program, here = plain.with_(BACKUP_DIR=str(disk.path / "repository")), disk.prefix
        program.run("init", prefix=here)
        disk.fill(leave=MEGABYTE)
        error = program.refused("create", message=FULL, hint="free space", prefix=here)
        assert error["facts"]["disk_mb"] == "25.2" and float(error["facts"]["free_mb"]) < 1.1
        assert program.json("list", prefix=here) == []
        assert not committed(disk.view / "repository")
        assert not list((disk.view / "repository").rglob(".staging-*"))
        disk.free()
        disk.fill()
        program.fails_check("repository write and read back", "free space", prefix=here)
        program.refused("create", message=FULL, hint="free space", prefix=here)
        disk.free()
        backup = program.json("create", prefix=here)
        assert [info["backup_id"] for info in program.json("list", prefix=here)] == [backup["backup_id"]]
        assert program.json("verify", "latest", "--level", "frames", prefix=here)["ok"] is True


def test_a_new_repository(plain: Program) -> None:
    with SmallDisk(4) as disk:
        program = plain.with_(BACKUP_DIR=str(disk.path / "repository"))
        disk.fill()
        program.refused("init", message=FULL, hint="free space", prefix=disk.prefix)
        disk.free()
        program.run("init", prefix=disk.prefix)


def test_the_target_of_a_restore(stocked: Program) -> None:
    with SmallDisk(120) as disk:
        arguments = ["restore", "latest", "--data-dir", str(disk.path / "data"), "--no-recover"]
        disk.fill(leave=20 * MEGABYTE)
        for more in ([], ["--plan"]):
            error = stocked.refused(
                *arguments, *more, message="not enough room", hint="nothing was written", prefix=disk.prefix
            )
            assert error["facts"]["needed_mb"] > error["facts"]["free_mb"] >= 19
        assert not (disk.view / "data").exists()
        disk.free()
        stocked.run(*arguments, prefix=disk.prefix)
        assert (disk.view / "data" / "global" / "pg_control").exists()


def test_a_target_that_fills_up_on_the_way(stocked: Program) -> None:
    # There is room for the bytes, but not for so many files.
    with SmallDisk(120, files=300) as disk:
        arguments = ["restore", "latest", "--data-dir", str(disk.path / "data"), "--no-recover"]
        error = stocked.refused(
            *arguments, message="the target's disk is full", hint="free space", prefix=disk.prefix
        )
        assert error["facts"]["free_files"] == 0 and error["facts"]["free_mb"] > 0
        assert (disk.view / "data").exists()
        assert not (disk.view / "data" / "global" / "pg_control").exists()


def test_the_scratch_directory_of_a_verification(stocked: Program) -> None:
    with SmallDisk(20) as disk:
        env = {"TMPDIR": str(disk.path)}
        error = stocked.refused(
            "verify", "latest", message="not enough room", hint="free space", env=env, prefix=disk.prefix
        )
        assert error["facts"]["needed_mb"] > error["facts"]["free_mb"]
        assert not list(disk.view.iterdir())
    assert (
        stocked.json("list")[-1]["verified"] is None
    )  # that a machine is too small says nothing of a backup
