"""The database with everything, and what two databases have that can be compared."""

from __future__ import annotations

from pathlib import Path

from tests.support import machine
from tests.support.postgres import Cluster, find_bin

NAME = "everything"
_SCHEMA = Path(__file__).parents[1] / "support" / "everything.sql"
# Rows of a table that is partitioned by the hash of an enum lie in other partitions after a restore.
_MOVES = "*.by_mood_*"
_OTHERWISE = ("\\restrict ", "\\unrestrict ", "-- Dumped ")


def make_everything(cluster: Cluster, name: str = NAME) -> None:
    cluster.psql(f"CREATE DATABASE {name}")
    cluster.psql(_SCHEMA.read_text(), name)


def make_roles(cluster: Cluster) -> None:
    cluster.psql('CREATE ROLE "everything owner"; CREATE ROLE everything_reader')


def dump(cluster: Cluster, database: str, *options: str, major: int | None = None) -> list[str]:
    """The lines of a plain dump, without what is of its own moment; `major` are the programs."""
    program = find_bin(major or cluster.major) / "pg_dump"
    command = [str(program), f"--exclude-table-data={_MOVES}", *options]
    text = machine.run(command, **cluster.libpq_environment(database))
    return [line for line in text.splitlines() if not line.startswith(_OTHERWISE)]


def moving_rows(cluster: Cluster, database: str) -> str:
    return cluster.psql("SELECT feels, n FROM app.by_mood ORDER BY n", database)


def same(one: Cluster, other: Cluster, database: str, restored: str) -> None:
    """Both hold the same; across major versions views are printed otherwise, so there data and names are compared."""
    if one.major == other.major:
        assert dump(one, database) == dump(other, restored)
    else:
        newest = max(one.major, other.major)
        data = [
            dump(each, name, "--data-only", major=newest)
            for each, name in ((one, database), (other, restored))
        ]
        # Tables whose foreign keys go in a circle have no order.
        assert sorted(data[0]) == sorted(data[1]), "the data differ"
        found = [
            [line for line in dump(each, name, "--schema-only", major=newest) if line.startswith("-- Name: ")]
            for each, name in ((one, database), (other, restored))
        ]
        assert found[0] == found[1], "the names differ"
    assert moving_rows(one, database) == moving_rows(other, restored)
