"""pg_control as we read it is what pg_controldata says, and a damaged one is never believed."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.control_file import CONTROL_FILE, ControlFile, parse_control_file
from pgproof.postgres.osuser import give_to, service_user
from pgproof.postgres.programs import find_programs, run

# The label pg_controldata prints for each field, and how a field is printed.
_LABELS = {
    "system_identifier": "Database system identifier",
    "pg_control_version": "pg_control version number",
    "catalog_version": "Catalog version number",
    "state": "Database cluster state",
    "checkpoint_lsn": "Latest checkpoint location",
    "redo_lsn": "Latest checkpoint's REDO location",
    "timeline": "Latest checkpoint's TimeLineID",
    "checkpoint_time": "Time of latest checkpoint",
    "min_recovery_point": "Minimum recovery ending location",
    "min_recovery_timeline": "Min recovery ending loc's timeline",
    "backup_start": "Backup start location",
    "backup_end": "Backup end location",
    "wal_level": "wal_level setting",
    "wal_log_hints": "wal_log_hints setting",
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
    "track_commit_timestamp": "track_commit_timestamp setting",
    "block_size": "Database block size",
    "segment_blocks": "Blocks per segment of large relation",
    "wal_block_size": "WAL block size",
    "wal_segment_size": "Bytes per WAL segment",
    "data_checksum_version": "Data page checksum version",
}


@pytest.fixture(scope="module", params=[15, 17, 18])
def cluster(request: pytest.FixtureRequest) -> Iterator[tuple[int, Path, bytes]]:
    """A cluster that was stopped, with settings that differ from the defaults."""
    programs, user = find_programs(request.param), service_user()
    base = Path(tempfile.mkdtemp(prefix="pgproof-test-"))
    give_to(user, base)
    data = base / "data"
    try:
        initdb: list[str | Path] = [
            programs.path("initdb"),
            "-D",
            data,
            "-U",
            "boss",
            "--no-sync",
            "--wal-segsize=2",
            "-k",
        ]
        run(initdb, user=user, timeout=120, what="initdb")
        with (data / "postgresql.conf").open("a") as conf:
            conf.write("max_connections = 37\nmax_worker_processes = 11\nmax_wal_senders = 7\n")
            conf.write("max_prepared_transactions = 5\nmax_locks_per_transaction = 96\nwal_level = logical\n")
            conf.write("wal_log_hints = on\ntrack_commit_timestamp = on\nlisten_addresses = ''\n")
            conf.write(f"unix_socket_directories = '{base}'\n")
        control: list[str | Path] = [programs.path("pg_ctl"), "-D", data, "-w", "-l", base / "log"]
        run([*control, "start"], user=user, timeout=120, what="pg_ctl start")
        run([*control, "stop"], user=user, timeout=120, what="pg_ctl stop")
        yield request.param, data, (data / CONTROL_FILE).read_bytes()
    finally:
        shutil.rmtree(base)


def test_every_field_is_what_pg_controldata_prints(cluster: tuple[int, Path, bytes]) -> None:
    major, data, raw = cluster
    printed = run(
        [find_programs(major).path("pg_controldata"), data], user=service_user(), timeout=60, what="read"
    )
    said = {
        label: value.strip() for label, _, value in (line.partition(":") for line in printed.splitlines())
    }
    control = parse_control_file(raw)
    for name, label in _LABELS.items():
        value = getattr(control, name)
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        text = f"{value:%c}" if isinstance(value, datetime) else text
        assert text == said[label], name
    assert set(_LABELS) == set(ControlFile.__slots__)


def test_minima_are_named_as_settings(cluster: tuple[int, Path, bytes]) -> None:
    assert parse_control_file(cluster[2]).minima == {
        "max_connections": "37",
        "max_worker_processes": "11",
        "max_wal_senders": "7",
        "max_prepared_transactions": "5",
        "max_locks_per_transaction": "96",
    }


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 287), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(cluster: tuple[int, Path, bytes], position: int, bit: int) -> None:
    damaged = bytearray(cluster[2])
    damaged[position] ^= 1 << bit
    with pytest.raises(DataError):
        parse_control_file(bytes(damaged))


@pytest.mark.parametrize("size", [0, 19, 287, 291])
def test_a_cut_file_is_refused(cluster: tuple[int, Path, bytes], size: int) -> None:
    with pytest.raises(DataError, match="too short"):
        parse_control_file(cluster[2][:size])


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(DataError, match="pg_control_version=2100"):
        parse_control_file(struct.pack("<QII", 1, 2100, 1) + bytes(8176))
