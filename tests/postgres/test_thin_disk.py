"""What was written and could not be written back is never called durable, whoever was told of it first."""

from __future__ import annotations

import os

import pytest

from pgproof.errors import PreconditionError, TransientError
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.open_files import OpenFiles
from tests.support.mounts import resize, small_disk, sync_anew, thin_disk

MEGABYTE = 1 << 20


@pytest.mark.parametrize("others_are_told", [False, True])
def test_an_error_of_writing_back_reaches_the_restore(others_are_told: bool) -> None:
    with small_disk(12) as below, thin_disk(below) as disk:
        directory = DataDirectory(disk / "data", {}, None)
        directory.make_roots(0o700)
        files = OpenFiles(directory)
        for number in range(20):
            files.write(b"big", 20 * MEGABYTE, 0o600, number * MEGABYTE, memoryview(os.urandom(MEGABYTE)))
        files.close()  # by now it was written back, and dropped
        resize(below, 200)
        if others_are_told:
            assert not sync_anew(disk), "nothing was lost"
            assert sync_anew(disk), "those who come later are told as well"
        with pytest.raises((TransientError, PreconditionError), match="the target's disk"):
            directory.sync()
