"""What verification says of a repository that somebody changed, and what a restore makes of it.

The steps are those of `verify --level frames` and of a restore without recovery, on a bucket in memory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from campaigns.small_repository import MemoryBucket, Small
from pgproof.actions.materialise import read_essentials, write_control_file, write_files
from pgproof.errors import DataError, PreconditionError
from pgproof.model.job import Job
from pgproof.model.restore_plan import plan_restore
from pgproof.repository import layout
from pgproof.repository.catalog import find_backup
from pgproof.repository.escape_hatch import script_key
from pgproof.repository.integrity import check_frames, check_objects

# A restore does without them: they say nothing about the content of a backup.
NOT_FOR_RESTORES = ("/cluster", "/intent", "/verified/", "/leases/", "restore-without-")
# Behind them nothing can be looked at.
HIDES_THE_REST = ("repository.json", "keys/", "/manifest")
_AT_ONCE = 250


@dataclass(frozen=True)
class Change:
    """Something done to the repository `variant`: new bytes by key (None removes), or one bit of one object.

    `named` are the keys that verification has to name.
    """

    variant: int
    what: str
    named: tuple[str, ...]
    replaced: dict[str, bytes | None] = field(default_factory=dict)
    bit: tuple[int, int] | None = None

    def apply(self, bucket: MemoryBucket) -> None:
        if self.bit is not None:
            at, bit = self.bit
            data = bytearray(bucket.read(self.named[0]))
            data[at] ^= 1 << bit
            bucket.put(self.named[0], bytes(data))
        for key, content in self.replaced.items():
            if content is None:
                bucket.delete(key)
            else:
                bucket.put(key, content)


@dataclass(frozen=True)
class Verdict:
    """Whether all was as it must be (`wrong` is empty), and whether a restore refused."""

    change: Change
    wrong: str
    refused: int
    restored: int


def kind_of(key: str) -> str:
    """The kind of an object, from its key."""
    if key == layout.REPOSITORY:
        return "repository.json"
    if key.startswith(layout.KEYS):
        return "key slot"
    if key == script_key():
        return "script"
    parts = key.removeprefix(layout.CLUSTERS).split("/")
    if parts[1] == "packs" and "." in parts[-1]:
        return "rewritten pack"
    return {"packs": "pack", "maps": "map", "wal": "WAL", "leases": "lease", "cluster": "cluster"}.get(
        parts[1], "verification" if "verified" in parts else parts[-1]
    )


def judge_all(variants: list[Small], changes: Iterable[Change], *, processes: int) -> Iterator[Verdict]:
    """A verdict for each change, by several processes if there is much to do."""
    listed = list(changes)
    if processes <= 1:
        yield from _judge_some(variants, listed)
        return
    with ProcessPoolExecutor(processes, get_context("forkserver"), _prepare, (variants,)) as pool:
        pieces = [listed[at : at + _AT_ONCE] for at in range(0, len(listed), _AT_ONCE)]
        for verdicts in pool.map(_judge_prepared, pieces):
            yield from verdicts


_variants: list[Small] = []


def _prepare(variants: list[Small]) -> None:
    _variants[:] = variants


def _judge_prepared(changes: list[Change]) -> list[Verdict]:
    return list(_judge_some(_variants, changes))


def _judge_some(variants: list[Small], changes: list[Change]) -> Iterator[Verdict]:
    # In memory where there is such a place: a restore syncs the whole file system that it writes to.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="pgproof-rot-", dir=shared if shared.is_dir() else None) as place:
        for change in changes:
            yield judge(variants[change.variant], change, Path(place))


def judge(small: Small, change: Change, place: Path) -> Verdict:
    """Apply the change to a copy; look at it as a verification does, and restore every backup from it."""
    bucket = small.bucket.copy()
    change.apply(bucket)
    said = what_is_said(small, bucket)
    wrong = _not_named(change, said)
    refused = restored = 0
    needed = any(not any(part in key for part in NOT_FOR_RESTORES) for key in change.named)
    for backup in small.backups:
        found = restore(small, bucket, backup, place / "data")
        if isinstance(found, str):
            refused += 1
        else:
            restored += 1
            if found != small.contents[backup]:
                wrong += f"; a restore of {backup} has other content"
    if needed and not refused:
        wrong += "; every backup was restored"
    return Verdict(change, wrong.strip("; "), refused, restored)


def what_is_said(small: Small, bucket: MemoryBucket) -> str:
    """The damage that verifications of all backups name, or the errors they end with."""
    said: list[str] = []
    try:
        repository = small.open(bucket)
    except (DataError, PreconditionError) as error:
        return str(error)
    for backup in small.backups:
        try:
            manifest = find_backup(repository, backup)
            said += check_objects(repository, manifest, Job())[1]
            said += check_frames(repository, manifest, Job())[1]
        except (DataError, PreconditionError) as error:
            said.append(str(error))
    return "\n".join(said)


def _not_named(change: Change, said: str) -> str:
    missing = [key for key in change.named if not is_named(key, said)]
    if not missing or (len(missing) < len(change.named) and _hidden(change)):
        return ""
    return f"not named: {', '.join(missing)}; said: {said[:500]!r}"


def _hidden(change: Change) -> bool:
    return any(part in key for key in change.named for part in HIDES_THE_REST)


def is_named(key: str, said: str) -> bool:
    """Whether damage of that object is told: by its key, or in the words for what lies before any key."""
    kind = kind_of(key)
    if kind in ("pack", "rewritten pack"):
        return key.rpartition("/")[0] in said and key[: key.rindex("/") + 9] in said
    if kind == "manifest" and "no such backup" in said:
        return key.split("/")[3] in said
    if kind == "repository.json":
        return "repository.json" in said or "no repository here" in said
    if kind == "key slot":
        return any(words in said for words in (key, "passphrase does not open", "key slots are missing"))
    return key in said


def restore(small: Small, bucket: MemoryBucket, backup: str, target: Path) -> dict[bytes, bytes | None] | str:
    """The content of what was restored by path, or why nothing was; the target is removed again."""
    try:
        repository = small.open(bucket)
        manifest = find_backup(repository, backup)
        plan = plan_restore(manifest, target, {}, recover=True, owner=None)
        essentials = read_essentials(repository, manifest)
        write_control_file(write_files(repository, manifest, plan, essentials, None, Job()), essentials)
        return contents_of(target)
    except (DataError, PreconditionError) as error:
        assert not (target / "global/pg_control").exists(), "what was refused would start"
        return str(error)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def contents_of(root: Path) -> dict[bytes, bytes | None]:
    found: dict[bytes, bytes | None] = {}
    for path in root.rglob("*"):
        name = bytes(path.relative_to(root))
        if not name.startswith(b"pg_wal/"):
            found[name] = None if path.is_dir() else path.read_bytes()
    return found
