"""The forgetful disk is an ordinary file system until the power is cut, and then forgets what bad writers left."""

from __future__ import annotations

import errno
import os
import random
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgproof.repository.local import LocalBucket
from tests.support import machine
from tests.support.forgetful_fs import CHANGES, ForgetfulDisk, Rule
from tests.support.postgres import Cluster
from tests.support.templates import new_data_dir

CONTENT = bytes(range(256)) * 256  # sixteen blocks
CUTS = 40


@pytest.fixture(scope="module")
def disk() -> Iterator[ForgetfulDisk]:
    with ForgetfulDisk() as found:
        yield found


@pytest.fixture
def place(disk: ForgetfulDisk) -> Path:
    """An empty directory on the disk that every cut leaves there."""
    disk.repair()
    place = disk.path / secrets.token_hex(4)
    place.mkdir()
    fsync(disk.path)
    return place


def fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def after_cuts(disk: ForgetfulDisk, write: Callable[[int], None]) -> Iterator[int]:
    """Write, cut the power, switch it on; the number of each time, to be looked at."""
    for number in range(CUTS):
        write(number)
        disk.cut()
        disk.power_on(f"{number}")
        yield number


# What a file system does


def test_it_behaves_as_the_systems_own(disk: ForgetfulDisk, place: Path, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done: set[str] = set()
    for _ in range(3000):
        name, first, second, number = (
            chance.choice(sorted(_CALLS)),
            f"{chance.choice('abc')}/{chance.choice('xyz')}",
            f"{chance.choice('abc')}/{chance.choice('xyz')}",
            chance.randrange(9000),
        )
        first, second = chance.choice([(first, second), (first[0], second), (first[0], second[0])])
        answers = [_outcome(name, root, first, second, number) for root in (place, tmp_path)]
        assert answers[0] == answers[1], (name, first, second, number)
        if answers[0] is None:
            done.add(name)
    assert done == set(_CALLS), "some call never succeeded"
    assert _content(place) == _content(tmp_path) != {}


def _write_at(path: Path, number: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"%d" % number * 300, number)
    os.close(fd)


def _allocate(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, number + 1)


_CALLS: dict[str, Callable[[Path, Path, int], object]] = {
    "write": lambda a, _b, n: _write_at(a, n),
    "replace": lambda a, b, _n: a.replace(b),
    "link": lambda a, b, _n: os.link(a, b, follow_symlinks=False),
    "symlink": lambda a, _b, n: a.symlink_to(f"nowhere {n}"),
    "unlink": lambda a, _b, _n: a.unlink(),
    "mkdir": lambda a, _b, _n: a.mkdir(),
    "rmdir": lambda a, _b, _n: a.rmdir(),
    "truncate": lambda a, _b, n: os.truncate(a, n),
    "allocate": lambda a, _b, n: _allocate(a, n),
    "chmod": lambda a, _b, n: a.chmod(0o600 | n % 8, follow_symlinks=True),
    "exclusive": lambda a, _b, _n: a.open("x").close(),
}


def _outcome(name: str, root: Path, first: str, second: str, number: int) -> int | None:
    try:
        _CALLS[name](root / first, root / second, number)
    except OSError as error:
        # Which of two good reasons a rename or unlink of a directory has differs between file systems.
        return errno.EEXIST if error.errno == errno.ENOTEMPTY else error.errno
    return None


def _content(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes(), status.st_nlink, status.st_size, stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(root))] = content
    return found


def test_nothing_is_answered_while_the_power_is_off(disk: ForgetfulDisk, place: Path) -> None:
    file = place / "file"
    file.write_bytes(CONTENT)
    disk.cut()
    for call in (file.read_bytes, file.unlink, lambda: (place / "other").mkdir(), lambda: fsync(place)):
        with pytest.raises(OSError, match="Input/output error"):
            call()
    assert disk.is_off()
    disk.power_on("")
    assert not disk.is_off()
    (place / "other").mkdir()


def test_a_server_keeps_what_it_has_committed() -> None:
    """PostgreSQL is not harmed where any fsync takes names along, as it expects."""
    with ForgetfulDisk(one_journal=True) as disk:
        assert [_server_survives(disk, str(number)) for number in range(2)] == [True, True]


def _server_survives(disk: ForgetfulDisk, seed: str) -> bool:
    """Whether a committed row is there after a cut and a restart; what lay there before the server is durable."""
    data = disk.path / secrets.token_hex(4)
    made = machine.new_dir("new", owned_by_service=True) / "data"
    new_data_dir(18, ("--wal-segsize=1",), made)
    shutil.move(made, data)
    with Cluster.adopt(data, settings={"fsync": True}) as server:
        disk.sync()
        server.psql("CREATE TABLE facts AS SELECT generate_series(1, 5000) AS g; CHECKPOINT")
        server.psql("INSERT INTO facts SELECT generate_series(1, 5000)")
        disk.cut()
        server.kill9()
    disk.power_on(seed)
    try:
        with Cluster.adopt(data) as server:
            return server.psql("SELECT count(*) FROM facts") == "10000"
    except RuntimeError:
        return False
    finally:
        shutil.rmtree(data)


# What bad writers lose


