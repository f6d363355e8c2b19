"""Repositories written by an enemy, given to `list`, `keys list`, `verify` and `restore`.

Nothing is written but below the target and where the plan announced it, no program is started and no connection
made, memory stays under a cap, and whatever is refused is refused in the words of an error that names what it is
about. A tablespace goes to where the manifest says unless the operator maps it, as the plan shows beforehand: only
directories of a PostgreSQL version can appear there.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from campaigns.campaign import Campaign
from campaigns.hostile_guard import Ended, call, run_guarded
from campaigns.hostile_objects import SEALED, UNSEALED, WEIGHTS, Hostile
from campaigns.small_repository import Small, make_small
from pgproof.cli.exits import Exit
from pgproof.cli.main import run as pgproof

OBJECTS = 5000
MEMORY_MB = 1024
# What the accepted bounds of a key derivation take by themselves: one gigabyte.
MEMORY_MB_KEYS = 1400
_ALLOWED = (Exit.OK, Exit.PRECONDITION, Exit.DATA, Exit.NOT_PASSED)
_REPORTED = 5


@dataclass(frozen=True)
class Case:
    """One hostile repository: made from a kind, a suite and a seed, so that a failure can be repeated."""

    kind: str
    encrypted: bool
    seed: str


@dataclass(frozen=True)
class Judged:
    case: Case
    wrong: str
    statuses: tuple[int, ...]
    peak_mb: int


def run(campaign: Campaign) -> None:
    cases = _cases(campaign)
    wrong, peak = [], 0
    with ProcessPoolExecutor(
        os.cpu_count(), get_context("forkserver"), _prepare, (_smalls(campaign),)
    ) as pool:
        for judged in pool.map(judge, cases, chunksize=5):
            campaign.count("repositories")
            campaign.count(f"with {judged.case.kind}")
            campaign.count(
                "refusals", sum(status in (Exit.PRECONDITION, Exit.DATA) for status in judged.statuses)
            )
            campaign.count("verifications not passed", judged.statuses.count(Exit.NOT_PASSED))
            campaign.count("commands that were carried out", judged.statuses.count(Exit.OK))
            peak = max(peak, judged.peak_mb)
            if judged.wrong:
                wrong.append(f"{judged.case}: {judged.wrong}")
    campaign.notes["peak MB of a process"] = peak
    assert not wrong, f"{len(wrong)} cases:\n" + "\n".join(wrong[:_REPORTED])
    for kind in (*SEALED, *UNSEALED):
        campaign.require(f"with {kind}", 30)
    campaign.require("repositories", OBJECTS, least=len(SEALED) + len(UNSEALED))
    campaign.require("refusals", OBJECTS)
    campaign.require("verifications not passed", OBJECTS // 5)


def _cases(campaign: Campaign) -> list[Case]:
    """Each kind at least once, and as often as its weight says; what needs no seal is tried with both suites."""
    random = campaign.random("cases")
    kinds = [*SEALED, *UNSEALED]
    weights = [WEIGHTS.get(kind, 60) for kind in kinds]
    more = campaign.times(OBJECTS, least=len(kinds)) - len(kinds)
    often = [
        kind
        for kind, weight in zip(kinds, weights, strict=True)
        for _ in range(more * weight // sum(weights))
    ]
    others = [*often, *random.choices(kinds, weights, k=more - len(often))]
    random.shuffle(others)
    chosen = [*kinds, *others]
    return [
        Case(kind, kind in UNSEALED and random.random() < 0.6, f"{campaign.seed} {number}")
        for number, kind in enumerate(chosen)
    ]


def _smalls(campaign: Campaign) -> dict[bool, Small]:
    return {
        encrypted: make_small(campaign.random(f"{encrypted}"), encrypted=encrypted)
        for encrypted in (True, False)
    }


_ground: dict[bool, Small] = {}


def _prepare(smalls: dict[bool, Small]) -> None:
    _ground.update(smalls)
    # The program imports late, to start quickly; here it would do so 5,000 times.
    for name in ("asyncio", "pgproof.backup", "pgproof.recovery", "pgproof.actions.verify_backup"):
        importlib.import_module(name)
    gc.freeze()
    for name in [name for name in os.environ if name.startswith(("PG", "BACKUP_", "AWS_"))]:
        del os.environ[name]


def judge(case: Case) -> Judged:
    """Make the repository in a directory of its own, do everything with it, and look at what happened."""
    shared = Path("/dev/shm")
    place = tempfile.mkdtemp(prefix="pgproof-hostile-", dir=shared if shared.is_dir() else None)
    root = Path(place)
    try:
        return _judge(case, root)
    finally:
        shutil.rmtree(root)


def _judge(case: Case, root: Path) -> Judged:
    small = _ground[case.encrypted]
    before = _lay_out(root)
    hostile = {**SEALED, **UNSEALED}[case.kind](small, Random(case.seed), root)
    _store(root / "repository", small, hostile)
    announced = [root / name for name in ("announced", "new\nplace", "\x1b[2Jx")]
    may_write = [root / "repository", root / "target", root / "mapped", *announced]
    ended = run_guarded(lambda: list(_commands(root, small)), may_write)
    wrong = [*_wrong(ended, hostile, small)]
    limit = MEMORY_MB_KEYS if case.kind == "key slots" else MEMORY_MB
    if ended.peak_mb > limit:
        wrong.append(f"{ended.peak_mb} MB of memory")
    if _tree(root / "outside") != before:
        wrong.append("what lies outside was changed")
    wrong += _not_of_a_tablespace(announced)
    return Judged(case, "; ".join(wrong), tuple(result["status"] for result in ended.results), ended.peak_mb)


def _commands(root: Path, small: Small) -> Iterator[dict[str, Any]]:
    common = ["--repository", str(root / "repository"), "--json"]
    os.environ |= {"BACKUP_PASSPHRASE": small.secret} if small.secret else {"BACKUP_ENCRYPTION": "false"}
    # Without programs of PostgreSQL's: what these do in their sandbox is tried elsewhere.
    restore = ["restore", small.backups[0], "--no-recover", "--bin-dir", str(root / "outside")]
    for command in (
        ["list"],
        ["keys", "list"],
        ["verify", small.backups[0], "--level", "frames"],
        [*restore, "--data-dir", str(root / "target"), "--plan"],
        [*restore, "--data-dir", str(root / "target")],
        [*restore, "--data-dir", str(root / "mapped"), "--tablespace", f"/proc/nowhere/t={root}/announced"],
    ):
        yield call(command[0], partial(pgproof, [*command, *common]))
    # For people, too: tables and lines are made of what the repository says.
    yield call("list", partial(pgproof, ["list", *common[:-1]]))


def _lay_out(root: Path) -> dict[str, bytes | None]:
    """What an attack would like to reach."""
    outside = root / "outside"
    (outside / "full").mkdir(parents=True)
    (outside / "full" / "file").write_bytes(b"precious")
    (outside / "file").write_bytes(b"precious")
    (outside / "link").symlink_to(root / "target")
    return _tree(outside)


def _tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in [root, *root.rglob("*")]
    }


def _store(repository: Path, small: Small, hostile: Hostile) -> None:
    objects: dict[str, bytes | None] = {key: data for key, (data, _at) in small.bucket.objects.items()}
    repository.mkdir()
    for key, content in {**objects, **hostile.objects}.items():
        if content is not None and not any(name.startswith(f"{key}/") for name in hostile.objects):
            path = repository / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for key in (*hostile.links, *hostile.pipes, *hostile.sparse):
        (repository / key).parent.mkdir(parents=True, exist_ok=True)
    for key, target in hostile.links.items():
        (repository / key).symlink_to(target)
    for key in hostile.pipes:
        os.mkfifo(repository / key)
    for key, size in hostile.sparse.items():
        with (repository / key).open("wb") as file:
            file.truncate(size)


def _wrong(ended: Ended, hostile: Hostile, small: Small) -> Iterator[str]:
    if ended.status:
        yield f"the process ended with {ended.status}"
    if ended.tried:
        yield f"tried: {ended.tried}"
    for result in ended.results:
        if result["status"] not in _ALLOWED:
            yield f"{result['name']} ended with {result['status']}: {(result['err'] or result['out'])[-1500:]}"
        elif result["status"] == Exit.DATA and not _says_what(result, hostile, small):
            yield f"{result['name']} does not name the object: {result['err']}"


def _says_what(result: dict[str, Any], hostile: Hostile, small: Small) -> bool:
    """An error names the object, or the backup, or a file of it."""
    said = result["out"] + result["err"]
    names = (
        hostile.key,
        small.backups[0],
        "repository.json",
        "key slot",
        "path=",
        "file=",
        '"path"',
        '"file"',
    )
    return any(name in said or json.dumps(name)[1:-1] in said for name in names)


def _not_of_a_tablespace(places: list[Path]) -> list[str]:
    """What a restore put where only the manifest chose: directories above a place, else PostgreSQL's own."""
    return [
        f"{path} in a tablespace"
        for place in places
        for path in place.rglob("*")
        if not path.is_dir() and not any(part.startswith("PG_") for part in path.parts)
    ]
