"""One tiny benchmark from beginning to end, on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import data, pages
from bench.__main__ import markdown
from bench.backups import record, sources
from bench.contender import DELTA, FULL, INCREMENTAL, RESTORE, TENTH, VERIFY, Contender
from bench.limits import STREAM, Limits
from bench.ours import SUMMARIES, Ours
from bench.peers import PgBaseBackup, PgIncremental
from bench.recording import Results, about
from bench.rounds import check_restored
from bench.table import rows
from tests.support import machine


def test_us_beside_pg_basebackup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contenders: list[Contender] = [
        Limits(17, everything=False),
        Ours(17, "directory"),
        Ours(17, "directory", "summaries"),
        PgBaseBackup("pg_basebackup", 17),
        PgIncremental(17),
    ]
    results = Results(tmp_path / "results" / "bench.json")
    with sources([17], gigabytes=0.002, small_tables=20) as clusters:
        section = results.begin("backups", about([17], 1))
        record(contenders, clusters, 1, machine.new_dir("bench"), section, incrementals=2)

        files = data.relation_files(clusters[17].data_dir)
        assert len(files) > 20
        damaged = machine.new_dir("damaged")
        with pytest.raises(AssertionError, match="other sizes"):
            check_restored(damaged, clusters[17], "")

        before = pages.versions(clusters[17])
        assert not pages.changed(clusters[17], before)
        clusters[17].psql("UPDATE documents SET id = -1 WHERE id = 1")
        changed = pages.changed(clusters[17], before)
        assert 0 < len(changed) <= 20 * 8192, "the page of that row, and what the server keeps of it"
        assert pages.compressed(changed) < len(changed)

    found = rows(section.measurements)
    done = {(operation, name) for _major, _place, operation, name in found}
    combined = PgIncremental(17).name
    assert done == {
        (STREAM, "limit"),
        *((operation, "pgproof") for operation in (FULL, RESTORE, VERIFY, INCREMENTAL, TENTH, DELTA)),
        (INCREMENTAL, SUMMARIES),
        (TENTH, SUMMARIES),
        (FULL, "pg_basebackup"),
        (INCREMENTAL, combined),
        (TENTH, combined),
    }
    ours, its = (found[17, "directory", FULL, name] for name in ("pgproof", "pg_basebackup"))
    assert 0 < ours.stored_mb < its.stored_mb, "compressed, and not"
    assert min(ours.cpu, ours.server_cpu, ours.memory_mb) > 0
    assert found[17, "directory", INCREMENTAL, SUMMARIES].changed_mb > 0
    assert Results(tmp_path / "results" / "bench.json").sections == results.sections
    assert "**pgproof**" in markdown(results.sections)
    assert "pgproof directory restore" in capsys.readouterr().out
