"""Coverage-guided fuzzing of every parser, 30 minutes each, two at a time (`uv sync --group fuzz` for atheris).

A target fails when anything but a declared refusal comes out, when an input takes longer than 20 seconds, or
when memory passes the cap. The input that did it is kept; put it into campaigns/corpus/TARGET/ with the repair,
so that `make test` tries it ever after.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from campaigns.campaign import Campaign
from campaigns.fuzz_targets import TARGETS

SECONDS = 30 * 60
CORPUS = Path(__file__).parent / "corpus"
_AT_ONCE = 2
_MEMORY_MB = 1024
_INPUT_SECONDS = 20
_MAX_INPUT = 20_000
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_PEAK = re.compile(r"stat::peak_rss_mb:\s+(\d+)")


@dataclass(frozen=True)
class Outcome:
    target: str
    status: int
    executed: int
    peak_mb: int
    log: Path


def run(campaign: Campaign) -> None:
    if importlib.util.find_spec("atheris") is None:
        raise LookupError("atheris is not installed: uv sync --group fuzz")
    seconds = campaign.times(SECONDS)
    names = _chosen()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        outcomes = list(pool.map(lambda name: fuzz(campaign, name, seconds), names))
    for outcome in outcomes:
        campaign.count("targets")
        campaign.count("inputs", outcome.executed)
        campaign.count(f"inputs of {outcome.target}", outcome.executed)
        campaign.notes[f"peak MB of {outcome.target}"] = outcome.peak_mb
    campaign.notes["minutes for each target"] = round(seconds / 60, 1)
    failed = [
        f"{outcome.target} (status {outcome.status}, {outcome.log})" for outcome in outcomes if outcome.status
    ]
    if failed:
        raise AssertionError(f"fuzzing found defects: {'; '.join(failed)}")
    campaign.require("inputs", 1_000_000, least=len(names))


def _chosen() -> list[str]:
    """All targets, or those that PGPROOF_FUZZ_TARGETS names."""
    wanted = os.environ.get("PGPROOF_FUZZ_TARGETS", "").split()
    return wanted or list(TARGETS)


def fuzz(campaign: Campaign, name: str, seconds: int) -> Outcome:
    """One target in a process of its own, beginning with its seeds and what was ever found."""
    place = campaign.place / name
    corpus = place / "corpus"
    corpus.mkdir(parents=True)
    for number, seed in enumerate(inputs(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    log = place / "log"
    command = [sys.executable, "-m", "campaigns.fuzz_child", name, str(corpus)]
    command += [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-timeout={_INPUT_SECONDS}",
        f"-max_len={_MAX_INPUT}",
        f"-seed={campaign.random(name).randrange(1, 1 << 31)}",
        f"-artifact_prefix={place}/found-",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(errors="replace")
    print(f"  {name}: status {done.returncode}, {_last(_EXECUTED, text):,} inputs", flush=True)
    return Outcome(name, done.returncode, _last(_EXECUTED, text), _last(_PEAK, text), log)


def inputs(name: str) -> list[bytes]:
    """The seeds of a target and the inputs that once broke it."""
    stored = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    return [*TARGETS[name].seeds(), *(path.read_bytes() for path in stored)]


def _last(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.findall(text)
    return int(found[-1]) if found else 0
