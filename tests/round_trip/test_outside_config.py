"""Configuration outside the data directory, which BASE_BACKUP does not see."""

from __future__ import annotations

from pathlib import Path

from tests.round_trip.conftest import OpenDoors
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory

_KEPT = Path("config-from-backup")


def test_every_file_of_it_is_put_beside_the_restored_cluster(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory(17, outside_config=True)
    for folder, text in (("site", "work_mem = '5MB'\n"), ("team", "temp_buffers = '9MB'\n")):
        (source.config_dir / folder).mkdir()
        (source.config_dir / folder / "extra.conf").write_text(text)
    with (source.config_dir / "postgresql.conf").open("a") as file:
        file.write("include_dir 'site'\ninclude_dir 'team'\n")
    machine.give_to_service(source.config_dir)
    source.restart()
    assert source.psql("SHOW temp_buffers") == "9MB"

    target = work_dir / "restored"
    doors = front_doors(source)
    report = doors.restore(doors.backup().backup_id, target)
    assert any("config-from-backup" in note for note in report.notes)

    def contents(paths: list[Path]) -> list[bytes]:
        return sorted(path.read_bytes() for path in paths if path.is_file())

    assert contents(list((target / _KEPT).iterdir())) == contents(list(source.config_dir.rglob("*")))
    # It starts as it is, with none of the source's paths; each file's place is told.
    text = (target / "postgresql.conf").read_text()
    assert str(source.config_dir / "team" / "extra.conf") in text
    (target / _KEPT / "pg_hba.conf").replace(target / "pg_hba.conf")
    with Cluster.adopt(target, 17) as restored:
        assert restored.psql("SHOW data_directory") == str(target)
        assert restored.psql("SHOW work_mem") == "4MB"


def test_a_role_that_may_not_see_it_still_gets_a_cluster_that_starts(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory(outside_config=True)
    source.psql("CREATE TABLE t AS SELECT 1 AS one")
    doors = front_doors(source, postgres=source.tcp_config())
    info = doors.backup()
    assert "external-config" in {finding.kind for finding in info.findings}

    target = work_dir / "restored"
    doors.restore(info.backup_id, target)
    (target / "pg_hba.conf").write_text("local all all trust\n")
    with Cluster.adopt(target) as restored:
        assert restored.psql("SELECT one FROM t") == "1"


def test_files_outside_are_kept_when_the_main_one_is_inside(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory()
    outside = work_dir / "site.conf"
    outside.write_text("work_mem = '5MB'\n")
    with (source.data_dir / "postgresql.conf").open("a") as file:
        file.write(f"include '{outside}'\n")
    source.restart()

    target = work_dir / "restored"
    doors = front_doors(source)
    doors.restore(doors.backup().backup_id, target)
    assert (target / _KEPT / "site.conf").read_bytes() == outside.read_bytes()
    kept = (target / "postgresql.conf").read_bytes()
    assert kept == (source.data_dir / "postgresql.conf").read_bytes()
