"""The manifest: what was committed is read back, and anything else is a DataError, never another exception."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.config import BackupType
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import (
    DumpedDatabase,
    ExternalConfig,
    Manifest,
    MapRef,
    Tablespace,
    backup_id_for,
    is_backup_id,
)
from pgproof.model.report import Finding

counts = st.integers(0, 2**62)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
times = st.datetimes(
    datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))])
)
ids = st.builds(
    backup_id_for, times, st.sampled_from(BackupType), st.integers(0, 0xFFFFFF).map(lambda n: f"{n:06x}")
)
hashes = st.integers(0, 2**256 - 1).map(lambda n: f"{n:064x}")


databases = st.builds(
    DumpedDatabase,
    oid=st.integers(1, 2**32 - 1),
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
    size_bytes=counts,
    encoding=texts,
    provider=st.sampled_from(["libc", "icu", "builtin"]),
    collate=texts,
    ctype=texts,
    locale=texts,
    tables=counts,
    everything=st.booleans(),
)
refs = st.builds(MapRef, hashes, st.binary(), counts, counts, counts)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    start = draw(st.integers(0, 2**63))
    segment_size = draw(st.sampled_from([1 << n for n in range(20, 31)]))
    return Manifest(
        backup_id=draw(ids),
        cluster=draw(texts),
        type=draw(st.sampled_from(BackupType)),
        method="physical",
        parent_id=draw(st.none() | ids),
        started_at=draw(times),
        finished_at=draw(times),
        size_bytes=draw(counts),
        stored_bytes=draw(counts),
        files=draw(counts),
        start_lsn=Lsn(start),
        stop_lsn=Lsn(start + draw(st.integers(0, segment_size << 10))),
        timeline=draw(st.integers(1, 2**32 - 1)),
        wal_segment_size=segment_size,
        system_identifier=str(draw(st.integers(0, 2**64 - 1))),
        server_version=draw(st.sampled_from(["15.20", "17.10", "18.6", "19beta1"])),
        block_size=draw(st.sampled_from([4096, 8192, 32768])),
        data_checksums=draw(st.booleans()),
        change_detection="none",
        maps=tuple(
            sorted(draw(st.lists(refs, max_size=3, unique_by=attrgetter("first"))), key=attrgetter("first"))
        ),
        packs=draw(st.dictionaries(ids, st.binary(max_size=5), max_size=3)),
        tablespaces=tuple(
            draw(
                st.lists(
                    st.builds(Tablespace, counts, st.binary(), counts),
                    max_size=2,
                    unique_by=(attrgetter("oid"), attrgetter("location")),
                )
            )
        ),
        external_config=tuple(
            draw(st.lists(st.builds(ExternalConfig, texts, texts, st.none() | st.binary()), max_size=2))
        ),
        settings=draw(st.dictionaries(texts, texts, max_size=3)),
        findings=tuple(draw(st.lists(st.builds(Finding, texts, texts, st.booleans()), max_size=3))),
        seconds=draw(st.dictionaries(texts, st.integers(0, 9999).map(float), max_size=2)),
    )


@given(manifests())
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.wal_segments[0].start <= manifest.start_lsn
    assert manifest.info().to_json()["backup_id"] == manifest.backup_id


@given(
    manifests(),
    st.lists(databases, min_size=1, max_size=3, unique_by=(attrgetter("oid"), attrgetter("name"))),
)
def test_a_logical_one_is_read_as_it_was_written(manifest: Manifest, dumped: list[DumpedDatabase]) -> None:
    logical = replace(
        manifest,
        method="logical",
        stop_lsn=manifest.start_lsn,
        tablespaces=(),
        external_config=(),
        databases=tuple(dumped),
    )
    assert Manifest.from_json(json.loads(json.dumps(logical.to_json()))) == logical
    assert logical.wal_segments == []


@pytest.mark.parametrize(
    "change",
    [
        {"databases": []},
        {"databases": "app"},
        {"databases": [{"oid": 5}]},
        {"stop_lsn": "0/1000"},
        {"method": "other"},
        {"method": "physical"},
        {"tablespaces": [{"oid": 1, "location": "L3Q=", "size_bytes": 0}]},
    ],
)
def test_a_logical_one_that_no_writer_makes_is_damage(sample: dict[str, Any], change: dict[str, Any]) -> None:
    app = DumpedDatabase(5, "app", 1, "UTF8", "libc", "C", "C", "", 1, True).to_json()
    good = {
        **sample,
        "method": "logical",
        "stop_lsn": sample["start_lsn"],
        "tablespaces": [],
        "external_config": [],
        "databases": [app],
    }
    Manifest.from_json(good)
    with pytest.raises(DataError):
        Manifest.from_json(good | change)


@pytest.mark.parametrize(
    "change",
    [
        {"oid": 0},
        {"oid": 1 << 32},
        {"name": ""},
        {"name": "a\0b"},
        {"name": "x" * 256},
        {"provider": "evil"},
        {"everything": 1},
        {"size_bytes": -1},
    ],
)
def test_a_database_that_no_server_has_is_damage(sample: dict[str, Any], change: dict[str, Any]) -> None:
    app = DumpedDatabase(5, "app", 1, "UTF8", "libc", "C", "C", "", 1, True).to_json()
    good = {
        **sample,
        "method": "logical",
        "stop_lsn": sample["start_lsn"],
        "tablespaces": [],
        "external_config": [],
        "databases": [app | change],
    }
    with pytest.raises(DataError):
        Manifest.from_json(good)


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    return Manifest(
        backup_id="20261123T213000Z-full-3fa91c",
        cluster="main",
        type=BackupType.FULL,
        method="physical",
        parent_id=None,
        started_at=at,
        finished_at=at,
        size_bytes=1,
        stored_bytes=1,
        files=1,
        start_lsn=Lsn(100),
        stop_lsn=Lsn(200),
        timeline=1,
        wal_segment_size=1 << 24,
        system_identifier="7",
        server_version="18.6",
        block_size=8192,
        data_checksums=True,
        change_detection="none",
        maps=(MapRef("0" * 64, b"PG_VERSION", 1, 1, 1),),
        packs={"20261123T213000Z-full-3fa91c": b"\1"},
        tablespaces=(Tablespace(16385, b"/t", 5),),
        external_config=(ExternalConfig("config_file", "/etc/p", b"x"),),
        settings={"work_mem": "4MB"},
        findings=(Finding("notice", "text", True),),
        seconds={"data": 1.5},
    ).to_json()


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested JSON."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*at, key))


def _changed(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return copy


_WRONG: list[Any] = [
    None,
    True,
    -1,
    1.5,
    1 << 70,
    "",
    "x",
    "\udc80",
    [],
    {},
    [1],
    {"a": 1},
    [[]],
    [{}],
    float("nan"),
]


def test_a_wrong_type_anywhere_is_a_data_error_or_harmless(sample: dict[str, Any]) -> None:
    refused = 0
    for at in _places(sample):
        for wrong in _WRONG:
            try:
                manifest = Manifest.from_json(_changed(sample, at, wrong))
            except DataError:
                refused += 1
                continue
            # Whatever is accepted can be used.
            assert manifest.major_version > 0
            assert manifest.started_at <= datetime.now(UTC) + timedelta(days=99999)
            manifest.info().to_json()
    assert refused > 400


def test_manifests_of_before_are_read(sample: dict[str, Any]) -> None:
    older = {key: value for key, value in sample.items() if key not in ("pages", "standby")}
    assert Manifest.from_json(older) == Manifest.from_json(sample)
    from_standby = {**sample, "standby": {"host": "b:5432", "lag_bytes": 7}, "pages": {"sent": 3}}
    assert Manifest.from_json(from_standby).to_json() == from_standby
    with pytest.raises(DataError, match="does not hold"):
        Manifest.from_json({**sample, "standby": {"host": "b"}})


@pytest.mark.parametrize("name", ["data_checksums", "started_at", "packs", "maps", "stop_lsn", "backup_id"])
def test_a_missing_field_is_refused(sample: dict[str, Any], name: str) -> None:
    with pytest.raises(DataError, match="does not hold"):
        Manifest.from_json({key: value for key, value in sample.items() if key != name})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("format", 2),
        ("backup_id", "../../etc"),
        ("backup_id", "２０２６1123T213000Z-full-3fa91c"),
        ("packs", {"../other": ""}),
        ("block_size", 8191),
        ("wal_segment_size", 3 << 20),
        ("wal_segment_size", 1 << 31),
        ("stop_lsn", "0/1"),
        ("start_lsn", "1_0/0"),
        ("server_version", "²"),
        ("started_at", "2026-11-23T00:00:00"),
        ("data_checksums", "yes"),
        ("size_bytes", True),
    ],
)
def test_a_value_that_no_writer_writes_is_refused(sample: dict[str, Any], name: str, wrong: Any) -> None:
    with pytest.raises(DataError):
        Manifest.from_json({**sample, name: wrong})


@given(times, st.sampled_from(BackupType))
def test_backup_ids_are_known_again(at: datetime, kind: BackupType) -> None:
    assert is_backup_id(backup_id_for(at, kind, "0123ab"))
    assert not is_backup_id(backup_id_for(at, kind, "0123ab") + "\n")


@given(times, st.sampled_from(BackupType), st.lists(ids))
def test_a_new_backup_sorts_behind_all_others(at: datetime, kind: BackupType, others: list[str]) -> None:
    """Those of the same second as well, and those that a wrong clock dated into the future."""
    new = backup_id_for(at.astimezone(UTC), kind, "000000", others)
    assert is_backup_id(new) and all(new > other for other in others)
    assert new[:16] >= f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def test_an_id_of_the_last_year_does_not_stop_backups() -> None:
    """Nobody took that one; whoever put it there shall not keep others from being taken."""
    at = datetime(2026, 11, 26, tzinfo=UTC)
    assert backup_id_for(at, BackupType.FULL, "0123ab", ["99991231T235959Z-full-ffffff"]).startswith(
        "20261126T"
    )
