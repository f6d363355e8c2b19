"""What a service keeps on its machine, and how it looks at its children: without the service itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pgproof.actions.service_children import Child
from pgproof.actions.service_place import ServicePlace, only_one
from pgproof.actions.watch import state_directory
from pgproof.errors import ConflictError
from pgproof.model.config import BackupConfig


def test_however_often_a_second_service_is_started_it_is_told(tmp_path: Path) -> None:
    """The queue of the first one's socket is full after some."""
    config = BackupConfig(backup_dir=str(tmp_path))
    refused: list[ConflictError] = []

    def start_another() -> None:
        for _ in range(20):
            with pytest.raises(ConflictError, match="runs already") as error, only_one(config):
                pass
            refused.append(error.value)

    with only_one(config):
        others = threading.Thread(target=start_another, daemon=True)
        others.start()
        others.join(30)
    assert len(refused) == 20


def test_an_empty_password_is_made_anew_and_any_other_is_kept(tmp_path: Path) -> None:
    (tmp_path / "password").touch(mode=0o600)
    place = ServicePlace(tmp_path)
    assert place.password().startswith("pgproof:") and len(place.password()) > 30
    assert place.password() == ServicePlace(tmp_path).password()
    assert [path.name for path in tmp_path.iterdir()] == ["password"]
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


def test_of_a_long_log_the_last_words_are_told_and_a_removed_one_is_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child("x", ["true"], {}, tmp_path, output=log)
    assert child._last_words() == ""
    log.write_bytes("ä".encode() * 5000 + b"the end\n")
    told = child._last_words()
    assert told.endswith("the end") and len(told.encode()) < 700


def test_a_unit_remembers_alarms_where_it_may_write() -> None:
    unit = {"STATE_DIRECTORY": "/var/lib/pgproof", "HOME": "/home/pgproof"}
    assert state_directory(unit) == Path("/var/lib/pgproof")
    assert state_directory({**unit, "BACKUP_STATE_DIR": "/srv/state"}) == Path("/srv/state")
    assert state_directory({"HOME": "/home/x"}) == Path("/home/x/.local/state/pgproof")
