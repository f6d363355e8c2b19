from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pgproof
from pgproof.cli.demo_flows import checkout
from pgproof.cli.demo_servers import prefect_environment
from pgproof.cli.demo_state import DemoState, load_state, new_work_dir, remove_demo, save_state, state_file
from pgproof.errors import PreconditionError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def pgproof_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/db_backup.py", "demo", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True)


def test_the_state_survives_and_removing_may_be_repeated() -> None:
    state = DemoState(str(new_work_dir()), "/usr/bin", 4242, prefect_pid=os.getpid())
    save_state(state)
    assert load_state() == state
    # The process with that number (this one) is not a Prefect server of the demo, and so it is left alone.
    remove_demo(state)
    assert not Path(state.work).exists() and load_state() is None
    remove_demo(state)


def test_only_a_directory_that_the_demo_made_is_deleted(tmp_path: Path) -> None:
    remove_demo(DemoState(str(tmp_path), "/usr/bin", 4242))
    assert tmp_path.exists()


def test_a_second_demo_is_refused_and_stop_is_named() -> None:
    save_state(DemoState("/tmp/pgproof-demo-none", "/usr/bin", 4242))
    done = pgproof_demo()
    assert done.returncode == 3
    assert "pgproof demo --stop" in done.stderr
    assert pgproof_demo("--stop").stdout == "The demo is stopped and removed.\n"
    assert pgproof_demo("--stop").stdout == "There is no demo to stop.\n"


def test_a_wheel_says_that_the_demo_needs_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checkout() == ROOT
    monkeypatch.setattr(pgproof, "__file__", str(tmp_path / "site-packages" / "pgproof" / "__init__.py"))
    with pytest.raises(PreconditionError, match="needs a checkout"):
        checkout()


def test_the_users_own_settings_never_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"BACKUP_REPOSITORY_URL": "s3://production", "PGSERVICE": "production", "PREFECT_API_KEY": "k"}
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    environment = prefect_environment(DemoState("/tmp/pgproof-demo-none", "/usr/bin", 4242))
    assert not theirs.keys() & environment.keys()
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4242/api"


def test_the_demo_proves_a_backup_and_leaves_nothing() -> None:
    before = set(Path("/tmp").glob("pgproof-demo-*"))
    done = pgproof_demo("--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["backup"]["status"] == "ok"
    assert answer["backup"]["stored_bytes"] < answer["backup"]["size_bytes"]
    assert answer["verification"]["backup_id"] == answer["backup"]["backup_id"]
    assert answer["verification"]["proven"] is True
    assert answer["kept"] is None
    assert len(answer["seconds"]) == 5
    assert set(Path("/tmp").glob("pgproof-demo-*")) == before
    assert not state_file().exists()


def test_a_kept_demo_can_be_used_and_stopped() -> None:
    try:
        done = pgproof_demo("--keep")
        assert done.returncode == 0, done.stderr
        state = load_state()
        assert state is not None
        commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("  . ")]
        assert len(commands) == 3
        # These are what a person copies into a shell, so a shell runs them here.
        environ = {
            "PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "BACKUP_REPOSITORY_URL": "file:///nowhere"
        }  # fmt: skip
        for command in commands:
            tried = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True)
            assert tried.returncode == 0, f"{command}: {tried.stderr}"
        assert (Path(state.work) / "restored" / "PG_VERSION").exists()
        assert state.env_file.stat().st_mode & 0o777 == 0o600
    finally:
        assert pgproof_demo("--stop").returncode == 0
    assert not Path(state.work).exists()
