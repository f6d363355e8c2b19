"""The clock that tests move: programs, and the file system of ours, live by it; lengths of time do not."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta

from tests.support import machine
from tests.support.forgetful_fs import ForgetfulDisk
from tests.support.moved_clock import MovedClock

_PROGRAM = """
import datetime, sys, time
begun = time.monotonic()
for _line in sys.stdin:
    time.sleep(0.01)
    print(time.time(), datetime.datetime.now(datetime.UTC).timestamp(), time.monotonic() - begun, flush=True)
"""


def test_a_program_lives_by_it_also_when_it_is_moved_meanwhile() -> None:
    clock = MovedClock.by(timedelta(days=-3))
    command = [sys.executable, "-c", _PROGRAM]
    environment = machine.environment(**clock.environment)
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin and program.stdout
        for days in (-3, 2, 0):
            clock.move_by(timedelta(days=days))
            program.stdin.write("\n")
            program.stdin.flush()
            answers = [float(each) for each in program.stdout.readline().split()]
            told, also_told, lasted = answers
            for each in (told, also_told):
                assert abs(each - time.time() - days * 86400) < 3600
                assert abs(each - clock.time()) < 3600
            assert 0 < lasted < 3600


def test_a_disk_dates_its_files_by_it() -> None:
    clock = MovedClock.by(timedelta(days=-3))
    with ForgetfulDisk(clock=clock.time) as disk:
        file = disk.path / "file"
        file.write_bytes(b"x")
        assert abs(file.stat().st_mtime - clock.time()) < 3600
        clock.move_by(timedelta(days=2))
        assert abs(file.stat().st_mtime - (time.time() - 3 * 86400)) < 3600, "a date stays"
        file.write_bytes(b"y")
        assert abs(file.stat().st_mtime - clock.time()) < 3600
