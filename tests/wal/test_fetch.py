"""What is handed to a server: whole, checked, bounded ahead; an absence is proven or it is an error."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.actions.wal_ahead import WalServer
from pgproof.actions.wal_fetch import WalFetcher
from pgproof.actions.wal_serving import config_as_toml
from pgproof.cli.settings import read_config_file
from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_commands import ABSENT, FAILED_FETCH, as_setting, restore_command_by_client
from pgproof.model.wal_coverage import Promise
from pgproof.model.wal_names import StoredRange
from pgproof.postgres.wal_spool import Spool, write_atomically
from pgproof.repository.local import LocalBucket
from pgproof.repository.wal_archive import WalArchive
from tests.support.faults import FailingBucket, flip_bit, replace
from tests.support.machine import wait_until
from tests.wal.segments import SIZE, archive_in, content, leave, segment


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    place = tmp_path / "data" / "pg_wal"
    place.mkdir(parents=True)
    return place


@pytest.fixture
def archive(tmp_path: Path) -> WalArchive:
    (tmp_path / "repo").mkdir()
    return archive_in(LocalBucket(tmp_path / "repo"))


@pytest.fixture
def spool(pg_wal: Path) -> Iterator[Spool]:
    with Spool.of(pg_wal.parent, None) as found:
        yield found


def fill(archive: WalArchive, numbers: range, timeline: int = 1) -> None:
    for number in numbers:
        of = segment(number, timeline)
        archive.create(StoredRange(of, 0, SIZE), content(of), 1)


def files(spool: Spool) -> set[str]:
    return {path.name for path in spool.folder.iterdir()}


# what is found


def bytes_of(fetcher: WalFetcher, name: str) -> bytes | None:
    found = fetcher.find(name)
    return None if found is None else b"".join(found.chunks)


def test_the_end_of_the_wal_is_absent_and_a_hole_is_an_error(archive: WalArchive) -> None:
    fill(archive, range(5, 8))
    fetcher = WalFetcher(archive, grace=0)
    assert bytes_of(fetcher, segment(7).name) == content(segment(7))
    assert bytes_of(fetcher, segment(8).name) is None
    fill(archive, range(9, 10))
    with pytest.raises(DataError, match="more behind it"):
        fetcher.find(segment(8).name)
    fill(archive, range(8, 9))
    assert bytes_of(fetcher, segment(8).name) == content(segment(8))


def test_a_segment_that_is_still_on_its_way_is_waited_for(archive: WalArchive) -> None:
    fill(archive, range(9, 10))
    seen: list[str] = []

    class Late:
        """The bucket, in which the missing segment arrives after the first look."""

        def __init__(self) -> None:
            self._bucket = archive.repository.bucket

        def list(self, prefix: str, after: str = ""):  # type: ignore[no-untyped-def]
            seen.append(prefix)
            listed = list(self._bucket.list(prefix, after))
            if len(seen) == 1:
                real.create(StoredRange(segment(8), 0, SIZE), content(segment(8)), 1)
            return listed

        def __getattr__(self, verb: str):  # type: ignore[no-untyped-def]
            return getattr(self._bucket, verb)

    real = WalArchive(
        type(archive.repository)(archive.repository.bucket, archive.repository.key, "main"),
        archive.system_identifier,
        SIZE,
    )
    archive.repository.bucket = Late()  # type: ignore[assignment]
    assert bytes_of(WalFetcher(archive, grace=5), segment(8).name) == content(segment(8))
    assert len(seen) == 2


def test_parts_that_a_streamer_replaces_meanwhile(archive: WalArchive) -> None:
    """Between the list and the reading the segment became whole, and its parts were removed."""
    fill(archive, range(4, 5))
    whole = content(segment(5))
    for start, end in ((0, 9000), (9000, 20000)):
        archive.create(StoredRange(segment(5), start, end), whole[start:end], 1)
    bucket, layout = archive.repository.bucket, archive.repository.layout

    class Replaced:
        def list(self, prefix: str, after: str = ""):  # type: ignore[no-untyped-def]
            listed = list(bucket.list(prefix, after))
            archive.repository.bucket = bucket
            fill(archive, range(5, 6))
            for start, end in ((0, 9000), (9000, 20000)):
                bucket.delete(layout.wal_range(StoredRange(segment(5), start, end)))
            return listed

        def __getattr__(self, verb: str):  # type: ignore[no-untyped-def]
            return getattr(bucket, verb)

    archive.repository.bucket = Replaced()  # type: ignore[assignment]
    assert bytes_of(WalFetcher(archive, grace=0), segment(5).name) == whole


def test_the_open_segment_comes_with_zeros_behind_its_end(archive: WalArchive) -> None:
    whole = content(segment(5))
    for start, end in ((0, 9000), (9000, 20000)):
        archive.create(StoredRange(segment(5), start, end), whole[start:end], 1)
    fetcher = WalFetcher(archive, grace=0)
    found = fetcher.find(segment(5).name)
    assert found is not None and not found.whole
    assert b"".join(found.chunks) == whole[:20000] + bytes(SIZE - 20000)
    archive.create(StoredRange(segment(5), 20001, 20010), whole[20001:20010], 1)
    with pytest.raises(DataError, match="more behind it"):
        fetcher.find(segment(5).name)


def test_a_promise_is_kept_to_its_end_and_no_further(archive: WalArchive) -> None:
    fill(archive, range(5, 7))
    fill(archive, range(20, 21))
    promise = Promise(TimelineHistory(1), segment(6).end)
    fetcher = WalFetcher(archive, promise, grace=0)
    assert bytes_of(fetcher, segment(6).name) is not None
    assert bytes_of(fetcher, segment(7).name) is None, "behind what was promised nothing need be there"
    further = WalFetcher(archive, Promise(TimelineHistory(1), segment(7).start + 1), grace=0)
    with pytest.raises(DataError, match="missing in the middle"):
        further.find(segment(7).name)


def test_a_promise_along_a_switch_asks_nothing_of_the_newer_timeline_before_it(archive: WalArchive) -> None:
    history = TimelineHistory(2, (Switch(1, segment(6).start + 5000),))
    fill(archive, range(5, 7))
    fetcher = WalFetcher(archive, Promise(history, segment(6).start + 5000), grace=0)
    assert bytes_of(fetcher, segment(6, 2).name) is None
    assert bytes_of(fetcher, segment(6).name) is not None
    assert bytes_of(fetcher, segment(7).name) is None
    further = WalFetcher(archive, Promise(history, segment(6).start + 5001), grace=0)
    with pytest.raises(DataError, match="missing in the middle"):
        further.find(segment(6, 2).name)


def test_a_file_without_anything_of_its_own_timeline_is_absent(archive: WalArchive) -> None:
    line = f"1\t{segment(6).start + 5000}\tx\n".encode()
    archive.create_history(2, line)
    beginning = content(segment(6, 2), timeline=1)
    archive.create(StoredRange(segment(6, 2), 0, 4000), beginning[:4000], 1)
    fetcher = WalFetcher(archive, grace=0)
    assert bytes_of(fetcher, segment(6, 2).name) is None
    archive.create(StoredRange(segment(6, 2), 4000, 6000), beginning[4000:6000], 1)
    assert bytes_of(fetcher, segment(6, 2).name) is not None
    assert bytes_of(fetcher, "00000002.history") == line


def test_a_timeline_with_wal_and_no_history_is_not_told_absent(archive: WalArchive) -> None:
    fetcher = WalFetcher(archive, grace=0)
    assert fetcher.find("00000004.history") is None
    fill(archive, range(5, 6), timeline=4)
    with pytest.raises(DataError, match="no history file"):
        fetcher.find("00000004.history")


def test_damage_and_outage_are_never_an_absence(archive: WalArchive, tmp_path: Path) -> None:
    fill(archive, range(5, 8))
    path = tmp_path / "repo" / archive.repository.layout.segment(segment(6))
    whole = path.read_bytes()
    fetcher = WalFetcher(archive, grace=0)
    for at in range(0, len(whole), len(whole) // 23):
        replace(path, flip_bit(whole, at))
        with pytest.raises(DataError):
            bytes_of(fetcher, segment(6).name)
    replace(path, whole[: len(whole) // 2])
    with pytest.raises(DataError):
        bytes_of(fetcher, segment(6).name)
    archive.repository.bucket = FailingBucket(archive.repository.bucket, 0)
    for name in (segment(6).name, segment(8).name, "00000002.history"):
        with pytest.raises(TransientError):
            fetcher.find(name)


def test_the_wal_of_another_cluster_under_our_name_is_refused(archive: WalArchive) -> None:
    archive.create(StoredRange(segment(5), 0, SIZE), content(segment(5), system=1), 1)
    with pytest.raises(DataError, match="another cluster"):
        bytes_of(WalFetcher(archive, grace=0), segment(5).name)


@pytest.mark.parametrize(
    "name", ["", "x", "../../etc/passwd", "0" * 24, segment(5).name + "x", "RECOVERYXLOG"]
)
def test_what_is_no_name_is_refused(archive: WalArchive, name: str) -> None:
    with pytest.raises(PreconditionError, match="no name of a WAL file"):
        WalFetcher(archive, grace=0).find(name)


# ahead


def test_ahead_lie_as_many_as_fit_and_what_is_taken_is_replaced(archive: WalArchive, spool: Spool) -> None:
    fill(archive, range(5, 20))
    with WalServer(WalFetcher(archive, grace=0), spool, ahead_bytes=3 * SIZE) as server:
        assert server.answer(segment(5).name) == (0, "")
        for taken in range(6, 17):
            expected = {f"served.{segment(5).name}", *(segment(n).name for n in range(taken, taken + 3))}
            wait_until(lambda names=expected: files(spool) == names, f"{taken} and two more")  # type: ignore[misc]
            assert (spool.folder / segment(taken).name).read_bytes() == content(segment(taken))
            (spool.folder / segment(taken).name).unlink()
        wait_until(lambda: segment(19).name in files(spool), "the last one")
        # Somewhere else: nothing of before is kept.
        assert server.answer(segment(8).name) == (0, "")
        wait_until(
            lambda: {n for n in files(spool) if "." not in n} == {segment(n).name for n in (9, 10, 11)},
            "others",
        )


def test_what_is_there_is_handed_over_and_complete(archive: WalArchive, spool: Spool) -> None:
    fill(archive, range(5, 8))
    with WalServer(WalFetcher(archive, grace=0), spool, ahead_bytes=2 * SIZE) as server:
        server.answer(segment(5).name)
        for number in (6, 7):
            assert server.answer(segment(number).name) == (0, "")
            served = spool.folder / f"served.{segment(number).name}"
            assert served.read_bytes() == content(segment(number))
            assert stat.S_IMODE(served.stat().st_mode) == 0o600
        assert server.answer(segment(8).name) == (ABSENT, f"{segment(8).name} is not in the repository")
        assert server.failure is None
        status, message = server.answer("nonsense")
        assert status == FAILED_FETCH and "HINT" in message
        assert isinstance(server.failure, PreconditionError)


def test_nothing_unfinished_is_fetched_ahead(archive: WalArchive, spool: Spool) -> None:
    fill(archive, range(5, 6))
    archive.create(StoredRange(segment(6), 0, 5000), content(segment(6))[:5000], 1)
    with WalServer(WalFetcher(archive, grace=0), spool, ahead_bytes=4 * SIZE) as server:
        server.answer(segment(5).name)
        assert server.answer(segment(6).name)[0] == 0
        assert files(spool) == {f"served.{segment(n).name}" for n in (5, 6)}


def test_the_disk_is_full(archive: WalArchive, pg_wal: Path) -> None:
    """What was fetched ahead gives way to what is asked for; and where that does not help, it is an error."""
    fill(archive, range(5, 12))
    folder = pg_wal / "pgproof"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={3 * SIZE + 65536},mode=700", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        fetcher = WalFetcher(archive, grace=0)
        with Spool(folder, None) as spool:
            # Two ahead fill the disk; of eight some fail, and which ones is not known.
            for ahead in (2, 8):
                with WalServer(fetcher, spool, ahead * SIZE) as server:
                    assert server.answer(segment(5).name)[0] == 0
                    if ahead == 2:
                        full = {f"served.{segment(5).name}", segment(6).name, segment(7).name}
                        wait_until(lambda names=full: files(spool) == names, "the disk to fill")  # type: ignore[misc]
                    assert server.answer(segment(9).name)[0] == 0
                    served = folder / f"served.{segment(9).name}"
                    assert served.read_bytes() == content(segment(9))
                spool.empty()
            (folder / "filler").write_bytes(bytes(2 * SIZE + SIZE // 2))
            with WalServer(fetcher, spool, 0) as server:
                status, message = server.answer(segment(10).name)
                assert (status, "full" in message) == (FAILED_FETCH, True)
                assert files(spool) == {"filler"}
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# the folder


def test_the_folder_is_private_and_links_in_it_lead_nowhere(pg_wal: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    with Spool.of(pg_wal.parent, None) as spool:
        assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
        (spool.folder / "served.x").symlink_to(outside)
        (spool.folder / ".new.served.x").symlink_to(outside)
        spool.put("served.x", [b"new"])
        assert (spool.folder / "served.x").read_bytes() == b"new"
        (spool.folder / "ask").symlink_to(outside)
        with pytest.raises(OSError):
            spool.take_note("ask")
        assert outside.read_text() == "precious"
        spool.remove()
    away = tmp_path / "away"
    away.mkdir()
    (pg_wal / "pgproof").symlink_to(away)
    with pytest.raises(EngineError):
        Spool.of(pg_wal.parent, None)


def test_what_fails_in_the_middle_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(100)
        raise DataError("damaged")

    with pytest.raises(DataError):
        spool.put("served.x", broken())
    assert files(spool) == set()
    target = tmp_path / "target"
    target.write_bytes(b"before")
    with pytest.raises(DataError):
        write_atomically(target, broken())
    assert target.read_bytes() == b"before"
    write_atomically(target, [b"a", b"b"])
    assert target.read_bytes() == b"ab"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["target"]


# what is written down


def test_the_configuration_that_is_left_opens_the_same_repository(tmp_path: Path) -> None:
    config = BackupConfig(
        repository_url="s3://bucket/prefix",
        passphrase='of "the" operator\\ \u007f\n',
        s3_secret_access_key="a secret",
        s3_options={"timeout": "10 s"},
        encryption=True,
        cluster="other",
        compression_level=7,
    )
    place = tmp_path / "config.toml"
    place.write_text(config_as_toml(config))
    place.chmod(0o600)
    assert BackupConfig.from_mapping(read_config_file(place)["backup"]) == config


def test_lines_survive_percent_signs_quotes_and_spaces(tmp_path: Path) -> None:
    place = tmp_path / "a 100% 'quoted' place"
    place.mkdir()
    program = place / "client"
    program.write_text("#!/bin/sh\nexit 44\n")
    program.chmod(0o755)
    line = restore_command_by_client([str(program)], ["start"])
    # As PostgreSQL does it.
    command = line.replace("%%", "\0").replace("%f", segment(5).name).replace("%p", "p").replace("\0", "%")
    assert subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=False).returncode == 1
    assert as_setting("it's a \\") == "'it''s a \\\\'"


def test_a_push_and_a_fetch_by_hand(work_dir: Path, pg_wal: Path) -> None:
    from pgproof.actions.opening import open_repository
    from pgproof.cli.main import run
    from pgproof.repository.sealing import Kind
    from tests.repository.places import new_repository
    from tests.wal.segments import SYSTEM

    root = work_dir / "repo"
    config = new_repository(root, encryption=False)
    place = work_dir / "config.toml"
    place.write_text(config_as_toml(config))
    options = ["--config", str(place)]
    path, target = leave(pg_wal, segment(5)), work_dir / "fetched"
    assert run(["wal", "push", str(path), *options]) == 3, "the cluster is not known yet"
    repository = open_repository(config)
    described = {"format": 1, "system_identifier": str(SYSTEM), "block_size": 8192, "wal_segment_size": SIZE}
    repository.create_json(Kind.CLUSTER, repository.layout.cluster, described)
    assert run(["wal", "push", str(path), *options]) == 0
    assert run(["wal", "fetch", segment(5).name, str(target), *options]) == 0
    assert target.read_bytes() == path.read_bytes()
    leave(pg_wal, segment(5), seed=1)
    assert run(["wal", "push", str(path), *options]) == 6
    assert run(["wal", "push", str(pg_wal / "nonsense"), *options]) == 3
    assert run(["wal", "fetch", segment(6).name, str(target), *options]) == 44
    assert run(["wal", "fetch", "nonsense", str(target), *options]) == 255
    assert run(["wal", "fetch", segment(6).name]) == 255, "a wrong command line is no absence either"
    shutil.move(root, work_dir / "away")
    assert run(["wal", "fetch", segment(6).name, str(target), *options]) == 255
