"""The measuring counts what it says: descendants, servers, memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.measure import Command, CommandFailed, measure, tree_cpu

_BURN = "import time\nwhile time.process_time() < 0.3: pass"
# The child is not waited for, and its parent ends at once: its seconds count all the same.
_ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {_BURN!r}])"


def test_cpu_of_a_descendant_that_nobody_waited_for(tmp_path: Path) -> None:
    cost = measure(Command([sys.executable, "-S", "-c", _ORPHAN]), tmp_path / "log")
    assert cost.cpu >= 0.3


def test_memory_of_a_process(tmp_path: Path) -> None:
    command = Command([sys.executable, "-S", "-c", "print(len(bytearray(b'x') * 100_000_000))"])
    cost = measure(command, tmp_path / "log")
    assert 100 <= cost.memory_mb < 200
    assert cost.output == "100000000\n"


def test_cpu_of_a_server_while_a_command_runs(tmp_path: Path) -> None:
    cost = measure(Command([sys.executable, "-S", "-c", _BURN]), tmp_path / "log", server=os.getpid())
    assert cost.server_cpu >= 0.3, "the command is one of our descendants"
    assert tree_cpu(os.getpid()) >= cost.server_cpu


def test_a_failed_command_is_an_error_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)status 3.*no such luck"):
        measure(
            Command([sys.executable, "-S", "-c", "import sys; print('no such luck'); sys.exit(3)"]),
            tmp_path / "log",
        )