def test_a_writer_that_does_not_sync_its_file(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        (place / f"{number}").write_bytes(CONTENT)
        fsync(place)

    found = [(place / f"{number}").read_bytes() for number in after_cuts(disk, write)]
    assert b"" in found and CONTENT in found
    assert any(content and content != CONTENT for content in found), "never a part of it"


def test_a_writer_that_does_not_sync_the_directory(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        (place / f"{number}").write_bytes(CONTENT)
        fsync(place / f"{number}")

    paths = [place / f"{number}" for number in after_cuts(disk, write)]
    assert len({path.exists() for path in paths}) == 2
    assert {path.read_bytes() for path in paths if path.exists()} == {CONTENT}


def test_a_writer_that_does_not_sync_the_directory_above(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        file = place / f"{number}" / "file"
        file.parent.mkdir()
        file.write_bytes(CONTENT)
        fsync(file)
        fsync(file.parent)

    assert len({(place / f"{number}/file").exists() for number in after_cuts(disk, write)}) == 2


def test_a_writer_that_renames_what_it_has_not_synced(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        (place / "new").write_bytes(CONTENT)
        (place / "new").rename(place / f"{number}")
        fsync(place)

    assert b"" in {(place / f"{number}").read_bytes() for number in after_cuts(disk, write)}


def test_a_writer_that_links_what_it_has_not_synced(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        (place / f"staged{number}").write_bytes(CONTENT)
        (place / f"{number}").hardlink_to(place / f"staged{number}")
        fsync(place)

    assert b"" in {(place / f"{number}").read_bytes() for number in after_cuts(disk, write)}


def test_a_writer_that_trusts_the_second_sync(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        file = place / f"{number}"
        file.write_bytes(CONTENT)
        disk.arm([Rule(frozenset({"fsync"}), error=errno.EIO)])
        with pytest.raises(OSError, match="Input/output error"):
            fsync(file)
        fsync(file)
        fsync(place)

    found = [(place / f"{number}").read_bytes() for number in after_cuts(disk, write)]
    assert set(found) == {bytes(len(CONTENT)), b""} or CONTENT not in found


def test_changes_that_are_not_synced_survive_each_by_itself(disk: ForgetfulDisk, place: Path) -> None:
    def write(_number: int) -> None:
        for name in "ab":
            (place / name).touch()

    found = set()
    for _number in after_cuts(disk, write):
        found.add("".join(sorted(path.name for path in place.iterdir())))
        for path in place.iterdir():
            path.unlink()
        fsync(place)
    assert found == {"", "a", "b", "ab"}


# What good writers keep


def test_a_rename_is_whole(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        (place / "new").write_bytes(b"%d" % number)
        fsync(place / "new")
        (place / "new").rename(place / "current")

    (place / "current").write_bytes(b"first")
    fsync(place / "current")
    fsync(place)
    found = {(place / "current").read_bytes() for _number in after_cuts(disk, write)}
    assert len(found) > 5


def test_the_repositorys_own_writer_loses_nothing(disk: ForgetfulDisk, place: Path) -> None:
    def write(number: int) -> None:
        LocalBucket(place).create(f"a{number}/b/c", CONTENT)

    for number in after_cuts(disk, write):
        for earlier in range(number + 1):
            assert LocalBucket(place).read(f"a{earlier}/b/c") == CONTENT


# Rules


def test_a_rule_cuts_the_power_before_its_call(disk: ForgetfulDisk, place: Path) -> None:
    disk.arm([Rule(CHANGES, nth=3)])
    (place / "first").touch()
    (place / "second").touch()
    with pytest.raises(OSError, match="Input/output error"):
        (place / "third").touch()
    assert disk.is_off()
    disk.power_on("")
    assert not (place / "third").exists()


@pytest.mark.parametrize("op", sorted(CHANGES - {"syncfs"}))
def test_a_rule_answers_with_its_error(disk: ForgetfulDisk, place: Path, op: str) -> None:
    file, folder = place / "file", place / "folder"
    file.write_bytes(CONTENT)
    folder.mkdir()
    calls: dict[str, Callable[[], object]] = {
        "create": (place / "other").touch,
        "mkdir": (place / "other").mkdir,
        "symlink": lambda: (place / "other").symlink_to("x"),
        "link": lambda: (place / "other").hardlink_to(file),
        "unlink": file.unlink,
        "rmdir": folder.rmdir,
        "rename": lambda: file.rename(place / "other"),
        "write": lambda: file.open("r+b", buffering=0).write(b"x"),
        "truncate": lambda: os.truncate(file, 5),
        "attributes": lambda: file.chmod(0o600),
        "allocate": lambda: _allocate(file, 100_000),
        "fsync": lambda: fsync(file),
        "fsyncdir": lambda: fsync(place),
    }
    disk.arm([Rule(frozenset({op}), error=errno.EDQUOT, path=place.name)])
    with pytest.raises(OSError) as refused:
        calls[op]()
    assert refused.value.errno == errno.EDQUOT
    if op == "fsyncdir":  # the journal could not be written
        with pytest.raises(OSError, match="Read-only file system"):
            (place / "other").touch()
        disk.repair()
    assert file.read_bytes() == CONTENT and folder.exists() and not (place / "other").exists()
    disk.trace()
    calls[op]()
    assert op in [name for name, _path in disk.trace()]
