"""Who is named by synchronous_standby_names, as the server reads it."""

from __future__ import annotations

import pytest

from pgproof.model.synchronous import Listed, listed


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", Listed.NO),
        ("other", Listed.NO),
        ("pgproof_stream2, my_pgproof_stream", Listed.NO),
        ("pgproof_stream", Listed.NAMED),
        ("a, PGPROOF_Stream ,b", Listed.NAMED),
        ('"pgproof_stream"', Listed.NAMED),
        ("2 (a, pgproof_stream)", Listed.NAMED),
        ("ANY 1 (a, pgproof_stream)", Listed.NAMED),
        ("first 2 (a,b,pgproof_stream)", Listed.NAMED),
        ("*", Listed.STAR),
        ("FIRST 1 (*)", Listed.STAR),
        ('any 2 ("*", a)', Listed.STAR),
        ("a, *", Listed.STAR),
        ("FIRST 1 (pgproof_stream, *)", Listed.NAMED),
        ('"any"', Listed.NO),
        ('"odd ""name""", x', Listed.NO),
    ],
)
def test_lists(setting: str, expected: Listed) -> None:
    assert listed(setting, "pgproof_stream") is expected
