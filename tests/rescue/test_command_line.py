"""`restore --table`: what it says to people, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgproof.cli.main import run as pgproof
from tests.support.postgres import Cluster


def options(cluster: Cluster, *more: str) -> list[str]:
    where = ["--host", str(cluster.socket_dir), "--port", str(cluster.port), "--user", "postgres"]
    return ["restore", *where, "--repository", "/nonexistent/place", *more]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--into", "x"], "add --table"),
        (["--merge", "both"], "add --table"),
        (["latest", "--table", "a.b", "--data-dir", "/x"], "leave it out, or --table"),
        (["latest", "--table", "a.b", "--no-recover"], "leave --no-recover out"),
        (["--table", "a.b"], "neither a backup nor a recovery target"),
        (["latest", "--table", "b"], "write SCHEMA.TABLE"),
        (["latest", "--table", "a.b", "--rescued", "c"], "nothing is restored with --rescued"),
        (["--table", "a.b", "--rescued", "c", "--merge", "missing", "--written-by", "7"], "no writer"),
        (["--table", "a.b", "--rescued", "c", "--merge", "missing"], "add --yes"),
        (["latest", "--table", "a.b", "--rows", "100000"], "too many rows"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    pg18: Cluster, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert pgproof(options(pg18, *more)) == 3
    assert words in capsys.readouterr().err


def test_people_see_the_rows_and_how_to_go_on(
    pg18: Cluster, capsys: pytest.CaptureFixture[str], work_dir: Path
) -> None:
    pg18.psql(
        """
        CREATE DATABASE seen;
        \\connect seen
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE t (id int PRIMARY KEY, body text, parent int REFERENCES parent);
        INSERT INTO t SELECT g, E'a\\tlong\\x1b[31m body ' || repeat('x', 100) FROM generate_series(1, 9) g;
        CREATE TABLE before (LIKE t INCLUDING ALL); INSERT INTO before SELECT * FROM t;
        UPDATE before SET parent = 4 WHERE id = 2; DELETE FROM t WHERE id = 1; UPDATE t SET body = NULL WHERE id = 2;
        """
    )
    try:
        more = ["--table", "public.t", "--rescued", "before", "--dbname", "seen"]
        assert pgproof(options(pg18, *more)) == 0
        said = capsys.readouterr().out
        assert "1 row missing, 1 changed, 0 new since" in said
        assert "missing     backup  1   a long\\x1b[31m body xxxxxxxxxxxx…  ∅" in said
        assert "changed     live    2   ∅" in said
        assert "1 changed row would violate t_parent_fkey: (4)" in said
        assert "--table public.t --rescued before --dbname seen --merge both" in said
        assert pgproof(options(pg18, *more, "--merge", "both", "--yes")) == 3
        assert "would violate t_parent_fkey" in capsys.readouterr().err
        assert pgproof(options(pg18, *more, "--merge", "missing", "--yes", "--json")) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["merge"]["inserted"] == 1 and document["comparison"]["changed"] == 1
    finally:
        pg18.psql("DROP DATABASE seen")
