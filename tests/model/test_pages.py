"""Page checksums as PostgreSQL computes them: every page of a real cluster passes, and no flipped bit does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pgproof.model.pages import bad_pages, checksums, segment_number
from tests.support.faults import flip_bit
from tests.support.postgres import Cluster

PAGE = 8192


@pytest.fixture(scope="module")
def stopped() -> Iterator[Cluster]:
    """A cluster at rest, so that its files are whole, with a table that has all forks."""
    with Cluster(18) as cluster:
        cluster.psql(
            "CREATE TABLE t AS SELECT g, repeat('x', g % 900) FROM generate_series(1, 9000) g; VACUUM t"
        )
        cluster.stop()
        yield cluster


def _relations(cluster: Cluster) -> list[Path]:
    return [
        path
        for path in [*cluster.data_dir.rglob("base/*/*"), *cluster.data_dir.glob("global/*")]
        if segment_number(str(path.relative_to(cluster.data_dir)).encode()) is not None
        and path.stat().st_size
    ]


def test_every_page_of_a_cluster_passes(stopped: Cluster) -> None:
    pages = 0
    files = _relations(stopped)
    for path in files:
        data = path.read_bytes()
        assert bad_pages(data, 0, PAGE) == [], path
        pages += len(data) // PAGE
    assert {path.name.partition("_")[2] for path in files} >= {"", "fsm", "vm"}
    assert pages > 2500


def test_a_flipped_bit_is_found(stopped: Cluster) -> None:
    data = max(_relations(stopped), key=lambda path: path.stat().st_size).read_bytes()
    for at in random.sample(range(len(data)), 40):
        assert bad_pages(flip_bit(data, at), 0, PAGE) == [at // PAGE]


def test_a_page_in_another_place_is_found(stopped: Cluster) -> None:
    data = max(_relations(stopped), key=lambda path: path.stat().st_size).read_bytes()[: 4 * PAGE]
    swapped = data[PAGE : 2 * PAGE] + data[:PAGE] + data[2 * PAGE :]
    assert bad_pages(swapped, 0, PAGE) == [0, 1]
    assert bad_pages(data, 7, PAGE) == [0, 1, 2, 3]
    assert bad_pages(data[PAGE:], 1, PAGE) == []


def test_pages_that_were_never_used() -> None:
    assert bad_pages(bytes(3 * PAGE), 0, PAGE) == []
    assert bad_pages(bytes(PAGE) + flip_bit(bytes(PAGE), 5000, 0), 0, PAGE) == [1]


def test_a_checksum_is_never_zero() -> None:
    found = checksums(np.random.default_rng(random.randrange(2**32)).bytes(500 * PAGE), 0, PAGE)
    assert found.min() >= 1


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"base/5/16384", 0),
        (b"base/5/16384.1", 1),
        (b"base/5/16384_vm.12", 12),
        (b"base/5/16384_init", 0),
        (b"global/1262", 0),
        (b"pg_tblspc/16385/PG_18_202506291/5/16390_fsm", 0),
        (b"base/5/PG_VERSION", None),
        (b"base/5/pg_filenode.map", None),
        (b"global/pg_control", None),
        (b"pg_xact/0000", None),
        (b"base/5/16384_other", None),
        (b"base/5/16384.1\n", None),
    ],
)
def test_which_files_have_checksums(path: bytes, number: int | None) -> None:
    assert segment_number(path) == number
