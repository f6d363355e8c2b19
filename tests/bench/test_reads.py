"""The part `reads` of the benchmark, as small as it goes."""

from __future__ import annotations

from bench import reads


def test_a_small_run_has_every_row_and_its_targets() -> None:
    found = list(reads.measurements(reads=200, rounds=1))
    assert {(each.name, each.clients) for each in found} == {
        (reads.BARE, 1),
        (reads.ROUTER, 1),
        (reads.BARE, 10),
        (reads.ROUTER, 10),
        (reads.WRITES, 1),
        (reads.TOKENS, 1),
        (reads.PLAIN, 1),
    }
    assert all(each.queries > 0 and each.p50 <= each.p99 for each in found)
    text = reads.markdown(found)
    assert "| router, three replicas | 10 |" in text and "overhead at the median" in text
