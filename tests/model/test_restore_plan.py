"""Where a restore puts things, decided before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupType
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import ExternalConfig, Manifest, Tablespace
from pgproof.model.report import Finding
from pgproof.model.restore_plan import RestorePlan, plan_restore, tablespace_map

AT = datetime(2026, 11, 23, tzinfo=UTC)
TWO = (Tablespace(16385, b"/disk1/fast", 10_000_000), Tablespace(16386, b"/disk2/slow", 20_000_000))


def manifest(**fields: Any) -> Manifest:
    ours: dict[str, Any] = {
        "backup_id": "20261123T213000Z-full-3fa91c",
        "cluster": "main",
        "type": BackupType.FULL,
        "method": "physical",
        "parent_id": None,
        "started_at": AT,
        "finished_at": AT,
        "size_bytes": 100_000_000,
        "stored_bytes": 1,
        "files": 1,
        "start_lsn": Lsn(0x2000028),
        "stop_lsn": Lsn(0x3000100),
        "timeline": 1,
        "wal_segment_size": 1 << 24,
        "system_identifier": "7",
        "server_version": "18.6",
        "block_size": 8192,
        "data_checksums": True,
        "change_detection": "none",
        "maps": (),
        "packs": {},
    }
    return Manifest(**{**ours, **fields})


def plan(data_dir: str, mapping: dict[str, str] | None = None, **fields: Any) -> RestorePlan:
    return plan_restore(manifest(**fields), Path(data_dir), mapping or {}, recover=True, owner="postgres")


def test_tablespaces_stay_or_move_as_the_mapping_says() -> None:
    found = plan("/restored", {"/disk2/slow": "/elsewhere"}, tablespaces=TWO)
    assert found.tablespaces == {16385: Path("/disk1/fast"), 16386: Path("/elsewhere")}
    assert found.moved == {"/disk1/fast": "/disk1/fast", "/disk2/slow": "/elsewhere"}


def test_a_mapping_of_a_location_that_is_not_there_is_refused() -> None:
    with pytest.raises(PreconditionError, match="/disk1/fast"):
        plan("/restored", {"/disk9": "/elsewhere"}, tablespaces=TWO)


@pytest.mark.parametrize("new", ["relative", "", "/with\0nul"])
def test_a_new_location_must_be_a_path_from_the_root(new: str) -> None:
    with pytest.raises(PreconditionError, match="absolute"):
        plan("/restored", {"/disk1/fast": new}, tablespaces=TWO)


@pytest.mark.parametrize(
    "mapping",
    [
        {"/disk1/fast": "/restored"},
        {"/disk1/fast": "/restored/ts"},
        {"/disk1/fast": "/"},
        {"/disk1/fast": "/disk2/slow"},
        {"/disk1/fast": "/disk2/slow/below"},
        {"/disk1/fast": "/disk2"},
        {"/disk1/fast": "/other/../restored/ts"},
        {"/disk1/fast": "//restored"},
    ],
)
def test_targets_that_overlap_are_refused(mapping: dict[str, str]) -> None:
    with pytest.raises(PreconditionError, match="overlap"):
        plan("/restored", mapping, tablespaces=TWO)


def test_names_that_only_begin_alike_do_not_overlap() -> None:
    plan("/restored", {"/disk1/fast": "/restored2", "/disk2/slow": "/restored22"}, tablespaces=TWO)


def test_each_place_needs_room_for_what_goes_there() -> None:
    found = plan("/restored", tablespaces=TWO)
    assert found.wal_bytes == 2 << 24
    assert found.needed[Path("/restored")] > 70_000_000 + found.wal_bytes
    assert found.needed[Path("/disk2/slow")] > 20_000_000
    assert sum(found.needed.values()) > 100_000_000 + found.wal_bytes


def test_what_a_person_should_know_is_in_the_plan() -> None:
    findings = (Finding("page-checksum", "3 damaged pages", True), Finding("notice", "harmless", False))
    config = (ExternalConfig("config_file", "/etc/postgresql.conf", None),)
    found = plan(
        "/restored", {"/disk1/fast": "/a"}, tablespaces=TWO, findings=findings, external_config=config
    )
    text = "\n".join(found.lines(AT))
    for part in (
        "3 damaged pages",
        "config-from-backup",
        "/restored",
        "/disk1/fast → /a",
        "postgres",
        "0/3000100",
    ):
        assert part in text
    assert "harmless" not in text
    assert found.to_json()["tablespaces"]["/disk2/slow"] == "/disk2/slow"


locations = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(st.integers(1, 2**32 - 1), locations.map("/".__add__), max_size=4))
def test_the_tablespace_map_is_read_by_the_server_as_it_was_meant(places: dict[int, str]) -> None:
    made = plan("/restored")
    object.__setattr__(made, "tablespaces", {oid: Path(place) for oid, place in places.items()})
    assert _as_the_server_reads(tablespace_map(made)) == {oid: str(Path(p)) for oid, p in places.items()}


def _as_the_server_reads(data: bytes) -> dict[int, str]:
    """read_tablespace_map in src/backend/access/transam/xlogrecovery.c"""
    found, line, escaped = {}, bytearray(), False
    for byte in data:
        if not escaped and byte in b"\r\n":
            if line:
                oid, _space, place = bytes(line).partition(b" ")
                found[int(oid)] = place.decode()
            line.clear()
        elif not escaped and byte == ord("\\"):
            escaped = True
        else:
            line.append(byte)
            escaped = False
    assert not line
    assert not escaped
    return found
