"""Finding and running PostgreSQL's programs: who runs them, what they inherit, what their failures say."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.errors import Cancelled, PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.postgres.osuser import OsUser, can_reach, give_to, service_user
from pgproof.postgres.programs import find_programs, run


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory under /tmp that other users can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="pgproof-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("major", [15, 17, 18])
def test_the_programs_of_each_version_are_found(major: int) -> None:
    programs = find_programs(major)
    assert programs.major == major
    assert programs.version.split(".")[0] == str(major)
    printed = run([programs.path("pg_dump"), "--version"], user=service_user(), timeout=60, what="pg_dump")
    assert programs.version in printed


def test_a_version_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(PreconditionError, match="apt install postgresql-99"):
        find_programs(99)


def test_a_given_directory_of_another_version_is_named() -> None:
    other = find_programs(15)
    with pytest.raises(PreconditionError, match=f"the given directory holds {other.version}"):
        find_programs(18, str(other.bin_dir))


def test_a_given_directory_without_programs_is_refused(directory: Path) -> None:
    with pytest.raises(PreconditionError, match="holds no PostgreSQL programs"):
        find_programs(18, str(directory))


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(PreconditionError, match="apt install postgresql-15"):
        find_programs(15).path("pg_walsummary")  # came with 17


def test_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    printed = run(["/usr/bin/env"], user=service_user(), env={"PGHOST": "/x"}, timeout=60, what="env")
    names = {line.split("=")[0] for line in printed.splitlines()}
    assert names == {"PATH", "LANG", "LC_MESSAGES", "TZ", "PGHOST"}


def test_a_program_runs_as_the_user_with_no_groups_of_ours() -> None:
    user = service_user()
    printed = run(["/usr/bin/id", "-u"], user=user, timeout=60, what="id")
    assert int(printed) == (user.uid if user else os.geteuid())
    groups = run(["/usr/bin/id", "-G"], user=user, timeout=60, what="id").split()
    assert user is None or groups == [str(user.gid)]


def test_a_failure_carries_what_the_program_said() -> None:
    with pytest.raises(PreconditionError, match="No such file or directory") as caught:
        run(["/bin/ls", "/nowhere/at/all"], user=None, timeout=60, what="listing")
    assert caught.value.context["status"] == 2


def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(TransientError, match="took too long"):
        run(["/bin/sleep", "600"], user=None, timeout=0.1, what="waiting")


def test_a_program_ends_when_the_job_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        run(["/bin/sleep", "600"], user=None, timeout=None, what="waiting", job=Job(stop=stop))


def test_a_program_the_user_cannot_reach_is_named(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy("/bin/true", closed / "true")
    stranger = OsUser("stranger", 4711, 4711)
    assert not can_reach(stranger, closed / "true")
    with pytest.raises(PreconditionError, match="stranger cannot execute true"):
        run([closed / "true"], user=stranger, timeout=60, what="true")


def test_reach_follows_owner_group_and_others(directory: Path) -> None:
    inner = directory / "inner"
    inner.mkdir(mode=0o750)
    owner = OsUser("us", os.geteuid(), 4711)
    member = OsUser("member", 4711, os.getegid())
    stranger = OsUser("stranger", 4711, 4711)
    assert [can_reach(user, inner) for user in (owner, member, stranger)] == [True, True, False]
    assert not can_reach(owner, directory / "missing")


def test_given_directories_belong_to_the_user(directory: Path) -> None:
    user = service_user()
    give_to(user, directory)
    assert directory.stat().st_uid == (user.uid if user else os.geteuid())


def test_an_unknown_user_is_refused() -> None:
    with pytest.raises(PreconditionError, match="nobody-has-this-name"):
        service_user("nobody-has-this-name")
