"""One tiny benchmark from beginning to end, on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import data
from bench.__main__ import run, sources
from bench.contender import FULL, INCREMENTAL, RESTORE, TENTH, VERIFY, Contender
from bench.limits import STREAM, Limits
from bench.ours import Ours
from bench.peers import PgBaseBackup
from bench.rounds import check_restored
from bench.table import markdown, rows
from tests.support import machine


def test_us_beside_pg_basebackup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contenders: list[Contender] = [
        Limits(17, everything=False),
        Ours(17, "directory"),
        PgBaseBackup("pg_basebackup", 17),
    ]
    file = tmp_path / "results" / "bench.json"
    with sources([17], gigabytes=0.002, small_tables=20) as clusters:
        results = run(contenders, clusters, 1, machine.new_dir("bench"), file)

        files = data.relation_files(clusters[17].data_dir)
        assert len(files) > 20
        damaged = machine.new_dir("damaged")
        with pytest.raises(AssertionError, match="other sizes"):
            check_restored(damaged, clusters[17], "")

    found = rows(results["measurements"])
    done = {(operation, name) for _major, _place, operation, name in found}
    assert done == {
        (STREAM, "limit"),
        *((operation, "pgproof") for operation in (FULL, RESTORE, VERIFY, INCREMENTAL, TENTH)),
        (FULL, "pg_basebackup"),
    }
    ours, its = (found[17, "directory", FULL, name] for name in ("pgproof", "pg_basebackup"))
    assert 0 < ours.stored_mb < its.stored_mb, "compressed, and not"
    assert min(ours.cpu, ours.server_cpu, ours.memory_mb) > 0
    assert json.loads(file.read_text()) == results
    assert "**pgproof**" in markdown(results)
    assert "pgproof directory restore" in capsys.readouterr().out
