"""A database with everything goes into a repository and comes back, on each version and across versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.actions.logical_restore import restore_dump_into
from pgproof.actions.opening import open_repository
from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import BackupMethod, VerifyLevel
from pgproof.model.job import Job
from pgproof.postgres.pg_dump import RestoreOptions
from pgproof.repository.catalog import find_backup
from pgproof.repository.dump_reader import DumpReader
from tests.logical.databases import NAME, make_everything, make_roles, same
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors
from tests.support.postgres import Cluster, ClusterFactory, find_bin
from tests.support.s3 import S3Server

Everything = Callable[[int], Cluster]
WAS_HERE = Path("/tmp/pgproof-was-here")


def reader_of(doors: FrontDoors, backup_id: str = "latest") -> DumpReader:
    repository = open_repository(doors.config)
    return DumpReader(repository, find_backup(repository, backup_id), Job())


def restore(
    doors: FrontDoors, target: Cluster, place: Path, name: str = "back", backup_id: str = "latest"
) -> None:
    reader = reader_of(doors, backup_id)
    (database,) = [each for each in reader.manifest.databases if each.name == NAME]
    target.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    restore_dump_into(
        reader,
        database,
        target.config(),
        name,
        place=place,
        bin_dir=str(find_bin(max(target.major, doors.cluster.major))),
        job=Job(),
    )


@pytest.mark.parametrize(("major", "to"), [(15, 15), (17, 17), (18, 18), (15, 18)])
def test_everything_comes_back_as_it_was(
    major: int,
    to: int,
    everything: Everything,
    front_doors: OpenDoors,
    cluster_factory: ClusterFactory,
    work_dir: Path,
) -> None:
    source = everything(major)
    doors = front_doors(source, method=BackupMethod.LOGICAL)
    info = doors.backup()
    assert (info.method, info.status, info.change_detection) == ("logical", "ok", "none"), info.findings
    assert info.start_lsn == info.stop_lsn
    (app, postgres) = reader_of(doors).manifest.databases
    assert (app.name, app.everything, postgres.name) == (NAME, True, "postgres")
    assert info.size_bytes >= app.size_bytes > 400_000
    target = cluster_factory(to)
    make_roles(target)
    restore(doors, target, work_dir)
    same(source, target, NAME, "back")
    assert not WAS_HERE.exists(), "a name was taken for a command of psql"
    # Nothing is left of the dump, of FIFOs and of passwords.
    assert not [path for path in work_dir.iterdir() if path.name.startswith("pgproof-")]


@pytest.mark.parametrize("major", [15, 17, 18])
def test_it_is_proven_by_a_restore_into_a_new_server(
    major: int, everything: Everything, front_doors: OpenDoors
) -> None:
    doors = front_doors(everything(major), method=BackupMethod.LOGICAL)
    doors.backup()
    report = doors.verify("latest", VerifyLevel.FULL)
    assert report.ok and report.proven, report.checks
    checks = {check.name: check for check in report.checks}
    assert "1,934 rows" in checks[f"restore of {NAME}"].detail
    assert {"pg_amcheck", "pg_visibility", f"dump of {NAME}"} <= checks.keys()
    assert not [name for name in checks if name.startswith("dump of pgproof-")], "our own database"
    assert not WAS_HERE.exists()


def test_a_damaged_frame_stops_a_restore_and_names_the_file(
    everything: Everything, front_doors: OpenDoors, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    doors = front_doors(everything(18), method=BackupMethod.LOGICAL)
    info = doors.backup()
    target = cluster_factory(18)
    make_roles(target)
    (pack,) = (Path(str(doors.config.backup_dir)) / "clusters/main/packs" / info.backup_id).iterdir()
    data = bytearray(pack.read_bytes())
    # In the middle of the large object, which does not compress.
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises(DataError) as damage:
        restore(doors, target, work_dir)
    assert damage.value.context["file"].startswith("databases/"), damage.value
    report = doors.verify(info.backup_id, VerifyLevel.FRAMES)
    assert not report.ok and "databases/" in report.damage[0]
    # The next backup stores again what is damaged.
    healed = doors.backup(info.type.INCREMENTAL)
    assert "healed" in [finding.kind for finding in healed.findings]
    restore(doors, target, work_dir, "healed")
    same(doors.cluster, target, NAME, "healed")


def test_a_target_that_is_not_empty_or_lacks_a_role_is_refused_in_words(
    everything: Everything, front_doors: OpenDoors, cluster_factory: ClusterFactory, work_dir: Path
) -> None:
    doors = front_doors(everything(18), method=BackupMethod.LOGICAL)
    doors.backup()
    target = cluster_factory(18)
    with pytest.raises(PreconditionError, match="a role that the backup names does not exist") as missing:
        restore(doors, target, work_dir)
    assert "everything owner" in missing.value.hint
    reader = reader_of(doors)
    with pytest.raises(PreconditionError, match="not empty"):
        restore_dump_into(
            reader, reader.manifest.databases[0], target.config(), "back", place=work_dir, job=Job()
        )
    target.psql("CREATE DATABASE nobody_s TEMPLATE template0")
    options = RestoreOptions(owners=False, privileges=False)
    selected = replace(options, sections=("pre-data", "data"))
    with pytest.raises(PreconditionError):
        # Policies and user mappings name roles as well, and are no question of owners and rights.
        restore_dump_into(
            reader,
            reader.manifest.databases[0],
            target.config(),
            "nobody_s",
            place=work_dir,
            options=selected,
            job=Job(),
        )


def test_names_that_hold_commands_come_back_as_names(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    source = cluster_factory(18)
    name = "a\\! touch /tmp/pgproof-was-here\n\\q host=x"
    quoted = name.replace('"', '""')
    source.psql(f'CREATE ROLE "{quoted}" LOGIN')
    source.psql(f'CREATE DATABASE "{quoted}" OWNER "{quoted}"')
    with source.connect(name) as connection:
        connection.execute(f'CREATE TABLE "{quoted}" AS SELECT 1 AS "{quoted}"')
        connection.execute(f'ALTER TABLE "{quoted}" OWNER TO "{quoted}"')
    doors = front_doors(source, method=BackupMethod.LOGICAL)
    doors.backup()
    report = doors.verify("latest")
    assert report.proven, report.checks
    assert "1 tables, 1 rows" in {check.name: check for check in report.checks}[f"restore of {name}"].detail
    assert not WAS_HERE.exists()


def test_many_large_objects_and_tables_larger_than_what_is_read_at_once(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory(18)
    make_everything(source)
    source.psql(
        """
        SELECT count(lo_from_bytea(0, decode(repeat(md5(g::text), 2000 + g), 'hex'))) FROM generate_series(1, 300) g;
        CREATE TABLE large AS SELECT g, md5(g::text) AS m FROM generate_series(1, 700000) g;
        CREATE TABLE wide AS SELECT g, repeat(md5(g::text), 40000) AS m FROM generate_series(1, 10) g;
        """,
        NAME,
    )
    doors = front_doors(source, method=BackupMethod.LOGICAL)
    doors.backup()
    target = cluster_factory(18)
    make_roles(target)
    restore(doors, target, work_dir)
    same(source, target, NAME, "back")


def test_a_mirror_has_it_as_well(
    everything: Everything, front_doors: OpenDoors, s3: S3Server, work_dir: Path
) -> None:
    bucket = s3.backup_config(s3_bucket=s3.make_bucket("logical-mirror"))
    fields = {name: getattr(bucket, name) for name in dir(bucket) if name.startswith("s3_")}
    doors = front_doors(everything(18), method=BackupMethod.LOGICAL, **fields)
    info = doors.backup()
    assert info.method == "logical"
    in_bucket = {"backup_dir": None}
    assert doors.backups(**in_bucket) == [info.backup_id]
    report = doors.verify(info.backup_id, VerifyLevel.START, **in_bucket)
    assert report.proven, report.checks
