"""What the server says during a backup is never lost: only what is known to be harmless passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.notices import damaged_file, finding_for
from pgproof.model.report import Finding

_FILE = "base/5/16384"


@pytest.mark.parametrize(
    ("message", "kind", "file"),
    [
        ('skipping special file "./log"', "skipped-file", None),
        (
            f'checksum verification failed in file "./{_FILE}", block 3: calculated 1 but expected 2',
            "page-checksum",
            _FILE,
        ),
        (f'file "./{_FILE}" has a total of 7 checksum verification failures', "page-checksum", _FILE),
        (
            f'could not verify checksum in file "./{_FILE}", block 0: read buffer size 1',
            "page-checksum",
            _FILE,
        ),
        ("anything else", "notice", None),
    ],
)
def test_known_warnings(message: str, kind: str, file: str | None) -> None:
    finding = finding_for("WARNING", message)
    assert finding is not None
    assert (finding.kind, finding.degrades) == (kind, True)
    assert message in finding.message
    assert damaged_file(finding) == file


@given(st.text())
def test_no_warning_is_silently_fine(message: str) -> None:
    finding = finding_for("WARNING", message)
    assert finding is not None
    assert finding.degrades


def test_notices_that_tell_nothing_about_the_backup() -> None:
    assert finding_for("NOTICE", "all required WAL segments have been archived") is None


def test_other_findings_name_no_file() -> None:
    assert damaged_file(Finding("notice", f'in file "./{_FILE}"', True)) is None
