"""A small repository in place of a very large one (full size: `make campaign`)."""

from __future__ import annotations

from campaigns import large_repository


def test_a_small_one_is_cleaned() -> None:
    found = large_repository.measure(24 * 40)
    assert found["removed"] > 24 * 25
    assert found["objects deleted"] > 10 * found["removed"]
